"""Frozen networks as compiled programs, and batches of few static shapes for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx


def compiled(
    model: nnx.Module, call: Callable | None = None, on_cpu: Mapping[str, Any] | None = None
) -> Callable[..., np.ndarray]:
    """`call(model, *arrays)`, or `model(*arrays)`, compiled once for each shape of the arrays.

    on_cpu: options of XLA's for CPU.
    """
    graphdef, state = nnx.split(model)

    def apply(state, *arrays):
        network = nnx.merge(graphdef, state)
        return call(network, *arrays) if call else network(*arrays)

    options = dict(on_cpu or {}) if jax.default_backend() == "cpu" else {}
    program = jax.jit(apply, compiler_options=options)
    return lambda *arrays: np.asarray(program(state, *arrays))


def blocks(count: int, largest: int) -> list[int]:
    """Sizes of at most `largest`, a power of two, that sum to `count`: 13, 8 -> 8, 4, 1."""
    rest = count % largest
    ones = [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]
    return [largest] * (count // largest) + ones
