"""An utterance in the context of those around it in its video or dialogue."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from imat_jax.models.dropout import Keys
from imat_jax.models.ima import IMALayer
from imat_jax.models.layout import by_rows, whole


def offsets(count: int, both: bool) -> tuple[int, ...]:
    """Where the neighbours of an utterance are: -count to -1, and if `both` 1 to count."""
    return (*range(-count, 0), *range(1, 1 + count * both))


class Context(nnx.Module):
    """The fused vector of an utterance attends to those of its neighbours (Chaudhari et al. 2023,
    "contextual emotion recognition"; the paper gives no equations).

    One IMA layer: the query is the utterance, keys and values are its neighbours, each with a
    learned vector for how far away it is. An utterance without neighbours goes through the same
    layer and attends to nothing.

    Args:
      width: D of the fused vectors.
      count: neighbours before the utterance; `both`: and as many after it, else it is causal.
    """

    def __init__(self, width: int, count: int, both: bool, *, rngs: nnx.Rngs, param_dtype, **kw):
        self.offsets = offsets(count, both)
        init = nnx.initializers.normal(0.02)
        self.distance = nnx.Param(init(rngs.params(), (len(self.offsets), width), param_dtype))
        self.layer = IMALayer(width, width, rngs=rngs, param_dtype=param_dtype, **kw)

    def __call__(self, z, group, keys: Keys = None):
        """z [B, D], group [B] int32 -> ([B, D], weights [B, H, N]).

        Rows of one group are consecutive and in order; a negative group has no neighbours.
        """
        rows = jnp.arange(z.shape[0])[:, None] + jnp.asarray(self.offsets)[None]  # [B, N]
        inside = (rows >= 0) & (rows < z.shape[0])
        rows = jnp.clip(rows, 0, z.shape[0] - 1)
        group = whole(group)
        mask = inside & (group[rows] == group[:, None]) & (group[:, None] >= 0)
        near = by_rows(whole(z)[rows])  # [B, N, D]
        near += self.distance[...].astype(z.dtype)[None]
        return self.layer(z, jnp.where(mask[..., None], near, 0), by_rows(mask), keys)
