"""One model for every subset of modalities, or one each? python benchmarks/missing.py --help

Trains one model on all modalities with modality dropout, and beside it one on each subset alone, of
the same config, budget and seeds; then scores the first on the test split with everything outside
the subset taken away. Prints, for each subset, both scores and the gap: how much is lost by not
having a model of its own. Runs are kept in WORKDIR; the same command goes on where it stopped.

python benchmarks/missing.py --config=configs/tiny.py --dataset=data/tiny --workdir=runs/missing
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

from imat_jax import rundir, tasks
from imat_jax.analysis import corruptions, robustness, runs
from imat_jax.data.corpus import subsets
from imat_jax.data.dataset import Dataset


def train(workdir: pathlib.Path, args: argparse.Namespace, seed: int, **changes) -> None:
    """One run in a process of its own; one that is there already is gone on with."""
    changes = {"dataset": args.dataset, "seed": seed} | changes
    named = [f"--config.{key}={value}" for key, value in changes.items()] + args.override
    command = ["-m", "imat_jax.train", f"--config={args.config}", f"--workdir={workdir}", *named]
    log = workdir.with_suffix(".log")
    if (workdir / "results.json").is_file():
        return
    print(f"{workdir} …", file=sys.stderr)
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        done = subprocess.run([sys.executable, *command], stdout=file, stderr=file)
    if done.returncode:
        sys.exit(f"{workdir} failed; see {log}")


def with_less(workdir: pathlib.Path, metric: str) -> dict[str, float]:
    """{subset: test metric} of one run, with everything outside the subset taken away."""
    experiment, params = runs.open_run(workdir)
    here = tuple(experiment.dims)
    sets = subsets(here)
    conditions = [corruptions.condition(here, keep=s) for s in sets]
    found, _ = robustness.outputs(experiment, params, "test", conditions)
    label = experiment.dataset.index("test")["label"]
    scores = [experiment.task.score(label, one)[metric] for one in found]
    return {"+".join(s): score for s, score in zip(sets, scores, strict=True)}


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
    dataset = Dataset.open(args.dataset)
    metadata = dataset.metadata
    metric = args.metric or tasks.make(metadata["task"], metadata["class_names"]).headline
    named = args.modalities.split("+") if args.modalities else dataset.dims
    names = ["+".join(s) for s in subsets([m for m in dataset.dims if m in named])]
    table: dict[str, dict[str, list[float]]] = {
        name: {"dropout": [], "plain": [], "own": []} for name in names
    }
    for seed in args.seeds:
        folder = args.workdir / str(seed)
        dropout = {"modalities": names[-1], "model.modality_dropout": args.dropout}
        train(folder / "dropout", args, seed, **dropout)
        for name in reversed(names):
            train(folder / name, args, seed, modalities=name, **{"model.modality_dropout": 0.0})
        for kind, workdir in (("dropout", "dropout"), ("plain", names[-1])):
            for name, score in with_less(folder / workdir, metric).items():
                table[name][kind].append(score)
        for name in names:
            results = json.loads((folder / name / "results.json").read_text())
            table[name]["own"].append(results["test"][metric])
    ceiling = metadata["facts"].get("bayes_accuracy_on_split", {}).get("test", {})
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
    main()
