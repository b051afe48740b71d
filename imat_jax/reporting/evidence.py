"""What the numbers of a table are worth: intervals, comparisons, variance, warnings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from imat_jax import significance, weighted
from imat_jax.cli import UsageError
from imat_jax.data.corpus import DataError
from imat_jax.reporting import literature
from imat_jax.reporting.literature import System
from imat_jax.reporting.runs import Row, Table
from imat_jax.tasks import higher_is_better

SAMPLES = 2000  # of the bootstrap
EXCHANGES = 9999  # of the permutation test
LEVEL = 0.05
PERFECT = {"mae": 0.0}  # the best value there can be; of all other metrics, 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """A metric of a row: its value in each seed, and the interval of their mean over utterances.

    `deviation` is nan for one seed, `low` and `high` without predictions.
    """

    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A row against the baseline, by one metric.

    Attributes:
      difference: row minus baseline, with its interval over utterances (low, high).
      pairs: seeds that both have, over which the exchange of utterances is made.
      p: of the permutation of utterances; holm: the same, corrected for all tests of the table.
      p_runs: of the permutation of whole runs; p_runs_least: the smallest that so many can have.
      detectable: the smallest true difference found in four of five tests like this one.
    """

    row: Row
    metric: str
    difference: float
    low: float
    high: float
    pairs: int
    p: float
    holm: float
    p_runs: float
    p_runs_least: float
    detectable: float

    @property
    def verdict(self) -> str:
        if np.isnan(self.holm) or self.holm > LEVEL:
            return "not told apart"
        better = (self.difference > 0) == higher_is_better(self.metric)
        return "better" if better else "worse"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A table and what it is worth.

    Attributes:
      unit: what was resampled, "utterance" or "group"; units: how many there are.
      cells: {row name: {metric: Cell}}.
      variance: {row name: where the variance of its headline comes from}.
      detectable: the smallest difference of the headline that is found in four of five tests.
    """

    table: Table
    unit: str
    units: int
    groups: int | None
    cells: Mapping[str, Mapping[str, Cell]]
    variance: Mapping[str, significance.Split]
    baseline: Row | None
    comparisons: Sequence[Comparison]
    detectable: float
    published: Sequence[System]
    warnings: Sequence[str]


@dataclasses.dataclass(frozen=True)
class _Scored:
    """A row's predictions, its scores under the bootstrap's weights and without each unit."""

    label: np.ndarray
    outputs: Mapping[int, np.ndarray]  # {seed: [N, K]}
    threshold: float | None
    whole: Mapping[str, np.ndarray]  # {metric: [S]}
    replicates: Mapping[str, np.ndarray]  # {metric: [R]}, of the mean over seeds
    left_out: Mapping[str, np.ndarray]  # {metric: [S, units]}


def weigh(
    table: Table,
    *,
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    unit: str = "utterance",
) -> Evidence:
    """All evidence on a table.

    Args:
      baseline: the row that the others are compared with, by its name or a part of it that no
        other row has; None: the row with the best mean headline on validation.
      metrics: to compare by; (): the headline.
      unit: "utterance", or "group": all utterances of a speaker, video or dialogue as one.

    Raises:
      UsageError: no such row or metric, or no groups are known.
      DataError: predictions of a table are of different utterances.
    """
    headline = table.columns[0]
    metrics = tuple(metrics) or (headline,)
    for metric in metrics:
        if metric not in table.columns:
            raise UsageError(f"--metrics={metric}: {table.protocol} has {', '.join(table.columns)}")
    base = _baseline(table, baseline)
    loaded = {row.name: _load(row, table) for row in table.rows}
    complete = [name for name, runs in loaded.items() if runs is not None]
    ids = loaded[complete[0]][0]["id"] if complete else np.zeros(0)
    group = loaded[complete[0]][0].get("group") if complete else None
    unit_of = _units(unit, group, len(ids), table)
    units = int(unit_of.max()) + 1 if len(unit_of) else 0

    scored = {}
    for row in table.rows:
        if row.name in complete:
            aligned = [_aligned(one, loaded[complete[0]][0], row) for one in loaded[row.name]]
            scored[row.name] = _score(row, table, aligned, unit_of, units)
    cells = {row.name: _cells(row, table, scored.get(row.name)) for row in table.rows}
    comparisons = []
    for row, metric in itertools.product(table.rows, metrics):
        if base and row is not base and row.name in scored and base.name in scored:
            pair = (scored[row.name], scored[base.name])
            comparisons.append(_compare(row, base, metric, table, pair, unit_of, units))
    corrected = significance.holm([c.p for c in comparisons])
    comparisons = [
        dataclasses.replace(c, holm=float(p)) for c, p in zip(comparisons, corrected, strict=True)
    ]
    variance = {
        name: significance.variance_split(_pseudo(one, headline)) for name, one in scored.items()
    }
    published = literature.systems(table.protocol, table.examples)
    return Evidence(
        table, unit, units, None if group is None else len(np.unique(group)),
        cells, variance, base, comparisons,
        _detectable(comparisons, scored, headline, units), published,
        [*_warnings(table, cells, published, complete), *_seed_warnings(comparisons)],
    )  # fmt: skip


def _baseline(table: Table, name: str | None) -> Row | None:
    if len(table.rows) < 2:
        return None
    if name is None:
        headline, split = table.columns[0], "valid"
        if any(split not in run.results for row in table.rows for run in row.runs):
            split = table.split
        sign = 1 if higher_is_better(headline) else -1
        return max(table.rows, key=lambda row: sign * np.mean(row.values(split, headline)))
    exact = [row for row in table.rows if row.name == name]
    found = exact or [row for row in table.rows if name in row.name]
    if len(found) != 1:
        rows = "; ".join(row.name for row in table.rows)
        raise UsageError(f"--baseline={name} is {len(found)} rows of {table.protocol}: {rows}")
    return found[0]


def _load(row: Row, table: Table) -> list[dict[str, np.ndarray]] | None:
    """The predictions of all runs of a row, or None where one has none."""
    found = [run.predictions(table.split) for run in row.runs]
    return None if any(one is None for one in found) else found


def _units(unit: str, group: np.ndarray | None, count: int, table: Table) -> np.ndarray:
    """[N]: the unit that each utterance belongs to."""
    if unit == "utterance":
        return np.arange(count)
    if unit != "group":
        raise UsageError(f'--units is "utterance" or "group", not {unit!r}')
    if group is None:
        raise UsageError(
            f"--units=group: the predictions of {table.protocol} do not say whose an utterance is; "
            "score the runs again with `python -m imat_jax.evaluate --workdir=RUN`"
        )
    return np.unique(group, return_inverse=True)[1]


def _aligned(one: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray], row: Row):
    """The predictions in the order of `first`'s utterances."""
    order, wanted = np.argsort(one["id"]), np.argsort(first["id"])
    if not np.array_equal(one["id"][order], first["id"][wanted]):
        raise DataError(
            f"{row.runs[0].workdir}: its predictions are of other utterances than those it would "
            "be compared with, though the dataset is the same; score these runs again"
        )
    inverse = np.empty_like(order)
    inverse[wanted] = order
    return {name: values[inverse] for name, values in one.items()}


