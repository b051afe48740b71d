"""Inter-modality-attention (IMA): what one modality's summary learns from another modality."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from imat_jax.models.attention import FeedForward, OneQueryAttention, Residual, layer_norm
from imat_jax.models.dropout import Keys
from imat_jax.models.layout import by_rows


class IMALayer(nnx.Module):
    """One-query attention over the other modality, then a feed-forward layer (`sse_ft` 3.4)."""

    def __init__(
        self, query_width, key_width, heads, ffn, *, norm, dropout, attention_dropout,
        kernel_init, attention_init, dtype, param_dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.attention = OneQueryAttention(
            query_width, key_width, heads, dropout=attention_dropout,
            kernel_init=attention_init, out_init=kernel_init, **kw,
        )  # fmt: skip
        self.ffn = FeedForward(query_width, ffn, kernel_init=kernel_init, **kw)
        self.residuals = nnx.List(
            [Residual(query_width, norm=norm, dropout=dropout, **kw) for _ in "ab"]
        )

    def __call__(self, q, x, mask, keys: Keys = None):
        """q [B, D_q], x [B, S, D_k], mask [B, S] -> ([B, D_q], weights [B, H, S])."""
        weights = None

        def attend(y):
            nonlocal weights
            y, weights = self.attention(y, x, mask, keys)
            return y

        q = by_rows(self.residuals[0](q, attend, keys))
        return by_rows(self.residuals[1](q, self.ffn, keys)), weights


class IMAStack(nnx.Module):
    """`layers` IMA layers; keys and values are the un-updated frames of the other modality."""

    def __init__(self, query_width: int, key_width: int, *, layers: int, norm: str, **kw):
        self.layers = nnx.List(
            [IMALayer(query_width, key_width, norm=norm, **kw) for _ in range(layers)]
        )
        parts = {k: kw[k] for k in ("dtype", "param_dtype", "rngs")}
        self.final_norm = layer_norm(query_width, **parts) if norm == "pre" else nnx.data(None)

    def __call__(self, q, x, mask, keys: Keys = None):
        """q [B, D_q], x [B, S, D_k], mask [B, S] -> ([B, D_q], weights [B, layers, H, S])."""
        weights = []
        for layer in self.layers:
            q, w = layer(q, x, mask, keys)
            weights.append(w)
        if self.final_norm is not None:
            q = self.final_norm(q)
        return q, jnp.stack(weights, axis=1)
