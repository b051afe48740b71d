"""Hidden layers with ReLU, then the outputs: the head of most baselines."""

from __future__ import annotations

import itertools

from flax import nnx
from flax.typing import Dtype

from imat_jax.models.backends import at_least_float32
from imat_jax.models.dropout import Keys, dropout


class MLP(nnx.Module):
    """Dropout before each of `layers` dense layers with ReLU, and a dense layer to the outputs.

    Args:
      features: width of the input.
      hidden: width of the hidden layers; None: `features`.
    """

    def __init__(
        self,
        features: int,
        hidden: int | None,
        outputs: int,
        *,
        layers: int = 2,
        dropout: float = 0.0,
        dtype: Dtype,
        param_dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        widths = [features] + [hidden or features] * layers
        he = nnx.initializers.he_normal()
        self.hidden = nnx.List(
            [nnx.Linear(a, b, kernel_init=he, **kw) for a, b in itertools.pairwise(widths)]
        )
        self.out = nnx.Linear(widths[-1], outputs, **kw)
        self.dropout = dropout

    def __call__(self, x, keys: Keys = None):
        """x [B, D] -> (outputs [B, K], float32 or wider, and the first hidden layer [B, H])."""
        first = None
        for layer in self.hidden:
            x = nnx.relu(layer(dropout(x, self.dropout, keys)))
            first = x if first is None else first
        return at_least_float32(self.out(x)), first