def _score(row: Row, table: Table, aligned, unit_of: np.ndarray, units: int) -> _Scored:
    threshold = row.runs[0].config["task"]["threshold"]
    threshold = None if threshold < 0 else threshold
    scorers = [_scorer(table, one["label"], one["outputs"], threshold) for one in aligned]

    def scores(parts) -> dict[str, np.ndarray]:  # {metric: [S, R]}
        by_seed = [[] for _ in scorers]
        for w in parts:
            w = w[:, unit_of]
            for found, scorer in zip(by_seed, scorers, strict=True):
                found.append(scorer(w))
        stacked = [weighted.stacked(found) for found in by_seed]
        return {key: np.stack([one[key] for one in stacked]) for key in table.columns}

    # The same samples for all rows, so that differences of two rows are paired.
    samples = significance.resample(units, SAMPLES, np.random.default_rng(0))
    return _Scored(
        aligned[0]["label"],
        {run.seed: one["outputs"] for run, one in zip(row.runs, aligned, strict=True)},
        threshold,
        {key: x[:, 0] for key, x in scores([np.ones((1, units))]).items()},
        {key: x.mean(axis=0) for key, x in scores(samples).items()},
        scores(significance.leave_one_out(units)),
    )


def _scorer(table: Table, label, outputs, threshold: float | None) -> weighted.Scorer:
    names = table.first.dataset["class_names"]
    return weighted.scorer(table.task, label, outputs, names, threshold)


