"""MulT: the multimodal transformer for unaligned sequences.

Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019: frames
of every modality, projected to one width (equation 2) and with positions (3), attend over those of
each other modality (1) in D layers (4); the results of a target modality, side by side, go through
self-attention layers, and their last frames through a residual block to the outputs.

Parameters: 1,071,931 (features 300, 74, 35; one output; defaults). The authors' network has
1,073,731: the 1,800 key biases that a softmax removes are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from imat_jax.models.attention import check_heads, layer_norm
from imat_jax.models.backends import at_least_float32, masked_softmax
from imat_jax.models.dropout import Keys, dropout
from imat_jax.models.encoder import sinusoids
from imat_jax.models.imat import MODALITIES
from imat_jax.models.layout import by_rows
from imat_jax.models.summary import keys_of, masks_of, of

MODES = ("corrected", "reference")
xavier = nnx.initializers.xavier_uniform()


class MulT(nnx.Module):
    """Directed attention between all pairs of modalities, frame by frame.

    Differences from the authors' code (yaohungt/Multimodal-Transformer), in the default mode,
    "corrected":
    - padding is masked; they have none (their features are padded to one length, and it is read);
    - a frame may attend to all frames, as in the paper; their code lets frame t of T see the first
      t + 1 + |S - T| of S only, a causal mask even across modalities;
    - the last real frame is read, not the last of the padded ones;
    - positions do not depend on the features (theirs vanish where a projected frame's first
      channel is exactly 0).
    "reference" does in all four as they do, and `convert.mult` loads their weights into either.
    In both modes: attention has one dropout rate for all sources where they have .1 for text and 0
    for audio and vision; in training they drop features of text, before the projection, at the rate
    `embed_dropout`, here only `input_dropout` does; one modality alone goes through its
    self-attention layers only, where theirs cannot run. As theirs, a modality whose features are
    `width` wide is not projected.

    **Missing modalities**: a row without m gets nothing from the stacks that read m (their
    attention adds only its bias), and the part of m in the joint vector is zero.

    Args:
      dims: {modality: feature width} of the modalities to use, any non-empty subset.
      outputs: K.
      width: of the streams, a multiple of `heads`.
      layers: of each of the crossmodal transformers.
      memory_layers: of each self-attention transformer.
      ffn: inner width of the crossmodal feed-forward layers; None: 4 `width`. Those of the
        self-attention layers are as many times wider as their streams are.
      targets: modalities that attend to the others and are read; None: all.
      max_frames: of a length that is a symbol (`jax.export`), the most that it stands for; one for
        all, or {modality: frames}.
      mode: "corrected" or "reference".
      dropout: on blocks and inside of feed-forward layers; `embed_dropout`: on streams with their
        positions; `input_dropout`: on features, a rate or {modality: rate}; `head_dropout`: inside
        of the residual block.
      modality_dropout: as in `IMAT`.
      dtype: compute dtype; parameters are held in `param_dtype`.
    """

    attention = "plain"

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        width: int | None = 30,
        heads: int = 5,
        layers: int = 5,
        memory_layers: int = 5,
        ffn: int | None = None,
        targets: Sequence[str] | None = None,
        max_frames=1024,
        mode: str = "corrected",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        embed_dropout: float = 0.25,
        input_dropout=0.0,
        head_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if mode not in MODES:
            raise ValueError(f"mult.mode is one of {MODES}, not {mode!r}")
        if not width:
            raise ValueError("mult needs a width: its streams attend to each other")
        if layers < 1 or memory_layers < 1:
            raise ValueError("mult.layers and mult.memory_layers are 1 or more")
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        block = dict(heads=heads, mode=mode, dropout=dropout, embed_dropout=embed_dropout)
        block |= dict(attention_dropout=attention_dropout)
        block |= dict(longest=max(of(max_frames, m) for m in dims))
        self.modalities = tuple(m for m in MODALITIES if m in dims)
        self.targets = tuple(m for m in self.modalities if m in (targets or self.modalities))
        self.mode, self.dtype = mode, dtype
        self.input_dropout = tuple(of(input_dropout, m) for m in self.modalities)
        self.modality_dropout = modality_dropout
        self.project = nnx.Dict(
            {
                m: nnx.Linear(dims[m], width, use_bias=False, kernel_init=xavier, **kw)
                for m in self.modalities
                if dims[m] != width
            }
        )
        ffn = ffn or 4 * width
        copies = max(len(self.modalities) - 1, 1)
        self.cross = nnx.Dict(
            {
                f"{m}_from_{n}": CrossTransformer(width, ffn, layers=layers, **block, **kw)
                for m, n in self.pairs
            }
        )
        self.memory = nnx.Dict(
            {
                m: CrossTransformer(
                    copies * width, copies * ffn, layers=memory_layers, **block, **kw
                )
                for m in self.targets
            }
        )
        joint = len(self.targets) * copies * width
        self.block = nnx.List([nnx.Linear(joint, joint, kernel_init=xavier, **kw) for _ in "ab"])
        self.out = nnx.Linear(joint, outputs, kernel_init=xavier, **kw)
        self.head_dropout = head_dropout

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(target, source) modalities of the crossmodal transformers."""
        return [(m, n) for m in self.targets for n in self.modalities if m != n]

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, K] float32, extras).

        Extras: `hidden` [B, D], what the residual block reads.
        """
        keys = keys_of(deterministic, rngs)
        masks = masks_of(batch, self.modalities, self.modality_dropout, keys)
        streams = {m: self._stream(m, batch[m], masks[m], keys) for m in self.modalities}
        if self.mode == "reference":
            masks = {m: jnp.ones_like(mask) for m, mask in masks.items()}
        last = []
        for m in self.targets:
            found = [
                self.cross[f"{m}_from_{n}"](streams[m], streams[n], masks[n], keys)
                for n in self.modalities
                if n != m
            ]
            x = jnp.concatenate(found or [streams[m]], axis=-1)
            x = jnp.where(masks[m][..., None], x, 0)
            last.append(last_frame(self.memory[m](x, None, masks[m], keys), masks[m]))
        hidden = jnp.concatenate(last, axis=-1)
        x = dropout(nnx.relu(self.block[0](hidden)), self.head_dropout, keys)
        outputs = self.out(self.block[1](x) + hidden)
        return at_least_float32(outputs), {"hidden": hidden}

    def _stream(self, m: str, x, mask, keys: Keys) -> jax.Array:
        """x [B, T, F] -> [B, T, D]."""
        x = jnp.where(mask[..., None], x, 0).astype(self.dtype)
        x = dropout(x, self.input_dropout[self.modalities.index(m)], keys)
        return self.project[m](x) if m in self.project else x


class CrossTransformer(nnx.Module):
    """Layers in which a target stream attends over a source stream, or over itself.

    The source is the same in all layers: it is never updated.
    """

    def __init__(
        self, width, ffn, *, heads, layers, longest, mode, dropout, embed_dropout,
        attention_dropout, **kw,
    ):  # fmt: skip
        self.width, self.mode, self.embed_dropout = width, mode, embed_dropout
        self.longest = longest
        self.layers = nnx.List(
            [
                CrossLayer(
                    width, ffn, heads=heads, dropout=dropout, attention_dropout=attention_dropout,
                    **kw,
                )
                for _ in range(layers)
            ]
        )  # fmt: skip
        self.final_norm = layer_norm(width, **kw)

    def __call__(self, x, source, mask, keys: Keys = None):
        """x [B, T, D], source [B, S, D] or None (x itself), mask [B, S] of the source -> x's."""
        frames = x.shape[1] if source is None else source.shape[1]
        seen = mask[:, None, :]  # [B, 1, S]
        if self.mode == "reference":
            seen = published_mask(x.shape[1], frames)[None]
        x = self._embed(x, keys)
        source = source if source is None else self._embed(source, keys)
        for layer in self.layers:
            x = layer(x, source, seen, keys)
        return self.final_norm(x)

    def _embed(self, x: jax.Array, keys: Keys) -> jax.Array:
        table = positions(x.shape[1], self.width, self.longest).astype(x.dtype)[None]
        if self.mode == "reference":
            table = jnp.where(x[..., :1] == 0, 0, table)
        return dropout(x * self.width**0.5 + table, self.embed_dropout, keys)


