"""IMAT: the inter-modality-attention transformer, in its published and its common-width form.

Siriwardhana et al., "Multimodal Emotion Recognition with Transformer-Based Self Supervised Feature
Fusion", IEEE Access 2020 (SSE-FT); Chaudhari et al., Electronics 2023, 12, 288.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from imat_jax.models.attention import lecun
from imat_jax.models.backends import at_least_float32
from imat_jax.models.context import Context
from imat_jax.models.dropout import Keys, dropout, keep, layer_keys
from imat_jax.models.encoder import Encoder
from imat_jax.models.ima import IMAStack

MODALITIES = ("text", "audio", "vision")
FUSIONS = ("hadamard", "concat", "gated")

# What makes an IMAT the published system; sizes are 1024/512/256 features, 2 + 2 layers, 4 heads.
SSEFT = dict(
    width=None,
    cls_token={"text": "first", "audio": "learned", "vision": "learned"},
    positions={"text": "none", "audio": "learned", "vision": "learned"},
    input_norm={"text": False, "audio": True, "vision": True},
    norm="post",
    fusion="hadamard",
    init="published",
)


class IMAT(nnx.Module):
    """Encoders, one IMA stack for every ordered pair of modalities, fusion, head.

    For each query modality m: c_m is position 0 of its encoder, r_mn = IMA stack (c_m, frames of n)
    for every other modality n, and

        hadamard  f_m = prod_n r_mn            (published; c_m where it is read by no stack)
        concat    f_m = [c_m; r_mn ...]        (zeros where n is absent)
        gated     f_m = sum of softmax gates over c_m and the present r_mn

    then outputs = head([f_text; f_audio; f_vision]). **Missing modalities**: a row whose mask of m
    holds no True does not have m; no stack reads it, and f_m is zero. Its padding is never read,
    whatever it holds.

    Args:
      dims: {modality: feature width} of the modalities to use, any non-empty subset.
      outputs: K.
      width: common width of the streams; None keeps the features' own widths (published).
      encoder_layers, ima_layers, heads, ffn: sizes; `encoder_layers` may be {modality: layers}, as
        `input_dropout` may be {modality: rate}.
      cls, positions, input_norm: as in `Encoder`; each a value or {modality: value}.
      max_frames: rows of the learned position tables, {modality: frames} or one for all.
      norm: "post" (published) or "pre".
      directions: the (query, key) modalities to have a stack; None: every ordered pair
        (published). A pair of a modality that is not in `dims` is left out.
      fusion: "hadamard" (published), "concat" or "gated".
      context: utterances before each one, in its group, that the joint vector attends to;
        `bidirectional`: and as many after it.
      head_width: width of the head's hidden layer; None: its input's (published).
      dropout, attention_dropout, input_dropout, head_dropout: rates.
      modality_dropout: in training, each present modality of a row is dropped with this
        probability; a row that would lose all of them keeps all.
      remat: what the encoders keep for the backward pass, as in `Encoder`.
      attention: as in `SelfAttention`; those of the IMA stacks have one query and one form.
      init: "published" (`sse_ft` section 3.7: N(0, 0.02), Xavier for IMA) or "lecun".
      dtype: compute dtype; parameters are held in `param_dtype`.

    Raises:
      ValueError: a value that cannot be, or a modality without a summary of its own (a learned CLS,
        no layer) that is the query of no stack, so a constant, or the key of none, so never read.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        width: int | None = None,
        encoder_layers=2,
        ima_layers: int = 2,
        heads: int = 4,
        ffn: int = 1024,
        cls_token="learned",
        positions="sinusoidal",
        input_norm=True,
        max_frames=1024,
        norm: str = "post",
        directions: Sequence[tuple[str, str]] | None = None,
        fusion: str = "hadamard",
        context: int = 0,
        bidirectional: bool = False,
        head_width: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        input_dropout=0.0,
        head_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        remat: str = "none",
        attention: str = "plain",
        init: str = "lecun",
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        unknown = set(dims) - set(MODALITIES)
        if unknown or not dims:
            raise ValueError(f"dims names modalities among {MODALITIES}, not {sorted(dims)}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is one of {FUSIONS}, not {fusion!r}")
        if init not in ("published", "lecun"):
            raise ValueError(f'init is "published" or "lecun", not {init!r}')
        published = init == "published"
        normal, xavier = nnx.initializers.normal(0.02), nnx.initializers.xavier_uniform()
        kernel_init = normal if published else lecun
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        block = dict(heads=heads, ffn=ffn, norm=norm, dropout=dropout, kernel_init=kernel_init)
        block |= dict(attention_dropout=attention_dropout)

        self.modalities = tuple(m for m in MODALITIES if m in dims)
        every = [(m, n) for m in self.modalities for n in self.modalities if m != n]
        self.pairs = tuple(p for p in every if directions is None or p in directions)
        both_sides = {q for q, _ in self.pairs} & {n for _, n in self.pairs}
        for m in self.modalities:
            blind = _of(cls_token, m) == "learned" and not _of(encoder_layers, m)
            if blind and m not in both_sides:
                raise ValueError(
                    f"{m}: cls_token='learned' with encoder_layers=0 reads no frame, and no stack "
                    f"has {m} as query, or none as key; take cls_token='statistics', or a layer"
                )
        self.fusion = fusion
        self.modality_dropout = modality_dropout
        self.attention = attention
        self.encoders = nnx.Dict(
            {
                m: Encoder(
                    dims[m],
                    width=width,
                    layers=_of(encoder_layers, m),
                    cls_token=_of(cls_token, m),
                    positions=_of(positions, m),
                    max_frames=_of(max_frames, m),
                    input_norm=_of(input_norm, m),
                    input_dropout=_of(input_dropout, m),
                    remat=remat,
                    attention=attention,
                    **block,
                    **kw,
                )
                for m in self.modalities
            }
        )
        widths = {m: self.encoders[m].width for m in self.modalities}
        self.stacks = nnx.Dict(
            {
                _pair(m, n): IMAStack(
                    widths[m], widths[n], layers=ima_layers,
                    attention_init=xavier if published else lecun, **block, **kw,
                )
                for m, n in self.pairs
            }
        )  # fmt: skip
        if fusion == "gated":
            self.gates = nnx.Dict({m: nnx.Linear(widths[m], 1, **kw) for m in self.modalities})
        joint = list(self.modalities)  # of these widths
        if fusion == "concat":
            joint += [m for m, _ in self.pairs]
        width = sum(widths[m] for m in joint)
        self.context = nnx.data(None)
        if context:
            self.context = Context(
                width, context, bidirectional, attention_init=xavier if published else lecun,
                **block, **kw,
            )  # fmt: skip
        self.head = Head(
            width, head_width, outputs,
            dropout=head_dropout, published=published, **kw,
        )  # fmt: skip

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch, batch axis first: {m: [B, T, D_m], m_mask: [B, T] bool}; True = a real frame.

        With `context`, also `group` [B] int32 (`Context`); without it each row stands alone.

        Returns:
          outputs [B, K] float32, and extras: `cls/text` c_m [B, D]; `cls/text<-audio` r_mn [B, D];
          `fused/text` f_m; `ima/text<-audio` attention weights [B, layers, H, S], S counting the
          key modality's CLS first where it has a learned one; `context` [B, H, N] attention weights
          over the neighbours. Under jit, an extra that is not used
          is not computed.
        """
        keys = None if deterministic else layer_keys(rngs.dropout())
        masks = {m: batch[f"{m}_mask"] for m in self.modalities}
        if keys and self.modality_dropout > 0:
            masks = drop_modalities(masks, self.modality_dropout, next(keys))
        present = {m: masks[m].any(axis=1, keepdims=True) for m in self.modalities}  # [B, 1]
        extras, frames = {}, {}
        for m in self.modalities:
            frames[m] = self.encoders[m](batch[m], masks[m], keys)
            extras[f"cls/{m}"] = frames[m][0][:, 0]
        for m, n in self.pairs:
            # An absent modality has no frame, not even its learned CLS.
            x, mask = frames[n]
            r, weights = self.stacks[_pair(m, n)](extras[f"cls/{m}"], x, mask & present[n], keys)
            extras[f"cls/{m}<-{n}"], extras[f"ima/{m}<-{n}"] = r, weights
        for m in self.modalities:
            results = [(extras[f"cls/{m}<-{n}"], present[n]) for q, n in self.pairs if q == m]
            fused = self._fuse(m, extras[f"cls/{m}"], results)
            extras[f"fused/{m}"] = jnp.where(present[m], fused, 0)
        joint = jnp.concatenate([extras[f"fused/{m}"] for m in self.modalities], axis=-1)
        if self.context is not None:
            group = batch.get("group", jnp.full(joint.shape[0], -1, jnp.int32))
            joint, extras["context"] = self.context(joint, group, keys)
        return self.head(joint, keys), extras

    def _fuse(self, m: str, c: jax.Array, results: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
        """c [B, D] and (r [B, D], present [B, 1]) of the other modalities -> f_m."""
        if self.fusion == "concat":
            return jnp.concatenate([c, *(jnp.where(p, r, 0) for r, p in results)], axis=-1)
        if self.fusion == "hadamard":
            product, any_other = jnp.ones_like(c), jnp.zeros((c.shape[0], 1), bool)
            for r, p in results:
                product, any_other = product * jnp.where(p, r, 1), any_other | p
            return jnp.where(any_other, product, c)
        stacked = jnp.stack([c, *(r for r, _ in results)], axis=1)  # [B, M, D]
        usable = jnp.stack([jnp.ones((c.shape[0], 1), bool), *(p for _, p in results)], axis=1)
        scores = jnp.where(usable, self.gates[m](stacked).astype(jnp.float32), -jnp.inf)
        gates = jax.nn.softmax(scores, axis=1).astype(c.dtype)  # [B, M, 1]
        return (gates * stacked).sum(axis=1)


class Head(nnx.Module):
    """Dropout, dense, tanh, dropout, dense (`sse_ft` section 3.5); the outputs are float32."""

    def __init__(self, features, hidden, outputs, *, dropout, published, rngs, **kw):
        hidden = hidden or features
        init = lecun
        if published:  # PyTorch's default for Linear: U(+-1/sqrt(fan_in)), weight and bias
            init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.dense = nnx.Linear(features, hidden, kernel_init=init, rngs=rngs, **kw)
        self.out = nnx.Linear(hidden, outputs, kernel_init=init, rngs=rngs, **kw)
        self.dropout = dropout

    def __call__(self, x, keys: Keys = None):
        """x [B, D] -> [B, K], float32 or wider."""
        x = jnp.tanh(self.dense(dropout(x, self.dropout, keys)))
        return at_least_float32(self.out(dropout(x, self.dropout, keys)))


def directions(said: str) -> tuple[tuple[str, str], ...] | None:
    """`directions` of `IMAT` from "all", "none" or such as "text<-audio,text<-vision".

    Raises:
      ValueError: it is none of these.
    """
    if said in ("all", "none"):
        return None if said == "all" else ()
    pairs = tuple(tuple(part.split("<-")) for part in said.split(","))
    for pair in pairs:
        if len(set(pair)) != 2 or not set(pair) <= set(MODALITIES):
            raise ValueError(
                f'directions is "all", "none" or such as "text<-audio,text<-vision", not {said!r}'
            )
    return pairs


def drop_modalities(
    masks: Mapping[str, jax.Array], rate: float, words: jax.Array
) -> dict[str, jax.Array]:
    """Drop each modality of each row with probability `rate`; a row left with none keeps all.

    masks: {modality: [B, T] bool}; returned with dropped ones all False.
    """
    present = jnp.stack([mask.any(axis=1) for mask in masks.values()], axis=1)  # [B, M]
    kept = keep(words, rate, present.shape)
    kept |= ~(kept & present).any(axis=1, keepdims=True)
    return {m: mask & kept[:, i, None] for i, (m, mask) in enumerate(masks.items())}


def _of(value, modality: str):
    """One value for all modalities, or {modality: value}."""
    return value[modality] if isinstance(value, Mapping) else value


def _pair(m: str, n: str) -> str:
    return f"{m}_from_{n}"
