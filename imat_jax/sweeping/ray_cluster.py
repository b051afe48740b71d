"""A Ray cluster: each run is a task. RAY_ADDRESS names it; without, it is this machine.

Options: `num_cpus`, `num_gpus` and other resources of a run. The sweep and the dataset are on
storage that all nodes see, at the same path.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from imat_jax.cli import UsageError, package
from imat_jax.sweeping import worker
from imat_jax.sweeping.state import Job

OWN = ("num_cpus", "num_gpus")


def make(root: pathlib.Path, jobs: int, options: dict[str, str]) -> Ray:
    ray = package("ray", "ray")
    try:
        amounts = {"num_cpus": 1.0} | {k: float(v) for k, v in options.items()}
    except ValueError as error:
        raise UsageError(f"--executor=ray: options are amounts of resources: {error}") from error
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    return Ray(ray, jobs or 10**6, amounts)


class Ray:
    def __init__(self, ray: Any, capacity: int, amounts: dict[str, float]):
        self._ray, self.capacity = ray, capacity
        own = {k: amounts.pop(k) for k in OWN if k in amounts}
        # A task that dies is a failed run, to be looked at; not one to try again and again.
        self._task = ray.remote(max_retries=0, resources=amounts, **own)(worker.work)
        self._running: dict[Any, Job] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        self._running |= {self._task.remote(job): job for job in jobs}

    def ended(self, seconds: float) -> list[tuple[Job, str]]:
        ready, _ = self._ray.wait([*self._running], num_returns=1, timeout=seconds)
        found = []
        for handle in ready:
            died = ""
            try:
                self._ray.get(handle)
            except self._ray.exceptions.RayError as error:
                died = str(error).strip().splitlines()[0]
            found.append((self._running.pop(handle), died))
        return found

    def stop(self) -> None:
        for handle in self._running:
            self._ray.cancel(handle, force=True)
        self._ray.shutdown()
