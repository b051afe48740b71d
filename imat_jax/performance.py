"""How fast a run is, and what it waits for: measured between log lines, validation left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from imat_jax import chips, flops
from imat_jax.data import loader
from imat_jax.experiment import Network

_compiling: list[float] = []  # seconds of each compilation, or of reading it from the cache


@jax.monitoring.register_event_duration_secs_listener
def _listen(event: str, seconds: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiling.append(seconds)


def summary(laps: Sequence[Mapping[str, float]]) -> str:
    """One line: medians over the laps, so that the first, which compiles, weighs no more."""
    if not laps:
        return "no speed: there was no log line in this run"
    median = {k: float(np.median([lap[k] for lap in laps if k in lap])) for k in laps[-1]}
    mfu = f", {median['mfu']:.1%} of the devices' peak (MFU)" if "mfu" in median else ""
    return (
        f"{median['utt_per_s']:,.0f} utterances/s, {median['utt_per_s_per_device']:,.0f} a device; "
        f"{median['real_frames']:.0%} of the frames real, {median['tflops']:.3g} TFLOP/s on those"
        f"{mfu}; {median['input_wait']:.0%} waiting for input; "
        f"{laps[-1]['compile_s']:.0f} s compiling"
    )


class Meter:
    """Rates of a training run.

    Args:
      split: the training split; its lengths say how many of a batch's frames are real.
    """

    def __init__(self, net: Network, split: loader.Split):
        model = nnx.merge(net.graphdef, net.abstract)
        self._split = split
        self._flops = 3 * flops.forward(model, split.lengths)  # [N], forward and backward
        self._devices = net.mesh.size
        self.laps: list[dict[str, float]] = []
        chip = chips.of(net.mesh.devices.flat[0].device_kind)
        self._peak = chip.flops * self._devices if chip else None
        self._reset()

    def _reset(self) -> None:
        self._work = np.zeros(4)  # utterances, real frames, padded frames, operations
        self._waited = self._paused = 0.0
        self._start = time.perf_counter()

    def waiting(self, function: Callable, *args: Any) -> Any:
        """`function(*args)`, whose time counts as waiting for input."""
        before = time.perf_counter()
        result = function(*args)
        self._waited += time.perf_counter() - before
        return result

    def count(self, step: int) -> None:
        """The batch of `step` was given to the devices."""
        shape, rows = self._split.batch(step)
        lengths = self._split.lengths[rows]
        padded = self._split.batch_size * sum(shape)
        self._work += len(rows), lengths.sum(), padded, self._flops[rows].sum()

    def pause(self) -> None:
        self._pause_start = time.perf_counter()

    def resume(self) -> None:
        self._paused += time.perf_counter() - self._pause_start

    @property
    def latest(self) -> str:
        """Utterances a second in the latest lap, to look at."""
        return f"{self.laps[-1]['utt_per_s']:.0f}" if self.laps else ""

    def lap(self) -> dict[str, float]:
        """Rates since the last lap.

        `utt_per_s`, `utt_per_s_per_device`; `real_frames`, the share of a batch's places that are
        not padding; `tflops`, operations on real frames, 10^12 a second; `mfu`, their share of the
        devices' published bfloat16 peak, where that is known; `input_wait`, share of the time;
        `compile_s`, seconds of compiling since the process began.
        """
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        utterances, real, padded, operations = self._work
        values = {
            "utt_per_s": utterances / seconds,
            "utt_per_s_per_device": utterances / seconds / self._devices,
            "real_frames": real / max(padded, 1),
            "tflops": operations / seconds / 1e12,
            "input_wait": self._waited / seconds,
            "compile_s": sum(_compiling),
        }
        if self._peak:
            values["mfu"] = operations / seconds / self._peak
        self._reset()
        self.laps.append(values)
        return values
