"""SLURM, by submitit: a job array, one run a task. Preempted or out of time, a run is requeued.

Options: `timeout_min`, `gpus_per_node`, `cpus_per_task`, `mem_gb` and `slurm_*` are submitit's;
`cluster=local` starts processes of this machine in place of SLURM's, for trying things out. A sweep
that ends leaves its jobs in the queue; started again, it watches them and submits none twice.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from imat_jax.cli import UsageError, package
from imat_jax.sweeping import worker
from imat_jax.sweeping.state import Job

UNLIMITED = 10**6
ASK = 10.0  # seconds between questions to SLURM
LOOK = 0.5  # seconds between looks at the files that its tasks leave


def make(root: pathlib.Path, jobs: int, options: dict[str, str]) -> Slurm:
    submitit = package("submitit", "sweep")
    cluster = options.get("cluster", "slurm")
    numbers = {k: _number(v) for k, v in options.items() if k != "cluster"}
    try:
        executor = submitit.AutoExecutor(root / "slurm", cluster=cluster)
        executor.update_parameters(name="imat-sweep", **({"timeout_min": 60 * 24} | numbers))
    except (AssertionError, NameError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--executor=slurm --options={options}: {error or 'a wrong type'}"
        ) from error
    return Slurm(submitit, executor, cluster == "slurm", jobs or UNLIMITED)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


class Task:
    """What a SLURM task does; submitit calls `checkpoint` when the task's time is up."""

    def __call__(self, job: Job) -> str:
        return worker.work(job)

    def checkpoint(self, job: Job) -> Any:
        return package("submitit", "sweep").helpers.DelayedSubmission(self, job)


class Slurm:
    """Args: queued: there is a queue, and it is SLURM's."""

    def __init__(self, submitit: Any, executor: Any, queued: bool, capacity: int):
        self._submitit, self._executor, self._queued = submitit, executor, queued
        self.capacity = capacity
        self._running: list[tuple[Job, Any]] = []
        self._asked = 0.0

    def submit(self, jobs: Sequence[Job]) -> None:
        waiting = (queue() if self._queued and jobs else None) or ()
        known = {job.directory: job.read().get("slurm") for job in jobs}
        old = [job for job in jobs if known[job.directory] in waiting]
        for job in old:
            handle = self._submitit.SlurmJob(self._executor.folder, known[job.directory])
            self._running.append((job, handle))
        new = [job for job in jobs if job not in old]
        if not new:
            return
        try:
            with self._executor.batch():  # one array, one call of sbatch
                handles = [self._executor.submit(Task(), job) for job in new]
        except self._submitit.core.utils.FailedJobError as error:
            raise UsageError(f"sbatch took none of {len(new)} runs: {error}") from error
        for job, handle in zip(new, handles, strict=True):
            job.write(slurm=handle.job_id)
            self._running.append((job, handle))

    def ended(self, seconds: float) -> list[tuple[Job, str]]:
        deadline = time.monotonic() + seconds
        while not (over := self._over()) and time.monotonic() < deadline:
            time.sleep(LOOK)
        self._running = [(j, h) for j, h in self._running if not any(j is job for job, _ in over)]
        return over

    def _over(self) -> list[tuple[Job, str]]:
        left = None
        if self._queued and time.monotonic() > self._asked + ASK:
            left, self._asked = queue(), time.monotonic()
        found = []
        for job, handle in self._running:
            if handle.paths.result_pickle.exists():
                error = handle.exception()
                found.append((job, str(error).strip().splitlines()[-1] if error else ""))
            elif left is not None and handle.job_id not in left:
                found.append((job, f"job {handle.job_id} is no longer in the queue"))
            elif not self._queued and handle.done():
                found.append((job, f"its process ended: {handle.state}"))
        return found

    def stop(self) -> None:
        if not self._queued:
            for _, handle in self._running:
                handle.cancel()


def queue() -> set[str] | None:
    """The jobs of this user that wait or run, array tasks each by itself, as JOB_TASK.

    Asked of squeue, which needs no accounting. None: SLURM does not answer.
    """
    call = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    answer = subprocess.run(call, capture_output=True, text=True)
    return set(answer.stdout.split()) if answer.returncode == 0 else None
