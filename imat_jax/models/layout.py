"""Where activations lie on a mesh: split by rows of the batch, never along features.

Parameters that are split over `fsdp` tempt XLA's partitioner to split activations along features
too, and to move them between the two layouts in every layer; held to their rows, it gathers the
parameters instead, which are smaller. Says so where the caller names the mesh, with
`jax.sharding.use_abstract_mesh`; elsewhere nothing happens.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec as P

BATCH = P(("data", "fsdp"))  # of the first axis of a batch's arrays


def by_rows(x: jax.Array) -> jax.Array:
    """`x` [B, …], held to its rows."""
    return _constrain(x, BATCH)


def whole(x: jax.Array) -> jax.Array:
    """`x`, gathered on every device; for tables that are looked up in."""
    return _constrain(x, P())


def on_a_mesh() -> bool:
    """Whether the caller named a mesh."""
    return "fsdp" in jax.sharding.get_abstract_mesh().axis_names


def _constrain(x: jax.Array, spec: P) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, spec) if on_a_mesh() else x
