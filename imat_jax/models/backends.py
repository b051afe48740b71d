"""Self-attention's product of queries, keys and values: one function, four ways to compute it.

    plain  two products and a softmax, the weights in memory; the only one with dropout on them
    xla    `jax.nn.dot_product_attention`, XLA's form of the same
    cudnn  NVIDIA's fused kernel; bfloat16 or float16
    flash  JAX's Pallas kernel for TPUs

Letters: B batch, H heads, T/S query/key length, K width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from imat_jax.models.dropout import Keys
from imat_jax.models.dropout import dropout as drop
from imat_jax.models.layout import BATCH, on_a_mesh

BACKENDS = ("plain", "xla", "cudnn", "flash")
# Where "auto" takes the TPU kernel: up to here the weights are small and XLA does well. A guess;
# benchmarks/attention.py would tell.
LONG = 1024
NO_DROPOUT = "has no dropout on the attention weights: set attention_dropout=0"


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    backend: str = "plain",
    dropout: float = 0.0,
    keys: Keys = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v over the real keys; zero for a row of the batch that has none.

    Args:
      q, k, v: [B, H, T, K]; finite in padding too.
      mask: [B, T] bool, True where a key is real; need not be a prefix.
      backend: one of `BACKENDS`.
      dropout, keys: rate on the weights, and randomness; None: no dropout.

    Returns:
      [B, H, T, K].
    """
    if backend == "plain":
        scores = jnp.einsum("bhtk,bhsk->bhts", q * q.shape[-1] ** -0.5, k)
        weights = masked_softmax(scores, mask[:, None, None, :])  # [B, H, T, S]
        weights = drop(weights, dropout, keys)
        return jnp.einsum("bhts,bhsk->bhtk", weights, v)
    if backend not in BACKENDS:
        raise ValueError(f"attention is one of {BACKENDS}, not {backend!r}")
    if dropout and keys is not None:
        raise ValueError(f"attention {backend!r} {NO_DROPOUT}")
    if backend == "xla":
        out = _transposed(q, k, v, mask=mask[:, None, None, :], implementation="xla")
    elif backend == "cudnn":
        out = _by_length(q, k, v, mask, "cudnn")
    else:
        out = _flash(q, k, v, mask)
    # Of no key at all, these give the mean of the values, or that of one.
    return jnp.where(mask.any(axis=1)[:, None, None, None], out, 0)


def choose(
    name: str,
    device: jax.Device,
    *,
    dtype,
    head_widths: Sequence[int],
    frames: int,
    dropout: float,
) -> str:
    """The backend that `name`, one of `BACKENDS` or "auto", stands for on this device.

    "auto" is "cudnn" on NVIDIA GPUs and, beyond `LONG` frames, "flash" on TPUs, where they can run
    it; and else "plain". It is chosen once for a model: one with dropout on the weights is "plain"
    in evaluation too, so that a validation score is of the function that was trained.

    Args:
      device: one of those that will run it, all being alike.
      dtype: compute dtype.
      head_widths: K of every self-attention.
      frames: the longest T.
      dropout: rate on the attention weights.

    Raises:
      ValueError: no such name, or that backend cannot run; says why.
    """
    if name == "auto":
        fused = {"gpu": "cudnn", "tpu": "flash"}.get(device.platform, "plain")
        if fused == "flash" and frames <= LONG:
            return "plain"
        return "plain" if _obstacle(fused, device, dtype, head_widths, dropout) else fused
    if name not in BACKENDS:
        raise ValueError(f'model.attention is "auto" or one of {BACKENDS}, not {name!r}')
    if obstacle := _obstacle(name, device, dtype, head_widths, dropout):
        raise ValueError(f"model.attention {name!r} {obstacle}; 'auto' takes one that can")
    return name


def _obstacle(
    name: str, device: jax.Device, dtype, head_widths: Sequence[int], dropout: float
) -> str | None:
    """Why this backend cannot run, or None."""
    if name == "plain":
        return None
    if dropout:
        return NO_DROPOUT
    if name == "cudnn":
        capability = _cuda_capability(device)
        if capability < 8:
            return f"needs an NVIDIA GPU, Ampere or later, not {device.device_kind!r}"
        if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
            return f"needs dtype=bfloat16, not {jnp.dtype(dtype).name}"
        limit = 256 if capability >= 9 else 128
        if wrong := [w for w in head_widths if w > limit or w % 8]:
            return f"needs heads of a width up to {limit} that 8 divides, not {wrong[0]}"
    if name == "flash":
        if device.platform != "tpu":
            return f"needs a TPU, not {device.device_kind!r}"
        if wrong := [w for w in head_widths if w > 128 and w % 128]:
            return f"needs heads of a width up to 128, or that 128 divides, not {wrong[0]}"
    return None