def _cells(row: Row, table: Table, scored: _Scored | None) -> dict[str, Cell]:
    cells = {}
    for key in table.columns:
        low = high = float("nan")
        if scored:
            low, high = significance.bca(
                scored.whole[key].mean(),
                scored.replicates[key],
                scored.left_out[key].mean(axis=0),
            )
        cells[key] = Cell(tuple(row.values(table.split, key)), low, high)
    return cells


def _compare(
    row: Row, base: Row, metric: str, table: Table, scored: tuple[_Scored, _Scored],
    unit_of: np.ndarray, units: int,
) -> Comparison:  # fmt: skip
    one, other = scored
    difference = one.whole[metric].mean() - other.whole[metric].mean()
    low, high = significance.bca(
        difference,
        one.replicates[metric] - other.replicates[metric],
        one.left_out[metric].mean(axis=0) - other.left_out[metric].mean(axis=0),
    )
    pairs = _pairs(row.seeds, base.seeds)
    p = float("nan")
    if one.threshold == other.threshold:  # else a decision is not of the output alone
        p = significance.permutation_test(
            _exchange(one, other, pairs, metric, table, unit_of),
            units, np.random.default_rng(1), EXCHANGES,
        )  # fmt: skip
    apart = _pseudo(one, metric).mean(axis=0) - _pseudo(other, metric).mean(axis=0)
    return Comparison(
        row, metric, float(difference), low, high, len(pairs), p, float("nan"),
        significance.permutation_test_of_runs(one.whole[metric], other.whole[metric]),
        2 / math.comb(len(row.runs) + len(base.runs), len(row.runs)),
        significance.minimum_detectable(float(np.std(apart, ddof=1)), units),
    )  # fmt: skip


def _pairs(one: Sequence[int], other: Sequence[int]) -> list[tuple[int, int]]:
    """Seeds to exchange: those that both have, else the first with the first and so on."""
    common = sorted({*one} & {*other})
    return [(s, s) for s in common] or list(zip(one, other, strict=False))