class CrossLayer(nnx.Module):
    """Attention, then a feed-forward layer, each after a LayerNorm and added to its input."""

    def __init__(self, width, ffn, *, heads, dropout, attention_dropout, **kw):
        self.attention = CrossAttention(width, heads, dropout=attention_dropout, **kw)
        self.ffn = ReLUFeedForward(width, ffn, dropout=dropout, **kw)
        self.norms = nnx.List([layer_norm(width, **kw) for _ in "ab"])
        self.dropout = dropout

    def __call__(self, x, source, mask, keys: Keys = None):
        """x [B, T, D], source [B, S, D] or None (x itself), mask bool [B or 1, T or 1, S]."""
        q = self.norms[0](x)
        kv = q if source is None else self.norms[0](source)
        x = by_rows(x + dropout(self.attention(q, kv, mask, keys), self.dropout, keys))
        return by_rows(x + dropout(self.ffn(self.norms[1](x), keys), self.dropout, keys))


class CrossAttention(nnx.Module):
    """Multi-head attention of one stream over another (equation 1).

    There is no key bias: it would add the same to every score of a row.
    """

    def __init__(self, width, heads, *, dropout, dtype, param_dtype, rngs: nnx.Rngs):
        check_heads(width, heads)
        kw = dict(kernel_init=xavier, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.head_width = width // heads
        self.query = nnx.LinearGeneral(width, (heads, self.head_width), **kw)
        self.key = nnx.LinearGeneral(width, (heads, self.head_width), use_bias=False, **kw)
        self.value = nnx.LinearGeneral(width, (heads, self.head_width), **kw)
        self.out = nnx.LinearGeneral((heads, self.head_width), width, axis=(-2, -1), **kw)
        self.dropout = dropout

    def __call__(self, x, source, mask, keys: Keys = None):
        """x [B, T, D], source [B, S, D], mask bool [B or 1, T or 1, S] -> [B, T, D]."""
        q = self.query(x) * self.head_width**-0.5  # [B, T, H, K]
        scores = jnp.einsum("bthk,bshk->bhts", q, self.key(source))
        weights = dropout(masked_softmax(scores, mask[:, None]), self.dropout, keys)
        return self.out(jnp.einsum("bhts,bshk->bthk", weights, self.value(source)))


class ReLUFeedForward(nnx.Module):
    """Two dense layers, with ReLU and dropout between."""

    def __init__(self, width, inner, *, dropout, **kw):
        self.inner = nnx.Linear(width, inner, kernel_init=xavier, **kw)
        self.outer = nnx.Linear(inner, width, kernel_init=xavier, **kw)
        self.dropout = dropout

    def __call__(self, x, keys: Keys = None):
        """x [..., D] -> [..., D]."""
        return self.outer(dropout(nnx.relu(self.inner(x)), self.dropout, keys))


def positions(length: int, width: int, longest: int) -> jax.Array:
    """[length, width] float32: fixed positions, counted from 1; an odd width's last column is 0.

    longest: as of `sinusoids`.
    """
    even = width - width % 2
    return jnp.pad(sinusoids(length + 1, even, longest + 1)[1:], ((0, 0), (0, width % 2)))


def published_mask(target: int, source: int) -> jax.Array:
    """[T, S] bool: frame t attends to frames up to t + |S - T|."""
    t = jnp.arange(target)[:, None]
    apart = jax.core.max_dim(source - target, target - source)  # abs takes no symbol
    return jnp.arange(source)[None] <= t + apart


def last_frame(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The last real frame of x [B, T, D], zero where there is none: [B, D]."""
    place = jnp.where(mask, jnp.arange(mask.shape[1])[None], -1).max(axis=1)
    frame = jnp.take_along_axis(x, jnp.maximum(place, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where(place[:, None] >= 0, frame, 0)
