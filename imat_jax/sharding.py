"""The device mesh, and how batches, parameters and states lie on it.

A mesh has three axes. `data` splits the batch. `fsdp` splits the batch too, and with it every large
parameter, whose pieces are gathered where they are used (ZeRO stage 3; Rajbhandari et al. 2020).
`model` splits attention heads and feed-forward layers (Shoeybi et al. 2019). XLA's partitioner puts
the collectives in; the numbers are those of one device, but for the order of sums.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from imat_jax.cli import UsageError
from imat_jax.models.layout import BATCH

# On several simulated devices, two programs in flight can wait for each other's threads for ever.
# Accelerators are not concerned.
jax.config.update("jax_cpu_enable_async_dispatch", False)

AXES = ("data", "fsdp", "model")

# (end of a parameter's path, mesh axis of each of its axes); the first that matches. Optimiser
# state and averages repeat the paths, and so they lie where their parameters do.
RULES = (
    (r"attention/qkv/kernel", P(None, None, "model", None)),  # [D, 3, H, K]
    (r"attention/qkv/bias", P(None, "model", None)),  # [3, H, K]
    (r"attention/(query|key|value)/kernel", P(None, "model", None)),  # [D, H, K]
    (r"attention/(query|key|value)/bias", P("model", None)),  # [H, K]
    (r"attention/out/kernel", P("model", None, None)),  # [H, K, D]
    (r"ffn/inner/kernel", P(None, "model")),  # [D, F]
    (r"ffn/inner/bias", P("model")),  # [F]
    (r"ffn/outer/kernel", P("model", None)),  # [F, D]
    (r"bert/layers/\d+/qkv/kernel", P(None, None, "model", None)),  # [D, 3, H, K]
    (r"bert/layers/\d+/qkv/bias", P(None, "model", None)),  # [3, H, K]
    (r"bert/layers/\d+/out/kernel", P("model", None)),  # [H K, D]
    (r"bert/layers/\d+/inner/kernel", P(None, "model")),  # [D, F]
    (r"bert/layers/\d+/inner/bias", P("model")),  # [F]
    (r"bert/layers/\d+/outer/kernel", P("model", None)),  # [F, D]
)


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, default all; an axis of -1 takes what the others leave.

    Raises:
      UsageError: the sizes do not multiply to the number of devices.
    """
    shape = [sizes[axis] for axis in AXES]
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if shape.count(-1) == 1:
        shape[shape.index(-1)] = max(count // -int(np.prod(shape)), 1)
    if min(shape) < 1 or int(np.prod(shape)) != count:
        asked = ", ".join(f"{a}={sizes[a]}" for a in AXES)
        raise UsageError(f"mesh ({asked}) does not cover the {count} devices exactly")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def rows(mesh: Mesh) -> NamedSharding:
    """The batch axis, over both data axes."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def placed(state: Any, mesh: Mesh, smallest: int) -> Any:
    """Shapes, dtypes and placement of `state`: parameters, or a train state that holds some.

    Args:
      state: arrays or their shapes.
      smallest: arrays of fewer elements are not split over `fsdp`: gathering them would cost more
        than they do.

    Raises:
      UsageError: an axis that a rule splits, or every axis of an array that `fsdp` splits, does not
        divide.
    """

    def place(path, x) -> jax.ShapeDtypeStruct:
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        where = NamedSharding(mesh, spec(name, x.shape, mesh.shape, smallest))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map_with_path(place, state)


def spec(name: str, shape: tuple[int, ...], mesh: Mapping[str, int], smallest: int) -> P:
    """How the parameter `name` of that shape is split over a mesh of these sizes."""
    split = next((s for end, s in RULES if re.search(f"(^|/){end}$", name)), P())
    axes: list[str | None] = [*split, *[None] * (len(shape) - len(split))]
    for i, axis in enumerate(axes):
        if axis and shape[i] % mesh[axis]:
            raise UsageError(
                f"mesh.{axis}={mesh[axis]} does not divide the {shape[i]} of axis {i} of {name} "
                f"{shape}; choose model.heads and model.ffn that it divides, or a smaller axis"
            )
    free = [i for i, axis in enumerate(axes) if axis is None]
    if mesh["fsdp"] > 1 and free and np.prod(shape) >= smallest:
        free = [i for i in free if shape[i] % mesh["fsdp"] == 0]
        if not free:
            raise UsageError(
                f"mesh.fsdp={mesh['fsdp']} divides no free axis of {name} {shape}; choose sizes "
                "that it divides, or a smaller axis"
            )
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return P(*(axis if axis and mesh[axis] > 1 else None for axis in axes))


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises `UsageError` where a batch does not divide over devices and microbatches."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size <= 0 or accumulate <= 0 or batch_size % (ways * accumulate):
        raise UsageError(
            f"batch_size {batch_size} does not divide over the {ways} devices of the mesh axes "
            f"data={mesh.shape['data']} and fsdp={mesh.shape['fsdp']}"
            + (f" in {accumulate} microbatches (accumulate)" if accumulate != 1 else "")
        )


def my_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that this process's devices hold, in order; what it has to read."""
    slices = rows(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[s] for (s,) in slices]))


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The rows that this process read, as global arrays; entries that are no arrays stay behind.

    Args:
      batch: arrays of the rows `my_rows`.
    """
    arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
    return {k: jax.make_array_from_process_local_data(rows(mesh), v) for k, v in arrays.items()}
