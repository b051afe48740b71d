"""What a sweep says while it runs: a table that is redrawn, or a line an event if piped."""

from __future__ import annotations

import collections
import json
import pathlib
import sys
import time
from collections.abc import Iterable

from imat_jax.sweeping.state import OVER, Job

PERIOD = 1.0  # seconds between two drawings
END = 4096  # bytes of a run's metrics that are looked at


class Table:
    """Args: total: runs of the sweep, those included that are `finished` already."""

    def __init__(self, total: int | None, finished: int):
        self._total, self._counts = total, collections.Counter(finished=finished)
        self._live, self._drawn, self._last = sys.stdout.isatty(), 0, 0.0

    def event(self, job: Job, status: str) -> None:
        """`job` ended so."""
        self._counts[status] += status in OVER
        took = "test" if job.test else f"{job.read()['seconds']:.0f} s"
        self._erase()
        name = pathlib.Path(job.directory).name
        print(f"{self._so_far()}  {name}: {status}, {took}", flush=True)

    def draw(self, running: Iterable[Job]) -> None:
        """The runs under way: update, loss and validation score of each."""
        now = time.monotonic()
        if not self._live or now - self._last < PERIOD:
            return
        self._last = now
        lines = [f"  {pathlib.Path(j.directory).name:<60} {progress(j)}" for j in running]
        self._erase()
        print("\n".join([f"{self._so_far()}, {len(lines)} running", *lines]), flush=True)
        self._drawn = len(lines) + 1

    def _so_far(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in sorted(self._counts.items()) if n)
        return f"[{counts or 'none finished'}" + (f" of {self._total}]" if self._total else "]")

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="")
        self._drawn = 0


def progress(job: Job) -> str:
    """`update 120, loss 0.512, valid 0.640` of a run, from the end of its metrics."""
    path = pathlib.Path(job.directory) / "metrics.jsonl"
    if not path.is_file():
        return "starting"
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - END, 0))
        lines = file.read().decode(errors="replace").splitlines()
    seen: dict[str, float] = {}
    for line in lines:
        try:
            seen |= json.loads(line)
        except json.JSONDecodeError:  # the first, which may be cut, or one that is being written
            continue
    numbers = [f"{k} {seen[k]:.4f}" for k in ("loss", "valid/loss") if k in seen]
    return ", ".join([f"update {seen.get('step', 0)}", *numbers])
