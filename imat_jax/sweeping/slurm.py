"""SLURM, by submitit: a job array, one run a task. Preempted or out of time, a run is requeued.

Options: `timeout_min`, `gpus_per_node`, `cpus_per_task`, `mem_gb` and `slurm_*` are submitit's;
`cluster=local` starts processes of this machine in place of SLURM's, for trying things out.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from imat_jax.cli import UsageError
from imat_jax.sweeping import worker
from imat_jax.sweeping.executor import package
from imat_jax.sweeping.state import Job

UNLIMITED = 10**6
ASK = 2.0  # seconds between questions to SLURM


def make(root: pathlib.Path, jobs: int, options: dict[str, str]) -> Slurm:
    submitit = package("submitit", "sweep")
    options = dict(options)
    try:
        executor = submitit.AutoExecutor(root / "slurm", cluster=options.pop("cluster", "slurm"))
        numbers = {k: int(v) if v.isdigit() else v for k, v in options.items()}
        executor.update_parameters(name="imat-sweep", **({"timeout_min": 60 * 24} | numbers))
    except (NameError, RuntimeError, ValueError) as error:
        raise UsageError(f"--executor=slurm: {error}") from error
    return Slurm(executor, jobs or UNLIMITED)


class Task:
    """What a SLURM task does; submitit calls `checkpoint` when the task's time is up."""

    def __call__(self, job: Job) -> str:
        return worker.work(job)

    def checkpoint(self, job: Job) -> Any:
        return package("submitit", "sweep").helpers.DelayedSubmission(self, job)


class Slurm:
    def __init__(self, executor: Any, capacity: int):
        self._executor, self.capacity = executor, capacity
        self._running: list[tuple[Job, Any]] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        with self._executor.batch():  # one array, one call of sbatch
            handles = [self._executor.submit(Task(), job) for job in jobs]
        for job, handle in zip(jobs, handles, strict=True):
            job.write(slurm=handle.job_id)
            self._running.append((job, handle))

    def ended(self, seconds: float) -> list[tuple[Job, str]]:
        deadline = time.monotonic() + max(seconds, ASK)
        while not (over := [pair for pair in self._running if pair[1].done()]):
            if time.monotonic() > deadline:
                return []
            time.sleep(min(ASK, seconds))
        self._running = [pair for pair in self._running if pair not in over]
        return [(job, _death(handle)) for job, handle in over]

    def stop(self) -> None:
        for _, handle in self._running:
            handle.cancel()
        while not all(handle.done() for _, handle in self._running):
            time.sleep(ASK)


def _death(handle: Any) -> str:
    """What the task's process died of, where it could not say so itself."""
    error = handle.exception()
    return f"{handle.state}: {str(error).strip().splitlines()[-1]}" if error else ""
