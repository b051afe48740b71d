"""State dicts of other projects into our modules: every parameter from an array by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx


class Source(NamedTuple):
    """Where one of our arrays comes from.

    names: arrays that are joined along their first axis. axes: their order in ours. default: what
    fills ours where the model does without these arrays. joined: their last axis is several of
    ours.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    default: float | None = None
    joined: bool = False


LINEAR = (1, 0)  # (out, in) -> (in, out)
CONV1D = (2, 1, 0)  # (out, in, width) -> (width, in, out)
CONV2D = (2, 3, 1, 0)


def filled(
    model: nnx.Module,
    arrays: Mapping[str, Any],
    source: Callable[[tuple], Source],
    what: str,
    asarray: Callable = jnp.asarray,
) -> nnx.Module:
    """`model`, of which only shapes are known so far, with parameters from `arrays`."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    sources = [source(path) for path, _ in flat]
    require(arrays, [n for s in sources if s.default is None for n in s.names], what)
    for (_, ours), (names, axes, default, joined) in zip(flat, sources, strict=True):
        if default is not None:
            ours.set_value(jnp.full(ours.shape, default, ours.dtype))
            continue
        value = np.concatenate([np.atleast_1d(arrays[name]) for name in names])
        value = value if axes is None or value.ndim != len(axes) else value.transpose(axes)
        if joined and value.size == ours.size:
            value = value.reshape(ours.shape)
        if value.shape != ours.shape:
            raise ValueError(f"{names[0]} does not fit: {value.shape}, but {ours.shape} is needed")
        ours.set_value(asarray(value, ours.dtype))
    return model


def torch_name(name: str) -> str:
    """PyTorch's name of one of Flax's."""
    return {"scale": "weight", "kernel": "weight", "bias": "bias"}[name]


def require(arrays: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    """Raises a `KeyError` that lists the `names` that are not there; `what` is "an SSE-FT"."""
    missing = [n for n in names if n not in arrays]
    if missing:
        raise KeyError(
            f"not {what} state dict: {len(missing)} parameters are missing, such as "
            f"{', '.join(missing[:5])}; it holds {', '.join(sorted(arrays)[:5]) or 'nothing'}"
        )
