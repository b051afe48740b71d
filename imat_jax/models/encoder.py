"""One modality before fusion: projection, CLS, positions, LayerNorm, self-attention layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer

from imat_jax.models import attention
from imat_jax.models.attention import FeedForward, Keys, Residual, SelfAttention, layer_norm, lecun


class EncoderLayer(nnx.Module):
    """Self-attention, then a feed-forward layer, each a residual block (`sse_ft` section 3.3)."""

    def __init__(
        self, width, heads, ffn, *, norm, dropout, attention_dropout, kernel_init, dtype,
        param_dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.attention = SelfAttention(
            width, heads, dropout=attention_dropout, kernel_init=kernel_init, **kw
        )
        self.ffn = FeedForward(width, ffn, kernel_init=kernel_init, **kw)
        self.residuals = nnx.List([Residual(width, norm=norm, dropout=dropout, **kw) for _ in "ab"])

    def __call__(self, x, mask, keys: Keys = None):
        """x [B, T, D], mask [B, T] -> [B, T, D]."""
        x = self.residuals[0](x, lambda y: self.attention(y, mask, keys), keys)
        return self.residuals[1](x, self.ffn, keys)


class Encoder(nnx.Module):
    """The stream of one modality, [B, T, D_in] -> [B, T(+1), D] whose position 0 is its summary.

    Args:
      features: D_in, the width of the SSL features.
      width: D; None keeps D_in and makes no projection.
      layers: number of self-attention layers; may be 0.
      cls_token: "learned" puts a trained vector in front; "first" takes the first feature (`<s>` of
        the RoBERTa family), and the length stays T.
      positions: "learned" (a row a position, as published), "sinusoidal" or "none".
      max_frames: rows of the learned table, CLS not counted.
      input_norm: LayerNorm after the positions.
    """

    def __init__(
        self,
        features: int,
        *,
        width: int | None = None,
        layers: int = 2,
        heads: int = 4,
        ffn: int = 1024,
        cls_token: str = "learned",
        positions: str = "learned",
        max_frames: int = 1024,
        input_norm: bool = True,
        norm: str = "post",
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kernel_init: Initializer = lecun,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if cls_token not in ("learned", "first"):
            raise ValueError(f'cls_token is "learned" or "first", not {cls_token!r}')
        if positions not in ("learned", "sinusoidal", "none"):
            raise ValueError(f'positions is "learned", "sinusoidal" or "none", not {positions!r}')
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.dtype = dtype
        self.positions = positions
        self.features = features
        self.width = width or features
        self.project = nnx.data(None)
        if width:
            self.project = nnx.Linear(features, width, kernel_init=kernel_init, **kw)
        self.cls = nnx.data(None)
        if cls_token == "learned":
            self.cls = nnx.Param(jnp.zeros((self.width,), param_dtype))
        self.table = nnx.data(None)
        if positions == "learned":
            rows = max_frames + (cls_token == "learned")
            init = nnx.initializers.normal(0.02)
            self.table = nnx.Param(init(rngs.params(), (rows, self.width), param_dtype))
        self.input_norm = layer_norm(self.width, **kw) if input_norm else nnx.data(None)
        self.input_dropout = input_dropout
        self.dropout = dropout
        layer = dict(norm=norm, dropout=dropout, attention_dropout=attention_dropout)
        self.layers = nnx.List(
            [
                EncoderLayer(self.width, heads, ffn, kernel_init=kernel_init, **layer, **kw)
                for _ in range(layers)
            ]
        )
        # A pre-norm stack leaves its sum unnormalised; the IMA stacks read it as keys.
        final = norm == "pre" and layers > 0
        self.final_norm = layer_norm(self.width, **kw) if final else nnx.data(None)

    def __call__(self, x, mask, keys: Keys = None):
        """x [B, T, D_in], mask [B, T] bool -> (x [B, T', D], mask [B, T']), T' = T or T + 1."""
        if x.shape[-1] != self.features:
            raise ValueError(f"features of width {x.shape[-1]}; the model takes {self.features}")
        x = jnp.where(mask[..., None], x, 0).astype(
            self.dtype
        )  # padding may hold anything, NaN too
        x = attention.dropout(x, self.input_dropout, keys)
        if self.project is not None:
            x = self.project(x)
        if self.cls is not None:
            cls = jnp.broadcast_to(self.cls[...].astype(x.dtype), (len(x), 1, self.width))
            x = jnp.concatenate([cls, x], axis=1)
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        x = self._add_positions(x, mask)
        if self.input_norm is not None:
            x = self.input_norm(x)
        if self.cls is not None or self.input_norm is not None:
            x = attention.dropout(x, self.dropout, keys)
        x = jnp.where(mask[..., None], x, 0)
        for layer in self.layers:
            x = layer(x, mask, keys)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x, mask

    def _add_positions(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        if self.positions == "none":
            return x
        if self.positions == "sinusoidal":
            return x + sinusoids(x.shape[1], self.width).astype(x.dtype)[None]
        if x.shape[1] > len(self.table):
            raise ValueError(
                f"{x.shape[1]} positions, CLS included, but the learned table has "
                f"{len(self.table)}: crop with config.data.max_frames or raise model.max_frames"
            )
        # The published index is the count of real frames so far (fairseq), not the frame number.
        index = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
        return x + self.table[...].astype(x.dtype)[jnp.maximum(index, 0)]


def sinusoids(length: int, width: int) -> jax.Array:
    """Fixed positions, [length, width] float32: sine half, cosine half (Vaswani et al. 2017)."""
    rate = np.exp(-np.log(10000.0) * np.arange((width + 1) // 2) / max((width + 1) // 2 - 1, 1))
    angle = np.arange(length)[:, None] * rate
    return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, :width], "float32")
