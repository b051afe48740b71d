"""How a run does with less: imat robustness --workdir=RUN[,RUN…] [--split=test] [--output=DIR]

Scores the selected checkpoint on every subset of its modalities, and under loss of frames, bursts
and whole modalities and under noise (`analysis/corruptions.py`). Each WORKDIR is a run or a folder
of runs that make one row (seeds): mean ± deviation. Prints tables; writes robustness.json,
curves.png and subsets.png. See docs/robustness.md for what each number means.
"""

from __future__ import annotations

import json
import math
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from imat_jax import config as configs
from imat_jax import inference, metrics, rundir, sharding, tasks
from imat_jax.analysis import corruptions, robustness_plots, runs
from imat_jax.cli import UsageError, run
from imat_jax.data import loader
from imat_jax.data.corpus import subsets
from imat_jax.experiment import Experiment

RATES = tuple(round(0.1 * i, 1) for i in range(10))


def define_flags() -> None:
    flags.DEFINE_list("workdir", None, "Runs, or folders of runs that are one row.", required=True)
    flags.DEFINE_string("split", "test", "Split to score.")
    flags.DEFINE_string("output", None, "Where results go; default: robustness in the first.")
    flags.DEFINE_string("baseline", None, "The WORKDIR that effective robustness is against.")
    flags.DEFINE_string("metric", None, "Default: the task's own headline.")
    flags.DEFINE_list("affected", [], "Modalities that are damaged; default: all of a run's.")
    flags.DEFINE_list("noise", ["0", "0.25", "0.5", "1", "1.5", "2", "3"], "Levels of noise.")
    flags.DEFINE_integer("seed", 0, "Of the damage.")


def make_step(experiment: Experiment, seed: int = 0) -> Callable:
    """`step(params, batch, how) -> (outputs [B, K], frames left [B, M])`, jitted.

    `batch` has each example's `row` in the split. One program a shape does for all conditions.
    """
    here, statistics = tuple(experiment.dims), experiment.dataset.metadata["statistics"]
    deviations = {m: np.asarray(statistics[m]["std"], np.float32) for m in here}

    def step(params, batch, how):
        batch = corruptions.corrupt(batch, batch["index"], how, deviations, seed)
        left = [batch[f"{m}_mask"].sum(axis=1, dtype=jnp.int32) for m in here]
        return inference.forward(experiment, params, batch)[0], jnp.stack(left, axis=1)

    return jax.jit(step, out_shardings=sharding.replicated(experiment.mesh))


