"""Run directories found, and put into rows (one config, several seeds) and tables (one dataset)."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imat_jax import config as configs
from imat_jax import tasks
from imat_jax.cli import UsageError
from imat_jax.data.corpus import MODALITIES, DataError
from imat_jax.sweeping.state import Sweep, summarize

# The columns of each task, by the metrics' names; the first is the headline.
COLUMNS = {
    "sentiment": ("mae", "corr", "acc7", "acc2_has0", "acc2_non0", "wf1_has0", "wf1_non0"),
    "multiclass": ("acc", "bacc", "wf1", "macro_f1"),
    "multilabel": ("bacc", "wf1", "macro_f1", "auc"),
    "binary_pairs": ("acc", "wf1", "bacc"),
    "dimensions": ("ccc", "mae", "corr"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its directory, and config.json, dataset.json and results.json in it."""

    workdir: pathlib.Path
    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def predictions(self, split: str) -> dict[str, np.ndarray] | None:
        """`id` [N], `label`, `outputs` [N, K] and, if it was known, `group` [N]; None: not kept.

        Of sentiment the outputs are the scores [N, 1], whatever the loss they were learned with.
        """
        path = self.workdir / "predictions" / f"{split}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        if self.dataset["task"] == "sentiment":
            found["outputs"] = tasks.sentiment_of(found["outputs"])[:, None]
        return found


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed, one a seed, by seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    def values(self, split: str, metric: str) -> list[float]:
        return [run.results[split][metric] for run in self.runs]


@dataclasses.dataclass(frozen=True)
class Table:
    """All rows of a dataset.

    Attributes:
      repeated: further runs of a seed that a row has already.
      unscored: runs of these rows' configs without results on the split.
      outside: runs of configs of which none is scored on the split; of the first table also those
        of datasets that have no table.
    """

    split: str
    rows: tuple[Row, ...]
    repeated: tuple[Run, ...]
    unscored: tuple[Run, ...]
    outside: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.rows[0].runs[0]

    @property
    def protocol(self) -> str:
        return self.first.results["protocol"]

    @property
    def task(self) -> str:
        return self.first.dataset["task"]

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS[self.task]

    @property
    def examples(self) -> int:
        return self.first.results[self.split]["examples"]

    @property
    def trivial(self) -> Mapping[str, float]:
        return self.first.results["trivial"][self.split]


@dataclasses.dataclass(frozen=True)
class Found:
    """What lies below the paths given.

    Attributes:
      unfinished: run directories without results, or of a sweep that has not finished them.
      replaced: runs of a sweep that do not count, for those of another version of the code do.
      failed: {run of a sweep that failed: the end of what it said}.
      sweeps: {sweep: its sweep.json, with the counts of its runs as they are now}.
    """

    runs: tuple[Run, ...]
    unfinished: tuple[pathlib.Path, ...]
    replaced: tuple[pathlib.Path, ...]
    failed: Mapping[pathlib.Path, str]
    sweeps: Mapping[pathlib.Path, Mapping[str, Any]]


def collect(paths: Iterable[str]) -> Found:
    """Every run below `paths`.

    Raises:
      UsageError: there is no run below a path.
      DataError: a file of a run cannot be read.
    """
    runs, unfinished, failed, sweeps = {}, {}, {}, {}
    statuses: dict[pathlib.Path, str] = {}
    for path in map(pathlib.Path, paths):
        for record in path.rglob("job.json"):  # of a sweep, also of runs that never began
            job = _read(record)
            statuses[record.parent] = job.get("status", "")
            if job.get("status") == "failed":
                failed[record.parent] = str(job.get("error") or "no word of why").strip()
        found = sorted(p.parent for p in path.rglob("environment.json"))
        found = [p for p in found if (p / "config.json").is_file()]
        if not found:
            raise UsageError(f"{path}: no run directory there, nor below it")
        for workdir in found:
            over = statuses.get(workdir, "finished") == "finished"  # others may have been evaluated
            if over and (workdir / "results.json").is_file():
                files = [_read(workdir / f"{n}.json") for n in ("config", "dataset", "results")]
                runs[workdir.resolve()] = Run(workdir, *files)
            elif workdir not in failed:
                unfinished[workdir.resolve()] = workdir
        above = [p / "sweep.json" for p in path.absolute().parents]
        for record in [*path.rglob("sweep.json"), *filter(pathlib.Path.is_file, above)]:
            sweeps[record.parent] = _sweep(record)
    counted = {
        (root / run).resolve()
        for root, sweep in sweeps.items()
        for one in sweep.get("configurations", ())
        for run in one["runs"]
    }
    roots = {root.resolve() for root in sweeps}
    replaced = [
        run.workdir for w, run in runs.items()
        if run.workdir in statuses and w.parents[1] in roots and w not in counted
    ]  # fmt: skip
    kept = tuple(run for run in runs.values() if run.workdir not in replaced)
    return Found(kept, tuple(unfinished.values()), tuple(replaced), failed, sweeps)


