"""A finished run, opened: its experiment and the parameters that validation selected."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any

from imat_jax import config as configs
from imat_jax import experiment as experiments
from imat_jax import rundir
from imat_jax.checkpoint import Checkpoints
from imat_jax.cli import UsageError
from imat_jax.experiment import Experiment


def open_run(workdir: str | os.PathLike) -> tuple[Experiment, Any]:
    """(experiment, parameters) of the run in `workdir`.

    Raises:
      UsageError: there is no run, it has no checkpoint yet, or its dataset is another one now.
    """
    experiment = experiments.make(configs.load(workdir))
    rundir.check_dataset(pathlib.Path(workdir), experiment.dataset)
    checkpoints = Checkpoints(pathlib.Path(workdir))
    if checkpoints.best_step is None:
        raise UsageError(f"{workdir} has no checkpoint yet; train it first")
    params = checkpoints.restore_best(experiment.abstract)
    checkpoints.close()
    return experiment, params


def below(path: str | os.PathLike) -> list[pathlib.Path]:
    """The finished runs at and below `path`, sorted; says on stderr which are not finished.

    Raises:
      UsageError: there is none.
    """
    found = sorted(p.parent for p in pathlib.Path(path).rglob("config.json"))
    finished = [run for run in found if (run / "results.json").is_file()]
    if not finished:
        raise UsageError(f"{path}: no finished run there, nor below it")
    for run in found:
        if run not in finished:
            print(f"not finished, and left out: {run}", file=sys.stderr)
    return finished
