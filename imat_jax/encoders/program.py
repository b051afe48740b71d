"""Frozen networks as compiled programs, and batches of few static shapes for them."""

from __future__ import annotations

import platform
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

# On x86, XLA gives matrix products and convolutions to YNNPACK. oneDNN's products and XLA's own
# convolutions were 1.2 to 1.4 times as fast for these networks (benchmarks/extract.py).
X86 = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_experimental_onednn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    "xla_cpu_use_onednn": True,
}


def compiled(model: nnx.Module, call: Callable | None = None) -> Callable[..., np.ndarray]:
    """`call(model, *arrays)`, or `model(*arrays)`, compiled once for each shape of the arrays."""
    graphdef, state = nnx.split(model)

    def apply(state, *arrays):
        network = nnx.merge(graphdef, state)
        return call(network, *arrays) if call else network(*arrays)

    x86 = jax.default_backend() == "cpu" and platform.machine() in ("x86_64", "AMD64")
    program = jax.jit(apply, compiler_options=X86 if x86 else None)
    return lambda *arrays: np.asarray(program(state, *arrays))


def blocks(count: int, largest: int) -> list[int]:
    """Sizes of at most `largest`, a power of two, that sum to `count`: 13, 8 -> 8, 4, 1."""
    rest = count % largest
    ones = [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]
    return [largest] * (count // largest) + ones