def _cuda_capability(device: jax.Device) -> float:
    """8.0 is Ampere, 9.0 Hopper; 0 where the device is not NVIDIA's."""
    try:
        return float(getattr(device, "compute_capability", 0))
    except ValueError:  # AMD's are names
        return 0


def _transposed(q, k, v, **kw) -> jax.Array:
    """`jax.nn.dot_product_attention`, which has heads behind frames."""
    out = jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in (q, k, v)), **kw)
    return out.swapaxes(1, 2)


def _by_length(q, k, v, mask, implementation: str) -> jax.Array:
    """Attention that is told how many keys are real, and not which.

    A mask would be a bias [B, 1, T, S] to the cuDNN kernel, with a gradient to compute. Attention
    does not mind the order of its keys: the real ones go to the front.
    """
    frames = q.shape[2]
    q, k, v, mask = _padded(q, k, v, mask, 2)  # JAX refuses the gradient of odd lengths
    order = jnp.argsort(~mask, axis=1, stable=True)
    # Told that no index comes twice, the gradient is a plain write and not a sum.
    pick = lambda x, i: x.at[:, i].get(unique_indices=True, mode="promise_in_bounds")  # noqa: E731
    k, v = (jax.vmap(pick)(x, order) for x in (k, v))
    # One key at least: what a kernel makes of none is not defined.
    lengths = jnp.maximum(mask.sum(axis=1, dtype=jnp.int32), 1)
    out = _transposed(q, k, v, key_value_seq_lengths=lengths, implementation=implementation)
    return out[:, :, :frames]


def _padded(q, k, v, mask, multiple: int) -> list[jax.Array]:
    """With T a multiple of `multiple`; what is added is masked."""
    more = -q.shape[2] % multiple
    return [
        *(jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in (q, k, v)),
        jnp.pad(mask, ((0, 0), (0, more))),
    ]


def _flash(q, k, v, mask) -> jax.Array:
    """The kernel on each device's rows and heads: XLA cannot split a kernel by itself."""
    if not on_a_mesh():
        return _flash_on_one(q, k, v, mask)
    rows = P(*BATCH, "model")
    split = jax.shard_map(
        # The kernel does not say over which axes its results vary, so that is not checked.
        _flash_on_one, in_specs=(rows, rows, rows, BATCH), out_specs=rows,
        check_vma=False,
    )  # fmt: skip
    return split(q, k, v, mask)


def _flash_on_one(q, k, v, mask) -> jax.Array:
    # Imported where it runs: it brings Mosaic along, 0.4 s.
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    frames = q.shape[2]
    q, k, v, mask = _padded(q, k, v, mask, 128)
    block = next(size for size in (512, 384, 256, 128) if q.shape[2] % size == 0)
    # Every query is of segment 1, and so is every real key.
    segments = mask.astype(jnp.int32)
    names = ("q", "k_major", "k", "q_major_dkv", "k_major_dkv", "k_dkv", "q_dkv", "k_major_dq")
    names += ("k_dq", "q_dq")
    out = kernel.flash_attention(
        q, k, v,
        segment_ids=kernel.SegmentIds(jnp.ones_like(segments), segments),
        sm_scale=q.shape[-1] ** -0.5,
        block_sizes=kernel.BlockSizes(block_b=1, **{f"block_{name}": block for name in names}),
    )  # fmt: skip
    return out[:, :, :frames]


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the last axis of the places where `mask` is True; all zero where there is none.

    `jax.nn.softmax` of a row that is masked throughout is uniform, i.e. it would average padding;
    zero is what "nothing to attend to" means. Statistics are float32 or wider whatever the compute
    dtype is.

    Args:
      scores: [..., S].
      mask: bool, broadcastable to `scores`.
    """
    wide = at_least_float32(scores)
    # A finite floor, not -inf: the row maximum of a fully masked row stays finite, and so do its
    # gradients.
    wide = jnp.where(mask, wide, jnp.finfo(wide.dtype).min)
    weights = jnp.exp(wide - jax.lax.stop_gradient(wide.max(axis=-1, keepdims=True)))
    weights = jnp.where(mask, weights, 0)
    total = weights.sum(axis=-1, keepdims=True)
    return (weights / jnp.where(total > 0, total, 1)).astype(scores.dtype)


def at_least_float32(x: jax.Array) -> jax.Array:
    return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)
