"""One model for every subset of modalities, or one each? python benchmarks/missing.py --help

Trains one model on all modalities with modality dropout, and beside it one on each subset alone, of
the same config, budget and seeds; then scores the first on the test split with everything outside
the subset taken away. Prints, for each subset, both scores and the gap: how much is lost by not
having a model of its own. Runs are kept in WORKDIR; the same command goes on where it stopped, and
one that would train something else there is an error.

python benchmarks/missing.py --config=configs/tiny.py --dataset=data/tiny --workdir=runs/missing
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from imat_jax import config as configs
from imat_jax import experiment, rundir, tasks
from imat_jax.analysis import corruptions, robustness, runs
from imat_jax.cli import UsageError, fail
from imat_jax.data.corpus import DataError, subsets
from imat_jax.data.dataset import Dataset


def base(path: str, overrides: list[str]) -> ml_collections.ConfigDict:
    """The config that all runs start from.

    Args:
      path: FILE.py[:key=value,…].
      overrides: such as ["--config.epochs=4"].
    """
    file, _, arg = path.partition(":")
    try:
        config = configs.load_file(file).get_config(arg)
    except ValueError as error:
        raise UsageError(str(error)) from error
    given = [re.fullmatch(r"--config\.([\w.]+)=(.*)", item) for item in overrides]
    if None in given:
        raise UsageError(f"--override={overrides[given.index(None)]}: take --config.KEY=VALUE")
    values = dict(match.groups() for match in given)
    if own := {"dataset", "seed", "modalities", "model.modality_dropout"} & set(values):
        raise UsageError(
            f"--override=--config.{min(own)}=…: this program sets it, by its own flags"
        )
    return configs.override(config, values)


def check(workdir: pathlib.Path, config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Raises `UsageError` where `workdir` holds a run of another config or dataset."""
    if not (workdir / "config.json").is_file():
        return
    changed = configs.difference(configs.load(workdir).to_dict(), config.to_dict())
    if changed:
        raise UsageError(
            f"{workdir} holds a run that differs in {'; '.join(changed)}. "
            "Take another --workdir, or delete this one"
        )
    rundir.check_dataset(workdir, dataset)


def train(workdir: pathlib.Path, args: argparse.Namespace, changes: Mapping[str, Any]) -> None:
    """One run in a process of its own; one that is finished stays, another is gone on with."""
    if (workdir / "results.json").is_file():
        return
    named = [f"--config.{key}={value}" for key, value in changes.items()]
    command = ["-m", "imat_jax.train", f"--config={args.config}", f"--workdir={workdir}"]
    print(f"{workdir} …", file=sys.stderr)
    workdir.parent.mkdir(parents=True, exist_ok=True)
    log = workdir.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, *command, *args.override, *named], stdout=file, stderr=file
        )
    if done.returncode:
        sys.exit(f"{workdir} failed; see {log}")


def with_less(workdir: pathlib.Path, metric: str) -> dict[str, float]:
    """{subset: test metric} of one run, with everything outside the subset taken away."""
    run, params = runs.open_run(workdir)
    here = tuple(run.dims)
    sets = subsets(here)
    conditions = [corruptions.condition(here, keep=s) for s in sets]
    found, _ = robustness.outputs(run, params, "test", conditions)
    label = run.dataset.index("test")["label"]
    scores = [run.task.score(label, one)[metric] for one in found]
    return {"+".join(s): score for s, score in zip(sets, scores, strict=True)}


def headline(dataset: Dataset, config: ml_collections.ConfigDict, metric: str | None) -> str:
    """`metric`, or the task's own; raises `UsageError` where the task has no such."""
    task = experiment.make_task(config, dataset.metadata)
    label = {split: dataset.index(split)["label"] for split in ("train", "test")}
    known = robustness.trivial(task, label["train"], label["test"])
    return robustness.check_metric(metric or task.headline, known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--modalities", help="audio+vision: of these alone; default: all")
    parser.add_argument("--dropout", type=float, default=0.3, help="model.modality_dropout")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--metric", help="default: the task's headline")
    parser.add_argument("--override", action="append", default=[], help="--config.x=y of all runs")
    args = parser.parse_args()
    shared = {"dataset": args.dataset, "modalities": args.modalities or ""}
    config = configs.override(base(args.config, args.override), shared)
    dataset = Dataset.open(args.dataset)
    metadata = dataset.metadata
    names = ["+".join(s) for s in subsets(tuple(configs.modalities(config, dataset.dims)))]
    metric = headline(dataset, config, args.metric)
    planned: dict[pathlib.Path, dict[str, Any]] = {}
    for seed in args.seeds:
        changes = shared | {"seed": seed, "modalities": names[-1]}
        dropout = changes | {"model.modality_dropout": args.dropout}
        planned[args.workdir / str(seed) / "dropout"] = dropout
        for name in reversed(names):
            own = changes | {"modalities": name, "model.modality_dropout": 0.0}
            planned[args.workdir / str(seed) / name] = own
    for workdir, changes in planned.items():
        check(workdir, configs.override(config, changes), dataset)
    for workdir, changes in planned.items():
        train(workdir, args, changes)
    table: dict[str, dict[str, list[float]]] = {
        name: {"dropout": [], "plain": [], "own": []} for name in names
    }
    for folder in (args.workdir / str(seed) for seed in args.seeds):
        for kind, workdir in (("dropout", "dropout"), ("plain", names[-1])):
            for name, score in with_less(folder / workdir, metric).items():
                table[name][kind].append(score)
        for name in names:
            results = json.loads((folder / name / "results.json").read_text())
            table[name]["own"].append(results["test"][metric])
    ceiling = robustness.ceiling(metadata, "test", metric)
    sign = 1 if tasks.higher_is_better(metric) else -1
    print(f"test {metric}, {len(args.seeds)} seeds; modality dropout {args.dropout}")
    heads = ("one, dropout", "one, without", "own model", "gap", "best possible")
    print(f"{'modalities there':<22}" + "".join(f"{head:>16}" for head in heads))
    for name in names:
        row = table[name]
        gaps = [sign * (a - b) for a, b in zip(row["dropout"], row["own"], strict=True)]
        cells = [robustness.cell(row[k]) for k in ("dropout", "plain", "own")]
        cells += [robustness.cell(gaps, "+"), f"{ceiling[name]:.3f}" if name in ceiling else "–"]
        print(f"{name:<22}" + "".join(f"{c:>16}" for c in cells))
        row["gap"] = gaps
    worst = min(table, key=lambda name: np.mean(table[name]["gap"]))
    print(f"worst gap: {np.mean(table[worst]['gap']):+.3f} on {worst}")
    facts = {"metric": metric} | {k: v for k, v in vars(args).items() if k != "metric"}
    facts["workdir"] = str(args.workdir)
    rundir.write_json(args.workdir / "missing.json", facts | {"subsets": table})


if __name__ == "__main__":
    try:
        main()
    except (UsageError, DataError) as error:
        fail(error)
