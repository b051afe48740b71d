"""Attention: self-attention over frames, and one query over another modality.

Letters: B batch, T/S query/key length, D width, H heads, K width of a head, F inner width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer

from imat_jax.models.backends import attend, masked_softmax
from imat_jax.models.dropout import Keys, dropout

lecun = nnx.initializers.lecun_normal()


class SelfAttention(nnx.Module):
    """Multi-head self-attention with a key mask (Vaswani et al. 2017; `sse_ft` section 3.3).

    Args:
      width: D, a multiple of `heads`.
      heads: H.
      dropout: rate on the attention weights.
      attention: `backend` of `backends.attend`.
      dtype: compute dtype; parameters are kept in `param_dtype`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        attention: str = "plain",
        kernel_init: Initializer = lecun,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_heads(width, heads)
        kw = dict(kernel_init=kernel_init, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.head_width = width // heads
        self.qkv = nnx.LinearGeneral(width, (3, heads, self.head_width), **kw)
        self.out = nnx.LinearGeneral((heads, self.head_width), width, axis=(-2, -1), **kw)
        self.dropout = dropout
        self.attention = attention

    def __call__(self, x, mask, keys: Keys = None):
        """x [B, T, D], mask [B, T] bool of the keys -> [B, T, D]."""
        # Heads before frames: the batched products then read and write whole matrices.
        q, k, v = jnp.transpose(self.qkv(x), (2, 0, 3, 1, 4))  # each [B, H, T, K]
        # [B, H, T, K]
        y = attend(q, k, v, mask, backend=self.attention, dropout=self.dropout, keys=keys)
        return self.out(y.swapaxes(1, 2))


class OneQueryAttention(nnx.Module):
    """One query token attends over the frames of another modality; K and V are never formed.

    An inter-modality-attention stack is read at position 0 only, and its blocks never mix query
    positions, so one query token is all that it needs. With one query, per head h (`sse_ft`
    section 3.4):

        score_j = (W_k^T q) . x_j          instead of   q . (W_k x_j)
        out     = W_v (sum_j p_j x_j) + b_v sum_j p_j

    which costs O(D_k K) once and O(S D_k) per head instead of O(S D_k D) for the two projections:
    0.07 rather than 24.4 GMAC a sample for all six stacks at the published size. A key bias would
    add q . b_k to every score of a row, which the softmax removes; so there is none.

    Args:
      query_width: D_q, a multiple of `heads`; also the width of the result.
      key_width: D_k of the attended modality.
    """

    def __init__(
        self,
        query_width: int,
        key_width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        kernel_init: Initializer = lecun,
        out_init: Initializer = lecun,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_heads(query_width, heads)
        kw = dict(kernel_init=kernel_init, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.dtype = dtype
        self.head_width = query_width // heads
        self.query = nnx.LinearGeneral(query_width, (heads, self.head_width), **kw)
        self.key = nnx.LinearGeneral(key_width, (heads, self.head_width), use_bias=False, **kw)
        self.value = nnx.LinearGeneral(key_width, (heads, self.head_width), **kw)
        self.out = nnx.LinearGeneral(
            (heads, self.head_width), query_width, axis=(-2, -1), **(kw | {"kernel_init": out_init})
        )
        self.dropout = dropout

    def __call__(self, q, x, mask, keys: Keys = None):
        """q [B, D_q], x [B, S, D_k], mask [B, S] bool -> ([B, D_q], weights [B, H, S])."""
        key, value, bias = (
            p[...].astype(self.dtype) for p in (self.key.kernel, self.value.kernel, self.value.bias)
        )
        q = self.query(q) * self.head_width**-0.5  # [B, H, K]
        seen = jnp.einsum("bhk,dhk->bhd", q, key)  # the query as the frames see it
        weights = masked_softmax(jnp.einsum("bhd,bsd->bhs", seen, x), mask[:, None, :])
        kept = dropout(weights, self.dropout, keys)
        context = jnp.einsum("bhs,bsd->bhd", kept, x)
        # The bias is weighed by the sum of the weights: 1, but for dropout and for a row with no
        # frame at all, where attention must add nothing.
        heads = jnp.einsum("bhd,dhk->bhk", context, value)
        heads += bias[None] * kept.sum(axis=-1, keepdims=True)
        return self.out(heads), weights


class FeedForward(nnx.Module):
    """Two dense layers with a GELU between: the exact one (Flax's default is a tanh fit)."""

    def __init__(self, width: int, inner: int, *, kernel_init, dtype, param_dtype, rngs: nnx.Rngs):
        kw = dict(kernel_init=kernel_init, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.inner = nnx.Linear(width, inner, **kw)
        self.outer = nnx.Linear(inner, width, **kw)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outer(jax.nn.gelu(self.inner(x), approximate=False))


class Residual(nnx.Module):
    """`x + f(x)` with its LayerNorm before f ("pre") or after the sum ("post", the published)."""

    def __init__(self, width, *, norm: str, dropout: float, dtype, param_dtype, rngs: nnx.Rngs):
        if norm not in ("pre", "post"):
            raise ValueError(f'norm is "pre" or "post", not {norm!r}')
        self.pre = norm == "pre"
        self.norm = layer_norm(width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.dropout = dropout

    def __call__(self, x, f: Callable, keys: Keys = None):
        y = dropout(f(self.norm(x) if self.pre else x), self.dropout, keys)
        return x + y if self.pre else self.norm(x + y)


def layer_norm(width: int, *, dtype, param_dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with PyTorch's epsilon (Flax's default is 1e-6); statistics in float32."""
    return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"a width of {width} does not divide into {heads} heads")