def _exchange(
    one: _Scored, other: _Scored, pairs, metric: str, table: Table, unit_of: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """`difference` of `permutation_test`: of the metric's means over seeds, units exchanged."""
    label = np.concatenate([one.label, other.label])
    scorers = [
        _scorer(table, label, np.concatenate([one.outputs[s], other.outputs[t]]), one.threshold)
        for s, t in pairs
    ]

    def difference(exchanged: np.ndarray) -> np.ndarray:
        swap = exchanged[:, unit_of]
        first = np.hstack([~swap, swap]).astype(float)  # [R, 2N]: whose answer counts as the one's
        return np.mean([s(first)[metric] - s(1 - first)[metric] for s in scorers], axis=0)

    return difference


def _pseudo(scored: _Scored, metric: str) -> np.ndarray:
    """[S, units]: what each unit adds to the metric in each run."""
    return np.stack(
        [
            significance.pseudo_values(whole, left_out)
            for whole, left_out in zip(scored.whole[metric], scored.left_out[metric], strict=True)
        ]
    )


def _detectable(comparisons, scored: Mapping[str, _Scored], headline: str, units: int) -> float:
    """The median over the comparisons; of a single row, that of two rows with separate errors."""
    found = [c.detectable for c in comparisons if c.metric == headline]
    if found:
        return float(np.median(found))
    for one in scored.values():
        deviation = float(np.std(_pseudo(one, headline).mean(axis=0), ddof=1))
        return significance.minimum_detectable(2**0.5 * deviation, units)
    return float("nan")


# ---- Warnings ------------------------------------------------------------------------------------


def _warnings(table: Table, cells, published: list[System], complete: Sequence[str]) -> list[str]:
    """Results too good to be believed at once, results no better than a constant, and gaps."""
    found = []
    for row in table.rows:
        ceiling = row.runs[0].results.get("ceiling", {}).get(table.split)
        doubts: dict[str, list[str]] = {}
        for key, cell in cells[row.name].items():
            top = ceiling if key == "acc" else None
            for why, detail in too_good(cell, key, top, literature.best(published, key)).items():
                doubts.setdefault(why, []).append(detail)
        found += [f"{row.name}: TOO GOOD. {why}: {'; '.join(d)}" for why, d in doubts.items()]
        headline = table.columns[0]
        if not _beats(cells[row.name][headline], headline, table.trivial[headline]):
            found.append(
                f"{row.name}, {headline}: not shown to be better than the best constant answer, "
                f"{table.trivial[headline]:.3f}"
            )
        if row.name not in complete:
            found.append(f"{row.name}: no predictions on {table.split}, so no intervals and tests")
    for run in table.repeated:
        found.append(f"{run.workdir}: seed {run.seed} of this config is there twice; not counted")
    for run in table.unscored:
        found.append(f"{run.workdir}: seed {run.seed} is not scored on {table.split}; not counted")
    if table.outside:
        some = ", ".join(str(run.workdir) for run in table.outside[:3])
        more = ", …" if len(table.outside) > 3 else ""
        found.append(
            f"of configurations that are not scored on {table.split}, and so in no row: "
            f"{len(table.outside)} of the runs, {some}{more}"
        )
    return found


def too_good(
    cell: Cell, metric: str, ceiling: float | None, best: tuple[float, str] | None
) -> dict[str, str]:
    """{why a result is to be doubted before it is believed: by what number}; mostly empty.

    Args:
      ceiling: the best possible value on this split, where it is known.
      best: the best published value with this protocol, and whose it is.
    """
    found = {}
    if np.isclose(cell.mean, PERFECT.get(metric, 1.0), atol=1e-6):
        found["Perfect; look for the label among the features"] = metric
    if ceiling is not None and _beats(cell, metric, ceiling):
        found["Better than is possible on this split"] = f"{metric} {ceiling:.3f}"
    if best is not None and _beats(cell, metric, best[0]):
        found["Better than all that is published with this protocol; look for a leak"] = (
            f"{metric} {best[0]:.3f}, {best[1]}"
        )
    return found


def _beats(cell: Cell, metric: str, value: float) -> bool:
    """Whether the whole interval is better than `value`; the mean, where there is no interval."""
    if higher_is_better(metric):
        return (cell.mean if np.isnan(cell.low) else cell.low) > value
    return (cell.mean if np.isnan(cell.high) else cell.high) < value


def _seed_warnings(comparisons: Sequence[Comparison]) -> list[str]:
    return [
        f"{c.row.name}, {c.metric}: told apart from the baseline on these utterances, but its runs "
        f"do not differ more than seeds do (p over runs {c.p_runs:.3f})"
        for c in comparisons
        if c.verdict != "not told apart" and c.p_runs > LEVEL >= c.p_runs_least
    ]
