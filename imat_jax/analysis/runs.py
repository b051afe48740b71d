"""A finished run, opened: its experiment and the parameters that validation selected."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from imat_jax import config as configs
from imat_jax import experiment as experiments
from imat_jax.checkpoint import Checkpoints
from imat_jax.cli import UsageError
from imat_jax.experiment import Experiment


def open_run(workdir: str | os.PathLike) -> tuple[Experiment, Any]:
    """(experiment, parameters) of the run in `workdir`.

    Raises:
      UsageError: there is no run, or it has no checkpoint yet.
    """
    experiment = experiments.make(configs.load(workdir))
    checkpoints = Checkpoints(pathlib.Path(workdir))
    if checkpoints.best_step is None:
        raise UsageError(f"{workdir} has no checkpoint yet; train it first")
    params = checkpoints.restore_best(experiment.abstract)
    checkpoints.close()
    return experiment, params


def below(path: str | os.PathLike) -> list[pathlib.Path]:
    """The run directories at and below `path`, sorted.

    Raises:
      UsageError: there is none.
    """
    found = sorted(p.parent for p in pathlib.Path(path).rglob("config.json"))
    if not found:
        raise UsageError(f"{path}: no run directory there, nor below it")
    return found