def _sweep(record: pathlib.Path) -> dict[str, Any]:
    # Runs may have ended, or been scored on test by `imat evaluate`, since it was written.
    root = record.parent
    directories = Sweep(root).directories()
    try:
        return _read(record) | (summarize(directories, root) if directories else {})
    except json.JSONDecodeError as error:
        raise DataError(
            f"{root}/runs: a job.json or results.json cannot be read: {error}"
        ) from error


def _read(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}; delete that run, or run it again"
        ) from error


def tables(runs: Sequence[Run], split: str) -> list[Table]:
    """One table a dataset and task, in the order found; runs not scored on `split` are in no row.

    Raises:
      UsageError: no run has results on `split`.
    """
    grouped: dict[Any, dict[str, list[Run]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for run in runs:
        config = {k: v for k, v in run.config.items() if k != "seed"}
        key = (run.results["protocol"], run.results["dataset"], run.dataset["task"])
        grouped[key][json.dumps(config, sort_keys=True)].append(run)
    made = [_table(by_config, split) for by_config in grouped.values()]
    if not any(table.rows for table in made):
        raise UsageError(f"{runs[0].workdir if runs else 'nothing'} has no results on {split!r}")
    first, *others = [table for table in made if table.rows]
    outside = [run for table in made if not table.rows for run in table.outside]
    return [dataclasses.replace(first, outside=(*first.outside, *outside)), *others]


def _table(by_config: Mapping[str, list[Run]], split: str) -> Table:
    scored = {c: [r for r in runs if split in r.results] for c, runs in by_config.items()}
    scored = {config: runs for config, runs in scored.items() if runs}
    unscored = [r for c in scored for r in by_config[c] if split not in r.results]
    outside = [r for c, runs in by_config.items() if c not in scored for r in runs]
    names, rows, repeated = _names(scored), [], []
    for config, runs in scored.items():
        by_seed: dict[int, Run] = {}
        for run in runs:
            if run.seed in by_seed:  # counted twice, it would make the deviation too small
                repeated.append(run)
            by_seed.setdefault(run.seed, run)
        rows.append(Row(names[config], tuple(by_seed[seed] for seed in sorted(by_seed))))
    rows.sort(key=lambda row: (row.name.count("+"), row.name))
    return Table(split, tuple(rows), tuple(repeated), tuple(unscored), tuple(outside))


def _names(by_config: Mapping[str, list[Run]]) -> dict[str, str]:
    """Model and modalities; and, where two rows share those, the keys in which they differ."""
    base = {}
    for config, runs in by_config.items():
        modalities = "+".join(m for m in MODALITIES if m in runs[0].results["modalities"])
        base[config] = f"{runs[0].config['model']['name']} {modalities}"
    names = {}
    for config, name in base.items():
        twins = [json.loads(c) for c, n in base.items() if n == name and c != config]
        changed = {
            line.partition(":")[0]
            for twin in twins
            for line in configs.difference(twin, json.loads(config))
        }
        flat = configs.flatten(json.loads(config))
        names[config] = " ".join([name, *(f"{k}={flat.get(k)}" for k in sorted(changed))])
    return names