def outputs(
    experiment: Experiment,
    params: Any,
    split: str,
    conditions: Sequence[corruptions.Condition],
    step: Callable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs under each condition, and how many frames were left; every record is read once.

    Args:
      step: of `make_step`, where there is a compiled one.

    Returns:
      [C, N, K] float32 and [C, N, M] int, in the order of the dataset's index.
    """
    batches, step = experiment.split(split), step or make_step(experiment)
    config = experiment.config.data
    size = (len(conditions), len(batches.lengths))
    found = np.empty((*size, experiment.task.outputs), np.float32)
    left = np.empty((*size, len(experiment.dims)), int)
    read = loader.read(batches, threads=config.threads, ahead=config.ahead, workers=config.workers)
    for batch, (_, rows) in zip(read, batches.plan(0), strict=True):
        before, _ = batches.around(rows)
        counted = slice(len(before), len(before) + len(rows))
        placed = sharding.put(batch, experiment.mesh)
        pieces = [step(params, placed, how) for how in conditions]
        for c, (values, frames) in enumerate(jax.device_get(pieces)):
            found[c, rows], left[c, rows] = values[counted], frames[counted]
    return found, left


def score_run(
    experiment: Experiment,
    params: Any,
    split: str,
    levels: Mapping[str, Sequence[float]],
    *,
    affected: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of a run: {"subsets": {"text+audio": scores}, "curves": {kind: {"levels", "lost",
    "scores"}}}, scores as `Task.score` has them, `lost` the share of all frames that was lost.

    Args:
      levels: {kind of `corruptions.KINDS`: levels}, the first of each 0.
      affected: modalities to damage; (): all.
    """
    here = tuple(experiment.dims)
    chosen = tuple(m for m in here if m in affected) if affected else here
    label = experiment.dataset.index(split)["label"]
    places = [(kind, level) for kind in levels for level in levels[kind] if level > 0]
    conditions = [corruptions.condition(here, keep=s) for s in subsets(here)]
    conditions += [
        corruptions.condition(here, affected=chosen, **{kind: level}) for kind, level in places
    ]
    step = make_step(experiment, seed)
    found, left = outputs(experiment, params, split, conditions, step)
    count = len(subsets(here))
    with warnings.catch_warnings():  # a constant has no correlation, and that is no news here
        warnings.simplefilter("ignore", metrics.UndefinedMetricWarning)
        scores = [experiment.task.score(label, one) for one in found]
    scores = [{k: v for k, v in one.items() if "/" not in k} for one in scores]
    clean, whole = scores[count - 1], left[count - 1].sum()
    damaged = dict(zip(places, zip(scores[count:], left[count:], strict=True), strict=True))
    curves: dict[str, Any] = {}
    for kind in levels:
        points = [damaged.get((kind, level), (clean, left[count - 1])) for level in levels[kind]]
        curves[kind] = {
            "levels": list(levels[kind]),
            "lost": [float(1 - frames.sum() / whole) for _, frames in points],
            "scores": [values for values, _ in points],
        }
    names = ["+".join(s) for s in subsets(here)]
    return {"subsets": dict(zip(names, scores[:count], strict=True)), "curves": curves}


def mean_height(levels: Sequence[float], values: Sequence[float]) -> float:
    """Area under a curve by trapezoids, over the width of its range: in units of the values."""
    x = np.asarray(levels, float)
    return float(np.trapezoid(np.asarray(values, float), x) / (x[-1] - x[0]))


def effective(
    levels: Sequence[float], values: Sequence[float], baseline: Sequence[float], metric: str
) -> float:
    """Effective robustness: how far the curve lies above the baseline's that begins where it does.

    Mean over the levels of f(x) - [b(x) + f(0) - b(0)], by trapezoids; more is better whatever the
    metric (MultiBench, Liang et al. 2021, after Taori et al. 2020; its code sums over the levels).
    """
    f, b = np.asarray(values, float), np.asarray(baseline, float)
    sign = 1 if tasks.higher_is_better(metric) else -1
    return sign * mean_height(levels, (f - f[0]) - (b - b[0]))


def summarize(rows: Mapping[str, list[dict]], metric: str, baseline: str | None) -> dict[str, Any]:
    """{row: {"subsets": {name: [of each run]}, "curves": {kind: {levels, lost, scores, relative,
    effective}}}} of one metric; lists are over the runs of a row.

    Args:
      rows: {row: `score_run` of its runs}.
      baseline: the row that `effective` is against, by the mean of its runs; None: no such number.
    """
    table: dict[str, Any] = {}
    for name, scored in rows.items():
        subset_scores = {
            s: [one["subsets"][s][metric] for one in scored] for s in scored[0]["subsets"]
        }
        curves = {}
        for kind, curve in scored[0]["curves"].items():
            values = [[v[metric] for v in one["curves"][kind]["scores"]] for one in scored]
            curves[kind] = {
                "levels": curve["levels"],
                "lost": np.mean([one["curves"][kind]["lost"] for one in scored], axis=0).tolist(),
                "scores": values,
                "relative": [mean_height(curve["levels"], v) for v in values],
            }
        table[name] = {"subsets": subset_scores, "curves": curves}
    for row in table.values() if baseline else ():
        for kind, curve in row["curves"].items():
            against = np.mean(table[baseline]["curves"][kind]["scores"], axis=0)
            curve["effective"] = [
                effective(curve["levels"], v, against, metric) for v in curve["scores"]
            ]
    return table


def text(table: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Two tables: subsets of modalities, and curves with their areas."""
    metric = facts["metric"]
    better = "higher" if tasks.higher_is_better(metric) else "lower"
    of = f"{facts['examples']} utterances"
    if facts["sets"] > 1:
        of += f" of {facts['sets']} sets, of which the constant answer is the mean"
    lines = [f"{metric} ({better} is better), {facts['split']}, {of}", ""]
    names, label = list(table), max(20, *(len(n) + 2 for n in table))
    width = max(16, *(len(n) + 2 for n in names))
    lines.append(f"{'modalities':<{label}}" + "".join(f"{n:>{width}}" for n in names))
    ceiling = facts["ceiling"]
    if ceiling:
        lines[-1] += f"{'best possible':>16}"
    for subset in dict.fromkeys(s for row in table.values() for s in row["subsets"]):
        cells = [cell(row["subsets"].get(subset)) for row in table.values()]
        if ceiling:
            cells.append(cell([ceiling[subset]]))
        lines.append(f"{subset:<{label}}" + "".join(f"{c:>{width}}" for c in cells[: len(names)]))
        lines[-1] += "".join(f"{c:>16}" for c in cells[len(names) :])
    lines.append(f"{'(constant answer)':<{label}}{facts['constant']:>{width}.3f}")
    for kind in corruptions.KINDS:
        levels = next(iter(table.values()))["curves"][kind]["levels"]
        lines += ["", f"{robustness_plots.TITLES[kind]}"]
        head = f"{'':<{label}}" + "".join(f"{level:>8g}" for level in levels)
        lines.append(head + f"{'relative':>18}{'effective':>18}")
        for name, row in table.items():
            curve = row["curves"][kind]
            means = np.mean(curve["scores"], axis=0)
            line = f"{name:<{label}}" + "".join(f"{v:>8.3f}" for v in means)
            line += f"{cell(curve['relative']):>18}{cell(curve.get('effective'), '+'):>18}"
            lines.append(line)
        lines += [
            f"{f'(lost, {count})':<{label}}" + "".join(f"{v:>8.3f}" for v in lost)
            for count, lost in _lost(table, kind).items()
        ]
    return "\n".join(lines)


def _lost(table: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
    """{"2 modalities": share of all frames that each level really took, mean over such rows}.

    Empty where nothing is lost. A modality and an utterance never lose all, so the fewer there are
    the less is lost at the same level.
    """
    found: dict[int, list] = {}
    for row in table.values():
        count = max(s.count("+") + 1 for s in row["subsets"])
        found.setdefault(count, []).append(row["curves"][kind]["lost"])
    if not np.any([one for rows in found.values() for one in rows]):
        return {}
    words = {n: f"{n} modalities" if n > 1 else "1 modality" for n in found}
    return {words[n]: np.mean(found[n], axis=0) for n in sorted(found)}


def cell(values: Sequence[float] | None, sign: str = "") -> str:
    if values is None:
        return "–"
    mean = f"{np.mean(values):{sign}.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    levels = dict.fromkeys(corruptions.KINDS[:3], RATES) | {"noise": _levels(f.noise)}
    baseline = f.baseline or (f.workdir[0] if len(f.workdir) > 1 else None)
    if baseline and baseline not in f.workdir:
        raise UsageError(f"--baseline={baseline} is none of --workdir={','.join(f.workdir)}")
    rows: dict[str, list[dict]] = {}
    sets: dict[bytes, dict[str, Any]] = {}  # those that runs were scored on, each once
    for name in f.workdir:
        for workdir in _row(name):
            experiment, params = runs.open_run(workdir)
            unknown = set(f.affected) - set(experiment.dims)
            if unknown:
                raise UsageError(
                    f"--affected={','.join(f.affected)}: {workdir} has {'+'.join(experiment.dims)}"
                )
            mine = _facts(experiment, f.split, f.metric)
            first = next(iter(sets.values()), mine)
            if (mine["protocol"], mine["metric"]) != (first["protocol"], first["metric"]):
                raise UsageError(
                    f"{workdir} is of {mine['protocol']} ({mine['metric']}), the runs before it of "
                    f"{first['protocol']} ({first['metric']}); take one after the other"
                )
            sets.setdefault(_asked(experiment, f.split), mine)
            scored = score_run(
                experiment, params, f.split, levels, affected=f.affected, seed=f.seed
            )
            rows.setdefault(name, []).append(scored | {"workdir": str(workdir)})
    facts = joined([*sets.values()])
    table = summarize(rows, facts["metric"], baseline)
    output = pathlib.Path(f.output or pathlib.Path(f.workdir[0]) / "robustness")
    output.mkdir(parents=True, exist_ok=True)
    with rundir.room(output):
        facts |= {"seed": f.seed, "affected": f.affected, "baseline": baseline}
        found = {"facts": facts, "table": table, "runs": rows}
        rundir.write_json(output / "robustness.json", found)
        robustness_plots.curves(table, facts, output / "curves.png")
        robustness_plots.subsets(table, facts, output / "subsets.png")
    print(text(table, facts))
    print(f"\n{output}/robustness.json curves.png subsets.png")


def _row(path: str) -> list[pathlib.Path]:
    """The finished runs of one row: seeds and folds of one configuration."""
    found = runs.below(path)
    first, *others = (configs.load(workdir).to_dict() for workdir in found)
    for workdir, config in zip(found[1:], others, strict=True):
        same = {"seed": first["seed"], "dataset": first["dataset"]}
        if changed := configs.difference(first, config | same):
            raise UsageError(
                f"{path}: {workdir} differs from {found[0]} in {'; '.join(changed)}, and a row is "
                "of one configuration; name the folders of each"
            )
    seen: dict[tuple, pathlib.Path] = {}
    for workdir, config in zip(found, (first, *others), strict=True):
        data = json.loads((workdir / "results.json").read_text())["dataset"]
        other = seen.setdefault((config["seed"], data), workdir)
        if other != workdir:
            raise UsageError(
                f"{path}: {workdir} has the seed and the dataset of {other}, as after a change of "
                "the code, and would count twice; take one of them away"
            )
    return found


def _levels(values: Sequence[str]) -> tuple[float, ...]:
    try:
        levels = tuple(map(float, values))
    except ValueError:
        levels = ()
    rising = all(map(math.isfinite, levels)) and list(levels) == sorted(set(levels))
    if len(levels) < 2 or levels[0] != 0 or not rising:
        raise UsageError(f"--noise={','.join(values)}: take 0 and then rising levels")
    return levels


def _facts(experiment: Experiment, split: str, metric: str | None) -> dict[str, Any]:
    """What is known of a split before any run is scored on it.

    Raises:
      UsageError: there is no such metric.
    """
    label = experiment.dataset.index(split)["label"]
    constant = trivial(experiment.task, experiment.dataset.index("train")["label"], label)
    metric = check_metric(metric or experiment.task.headline, constant)
    metadata = experiment.dataset.metadata
    return {
        "protocol": metadata["protocol"].partition("/fold")[0],  # folds make one row
        "split": split,
        "examples": len(label),
        "metric": metric,
        "constant": constant[metric],
        "ceiling": ceiling(metadata, split, metric),
    }


def trivial(task: tasks.Task, train_label: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Scores of the best constant answer; all that the task has, whole splits' only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.UndefinedMetricWarning)
        scores = task.score(label, tasks.trivial_outputs(task, train_label, len(label)))
    return {k: v for k, v in scores.items() if "/" not in k}


def check_metric(metric: str, known: Mapping[str, float]) -> str:
    if metric not in known:
        raise UsageError(f"--metric={metric}: there are {', '.join(known)}")
    return metric


def ceiling(metadata: Mapping[str, Any], split: str, metric: str) -> dict[str, float]:
    """{subset: best possible `metric`} where it is known: an accuracy, of synthetic corpora."""
    known = metadata["facts"].get("bayes_accuracy_on_split", {}) if metric == "acc" else {}
    return known.get(split, {})


def joined(sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`_facts` of several sets of utterances, such as of folds, in one: all their examples.

    The constant is the mean of theirs; the best possible is kept where it is the same for all.
    """
    best = sets[0]["ceiling"]
    return dict(sets[0]) | {
        "sets": len(sets),
        "examples": sum(one["examples"] for one in sets),
        "constant": float(np.mean([one["constant"] for one in sets])),
        "ceiling": best if all(one["ceiling"] == best for one in sets) else {},
    }


def _asked(experiment: Experiment, split: str) -> bytes:
    """The same for datasets that ask the same of the same utterances, whatever their features."""
    index, train = experiment.dataset.index(split), experiment.dataset.index("train")
    return b"|".join(map(np.ndarray.tobytes, (index["id"], index["label"], train["label"])))


if __name__ == "__main__":
    run(main, define_flags)
