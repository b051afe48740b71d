"""Score a run's selected checkpoint: python -m imat_jax.evaluate --workdir=RUN --split=test

Adds the split to RUN/results.json, its predictions to RUN/predictions/SPLIT.npz and a plot to
RUN/plots. The checkpoint was selected on validation; nothing here changes that.
"""

from __future__ import annotations

import json
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from imat_jax import config as configs
from imat_jax import distributed, inference, metrics, plots, rundir, tasks
from imat_jax import experiment as experiments
from imat_jax.checkpoint import Checkpoints
from imat_jax.cli import UsageError, run
from imat_jax.experiment import Experiment


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Run directory.", required=True)
    flags.DEFINE_list("split", ["test"], "Splits to score, comma-separated.")


def evaluate(
    experiment: Experiment,
    workdir: str | os.PathLike,
    splits: list[str],
    step: Callable | None = None,
) -> dict[str, Any]:
    """Score the selected checkpoint of `workdir` on `splits`; returns and writes its results.

    Args:
      step: of `inference.make_step`, where there is a compiled one.

    Raises:
      UsageError: the run has no selected checkpoint yet.
    """
    workdir = pathlib.Path(workdir)
    checkpoints = Checkpoints(workdir)
    if checkpoints.best_step is None:
        raise UsageError(f"{workdir} has no checkpoint yet; train it first")
    params = checkpoints.restore_best(experiment.abstract)
    path = workdir / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    results |= {
        "protocol": experiment.dataset.metadata["protocol"],
        "dataset": experiment.dataset.fingerprint,
        "modalities": list(experiment.dims),
        "seed": experiment.config.seed,
        "selected": {
            "step": checkpoints.best_step,
            "metric": experiment.selection,
            "valid": checkpoints.best_scores()[f"valid/{experiment.selection}"],
        },
        "parameters": int(sum(p.size for p in jax.tree.leaves(params))),
    }
    checkpoints.close()
    step = step or inference.make_step(experiment)
    train_label = experiment.dataset.index("train")["label"]
    for name in splits:
        index = experiment.dataset.index(name)
        outputs = inference.outputs(step, params, experiment.split(name), experiment)
        results[name] = {"examples": len(outputs)} | experiment.task.score(index["label"], outputs)
        constant = tasks.trivial_outputs(experiment.task, train_label, len(outputs))
        with warnings.catch_warnings():  # a constant has no correlation, and that is no news
            warnings.simplefilter("ignore", metrics.UndefinedMetricWarning)
            results.setdefault("trivial", {})[name] = experiment.task.score(
                index["label"], constant
            )
        facts = experiment.dataset.metadata["facts"].get("bayes_accuracy_on_split", {})
        if name in facts:
            results.setdefault("ceiling", {})[name] = facts[name]["+".join(experiment.dims)]
        if not distributed.is_first():
            continue
        (workdir / "predictions").mkdir(exist_ok=True)
        np.savez(
            workdir / "predictions" / f"{name}.npz",
            id=index["id"],
            group=index["group"],
            label=index["label"],
            outputs=outputs,
        )
        plots.predictions(
            experiment.task, index["label"], outputs, workdir / "plots" / f"{name}.png", name
        )
    if distributed.is_first():
        rundir.write_json(path, results)
    return results


def table(experiment: Experiment, results: dict[str, Any], splits: list[str]) -> str:
    """The headline metrics of each split, beside the best constant answer, as text."""
    keys = [k for k in next(results[s] for s in splits) if "/" not in k and k != "examples"]
    columns: list[tuple[str, dict]] = []
    for split in splits:
        columns.append((split, results[split]))
        columns.append((f"{split}, constant", results["trivial"][split]))
    lines = [f"{'':<26}" + "".join(f"{name:>18}" for name, _ in columns)]
    for key in keys:
        lines.append(f"{key:<26}" + "".join(f"{column[key]:>18.4f}" for _, column in columns))
    for split, ceiling in results.get("ceiling", {}).items():
        if split in splits:
            lines.append(
                f"best possible acc with {'+'.join(experiment.dims)} on {split}: {ceiling:.4f}"
            )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    workdir, splits = pathlib.Path(flags.FLAGS.workdir), flags.FLAGS.split
    experiment = experiments.make(configs.load(workdir))
    rundir.check_dataset(workdir, experiment.dataset)
    with rundir.room(workdir):
        results = evaluate(experiment, workdir, splits)
    print(table(experiment, results, splits))


if __name__ == "__main__":
    run(main, define_flags)
