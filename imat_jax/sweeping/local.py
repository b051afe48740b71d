"""Processes of this machine; each does one run after the other, and has devices of its own.

They are forked from a server that has imported everything and started no JAX backend, so that a
worker is there at once; and a worker that is given the seeds of a configuration compiles once.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from typing import Any

from imat_jax.cli import UsageError
from imat_jax.sweeping import worker
from imat_jax.sweeping.state import Job

PATIENCE = 120  # seconds in which a worker that is asked to stop has to save


def make(root: pathlib.Path, jobs: int, options: dict[str, str]) -> Local:
    if options:
        raise UsageError(f"--executor=local has no options, such as {', '.join(options)}")
    devices = gpus()
    return Local(jobs or len(devices) or 1, devices)


def gpus() -> list[str]:
    """Those of CUDA_VISIBLE_DEVICES, or all of this machine; JAX is not asked, for it would take
    them.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [d for d in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if d]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def environment(number: int, workers: int, devices: Sequence[str]) -> dict[str, str]:
    """What worker `number` of `workers` has besides the sweep's environment: which GPU."""
    if not devices:
        return {}
    mine = {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}
    sharing = len(range(number % len(devices), workers, len(devices)))
    if sharing > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        mine["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.3f}"
    return mine


@dataclasses.dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    job: Job | None = None
    group: str = ""  # of its latest job: what it has compiled


class Local:
    """`workers` processes, which share `devices`."""

    def __init__(self, workers: int, devices: Sequence[str]):
        self.capacity = workers
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["imat_jax.sweeping.worker"])
        self._environments = [environment(i, workers, devices) for i in range(workers)]
        self._workers: list[_Worker | None] = [None] * workers

    def _start(self, number: int) -> _Worker:
        here, there = self._context.Pipe()
        variables = dict(os.environ) | self._environments[number]
        process = self._context.Process(target=serve, args=(there, variables))
        process.start()
        there.close()  # or its end would not be seen
        self._workers[number] = _Worker(process, here)
        return self._workers[number]

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            free = [i for i, w in enumerate(self._workers) if w is None or w.job is None]
            groups = {i: self._workers[i].group for i in free if self._workers[i]}
            number = next((i for i in free if groups.get(i) == job.run.group), free[0])
            one = self._workers[number]
            if one is None or not one.process.is_alive():
                one = self._start(number)
            one.job, one.group = job, job.run.group
            one.pipe.send(job)

    def ended(self, seconds: float) -> list[tuple[Job, str]]:
        busy = {w.pipe: i for i, w in enumerate(self._workers) if w and w.job}
        if not busy:
            time.sleep(seconds)
        found = []
        for pipe in connection.wait(list(busy), seconds):
            one, died = self._workers[busy[pipe]], ""
            try:
                pipe.recv()
            except (EOFError, ConnectionResetError):
                one.process.join()
                self._workers[busy[pipe]] = None
                died = f"its process ended with status {one.process.exitcode}"
            found.append((one.job, died))
            one.job = None
        return found

    def stop(self) -> None:
        for one in filter(None, self._workers):
            one.pipe.close()
            if one.job:
                one.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for one in filter(None, self._workers):
            one.process.join(max(deadline - time.monotonic(), 0))
            if one.process.exitcode is None:
                one.process.kill()
                one.process.join()
        self._workers = [None] * len(self._workers)


def serve(pipe: connection.Connection, variables: Mapping[str, str]) -> None:
    """The worker's process: a job after the other, until the sweep is gone."""
    os.environ.clear()
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the sweep says what to do
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            job = pipe.recv()
            worker.work(job)
            pipe.send(None)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _end_with(parent: int) -> None:
    """A sweep that was killed leaves no worker behind: this one saves, as for any SIGTERM."""
    connection.wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
