"""What runs the jobs of a sweep: one small interface, and the executor that a name stands for."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Sequence
from typing import Protocol

from imat_jax.sweeping.state import Job

EXECUTORS = {"local": "local", "slurm": "slurm", "ray": "ray_cluster"}


class Executor(Protocol):
    """Workers somewhere that call `worker.work(job)`.

    Attributes:
      capacity: jobs that it takes at a time.
    """

    capacity: int

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have them done; no more than there is room for."""

    def ended(self, seconds: float) -> list[tuple[Job, str]]:
        """Jobs that ended since the last call, and what their process died of, "" if it did not.

        Waits up to `seconds` for the first. How a job ended says its own job.json.
        """

    def stop(self) -> None:
        """End what is running, in such a way that it can go on later, and return when it has."""


def make(name: str, root: pathlib.Path, jobs: int, options: dict[str, str]) -> Executor:
    """The executor called `name`.

    Args:
      root: of the sweep, for files of its own.
      jobs: at a time; 0: its default.
      options: of the executor.

    Raises:
      UsageError: its package is not installed, or an option is not known.
    """
    module = importlib.import_module(f"imat_jax.sweeping.{EXECUTORS[name]}")
    return module.make(root, jobs, options)
