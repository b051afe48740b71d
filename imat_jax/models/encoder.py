"""One modality before fusion: projection, CLS, positions, LayerNorm, self-attention layers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer

from imat_jax.models.attention import (
    FeedForward,
    Residual,
    SelfAttention,
    layer_norm,
    lecun,
)
from imat_jax.models.backends import at_least_float32
from imat_jax.models.dropout import Keys, dropout
from imat_jax.models.layout import by_rows, whole

# What the forward pass keeps for the backward pass: all; products with weights (not attention's,
# whose size grows with the square of the length); the input of each layer.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "layers": jax.checkpoint_policies.nothing_saveable,
}


class EncoderLayer(nnx.Module):
    """Self-attention, then a feed-forward layer, each a residual block (`sse_ft` section 3.3)."""

    def __init__(
        self, width, heads, ffn, *, norm, dropout, attention_dropout, attention, kernel_init,
        dtype, param_dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.attention = SelfAttention(
            width, heads, dropout=attention_dropout, attention=attention,
            kernel_init=kernel_init, **kw,
        )  # fmt: skip
        self.ffn = FeedForward(width, ffn, kernel_init=kernel_init, **kw)
        self.residuals = nnx.List([Residual(width, norm=norm, dropout=dropout, **kw) for _ in "ab"])
        self.draws = (attention_dropout > 0) + 2 * (dropout > 0)  # keys that a call takes

    def __call__(self, x, mask, keys: Keys = None):
        """x [B, T, D], mask [B, T] -> [B, T, D]."""
        x = by_rows(self.residuals[0](x, lambda y: self.attention(y, mask, keys), keys))
        return by_rows(self.residuals[1](x, self.ffn, keys))

    def rematerialized(self, x, mask, keys: Keys, policy):
        """The same; the backward pass computes again what `policy` does not keep."""
        # Drawn here: what is drawn inside must not be seen outside.
        words = None if keys is None else list(itertools.islice(keys, self.draws))

        def call(x, mask, words):
            return self(x, mask, None if words is None else iter(words))

        return jax.checkpoint(call, policy=policy)(x, mask, words)


class Encoder(nnx.Module):
    """The stream of one modality, [B, T, D_in] -> [B, T(+1), D] whose position 0 is its summary.

    Args:
      features: D_in, the width of the SSL features.
      width: D; None keeps D_in and makes no projection.
      layers: number of self-attention layers; may be 0.
      cls_token: "learned" puts a trained vector in front, "statistics" a projection of the frames'
        mean and deviation (what a linear model would read); "first" takes the first feature (`<s>`
        of the RoBERTa family), and the length stays T.
      positions: "learned" (a row a position, as published), "sinusoidal" or "none".
      max_frames: rows of the learned table, CLS not counted.
      input_norm: LayerNorm after the positions.
      remat: what training keeps of the layers: "none" (all), "dots" or "layers"; see `REMAT`.
      attention: as in `SelfAttention`.
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
        remat: str = "none",
        attention: str = "plain",
        kernel_init: Initializer = lecun,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if remat not in REMAT:
            raise ValueError(f"remat is one of {', '.join(REMAT)}, not {remat!r}")
        if cls_token not in ("learned", "statistics", "first"):
            raise ValueError(f'cls_token is "learned", "statistics" or "first", not {cls_token!r}')
        if positions not in ("learned", "sinusoidal", "none"):
            raise ValueError(f'positions is "learned", "sinusoidal" or "none", not {positions!r}')
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.dtype = dtype
        self.remat = remat
        self.positions = positions
        self.longest = max_frames + 1  # with a CLS
        self.features = features
        self.width = width or features
        self.project = nnx.data(None)
        if width:
            self.project = nnx.Linear(features, width, kernel_init=kernel_init, **kw)
        self.cls = nnx.data(None)
        if cls_token == "learned":
            self.cls = nnx.Param(jnp.zeros((self.width,), param_dtype))
        self.summarize = nnx.data(None)
        if cls_token == "statistics":
            self.summarize = nnx.Linear(2 * features, self.width, kernel_init=kernel_init, **kw)
        self.table = nnx.data(None)
        if positions == "learned":
            rows = max_frames + (cls_token != "first")
            init = nnx.initializers.normal(0.02)
            self.table = nnx.Param(init(rngs.params(), (rows, self.width), param_dtype))
        self.input_norm = layer_norm(self.width, **kw) if input_norm else nnx.data(None)
        self.input_dropout = input_dropout
        self.dropout = dropout
        layer = dict(norm=norm, dropout=dropout, attention_dropout=attention_dropout)
        layer |= dict(attention=attention)
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
        cls = None
        if self.cls is not None:
            cls = jnp.broadcast_to(self.cls[...].astype(x.dtype), (x.shape[0], self.width))
        elif self.summarize is not None:
            moments = dropout(frame_moments(x, mask), self.input_dropout, keys)
            cls = self.summarize(moments.astype(x.dtype))
        x = dropout(x, self.input_dropout, keys)
        if self.project is not None:
            x = self.project(x)
        if cls is not None:
            x = jnp.concatenate([cls[:, None], x], axis=1)
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        x = self._add_positions(x, mask)
        if self.input_norm is not None:
            x = self.input_norm(x)
        if cls is not None or self.input_norm is not None:
            x = dropout(x, self.dropout, keys)
        x = by_rows(jnp.where(mask[..., None], x, 0))
        policy = REMAT[self.remat]
        for layer in self.layers:
            if policy is None:
                x = layer(x, mask, keys)
            else:
                x = layer.rematerialized(x, mask, keys, policy)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x, mask

    def _add_positions(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        if self.positions == "none":
            return x
        if self.positions == "sinusoidal":
            return x + sinusoids(x.shape[1], self.width, self.longest).astype(x.dtype)[None]
        if x.shape[1] > self.table.shape[0]:
            raise ValueError(
                f"{x.shape[1]} positions, CLS included, but the learned table has "
                f"{self.table.shape[0]}: crop with config.data.max_frames or raise model.max_frames"
            )
        # The published index is the count of real frames so far (fairseq), not the frame number.
        index = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
        return x + whole(self.table[...].astype(x.dtype))[jnp.maximum(index, 0)]


def frame_moments(x: jax.Array, mask: jax.Array) -> jax.Array:
    """x [B, T, D], zero where not `mask` [B, T] -> mean and deviation [B, 2 D], at least float32.

    Of the real frames; zero where there is none.
    """
    x = at_least_float32(x)
    frames = jnp.maximum(mask.sum(axis=1, dtype=x.dtype), 1)[:, None]  # [B, 1]
    mean = x.sum(axis=1) / frames
    centred = jnp.where(mask[..., None], x - mean[:, None], 0)
    # The floor keeps the gradient of a constant feature finite, for encoders trained end to end.
    deviation = jnp.sqrt(jnp.maximum((centred**2).sum(axis=1) / frames, 1e-12))
    return jnp.concatenate([mean, deviation], axis=1)


def sinusoids(length: int, width: int, longest: int) -> jax.Array:
    """Fixed positions, [length, width] float32: sine half, cosine half (Vaswani et al. 2017).

    longest: of a length that is a symbol (`jax.export`), the most that it stands for.
    """
    known = length if isinstance(length, int) else longest
    rate = np.exp(-np.log(10000.0) * np.arange((width + 1) // 2) / max((width + 1) // 2 - 1, 1))
    angle = np.arange(known)[:, None] * rate
    table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, :width]
    return jnp.asarray(table, "float32")[:length]
