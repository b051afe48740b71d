"""The device mesh, and how batches and states lie on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from imat_jax.cli import UsageError

AXES = ("data", "fsdp", "model")


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
    if int(np.prod(shape)) != count:
        asked = ", ".join(f"{a}={sizes[a]}" for a in AXES)
        raise UsageError(f"mesh ({asked}) does not cover the {count} devices exactly")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def rows(mesh: Mesh) -> NamedSharding:
    """The batch axis, over both data axes."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def check_batch(batch_size: int, mesh: Mesh) -> None:
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size <= 0 or batch_size % ways:
        raise UsageError(
            f"batch_size {batch_size} does not divide over the {ways} devices of the mesh axes "
            f"data={mesh.shape['data']} and fsdp={mesh.shape['fsdp']}"
        )


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The rows that this process read, as global arrays; entries that are no arrays stay behind."""
    arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
    return {k: jax.make_array_from_process_local_data(rows(mesh), v) for k, v in arrays.items()}
