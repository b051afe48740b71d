"""MBT: the multimodal bottleneck transformer.

Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021, sections 3.2 to 3.4:
each modality has its own Transformer; in the last layers its frames attend, beside themselves, to
a few bottleneck tokens that all modalities have in common, and only through these does one
learn of another: [z_m; f_m] = layer_m([z_m; f]), and f is the mean of the f_m. The outputs are the
mean over modalities of a linear function of each one's CLS.

Parameters: 328,643 (features 300, 74, 35; one output; defaults).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from imat_jax.models.attention import layer_norm, lecun
from imat_jax.models.backends import at_least_float32
from imat_jax.models.dropout import dropout
from imat_jax.models.encoder import Encoder, EncoderLayer
from imat_jax.models.imat import MODALITIES
from imat_jax.models.summary import keys_of, masks_of, of


class MBT(nnx.Module):
    """Encoders whose last layers share bottleneck tokens.

    **Missing modalities**: a row's bottleneck and outputs are means over the modalities that it
    has.

    Differences from the authors' code (google-research/scenic, projects/mbt): frames of SSL
    features in place of patches of pictures and spectrograms, with nothing pretrained; any subset
    of three modalities; sizes; no stochastic depth; an output layer (and, where `norm` is "pre", a
    last LayerNorm) for each modality, where one is shared by all; the loss is that of the mean of
    the modalities' outputs, where training there takes the mean of the losses of each; as many
    bottlenecks as said, where there is one more when a CLS classifies. As there, and unlike the
    equations of the paper, all modalities of a layer read the same bottleneck, and none the one
    that another has updated. Blocks are pre-norm there: here as `norm` says.

    Args:
      dims: {modality: feature width} of the modalities to use, any non-empty subset.
      outputs: K.
      width: of the streams.
      encoder_layers: of each modality alone, before fusion; may be 0.
      fusion_layers: with bottlenecks; one alone would join nothing.
      bottlenecks: tokens.
      heads, ffn, cls_token, positions, max_frames, input_norm, norm, dropout, attention_dropout,
        remat, attention: as in `Encoder`; the fusion layers are never recomputed.
      input_dropout: a rate, or {modality: rate}; `head_dropout`: on each CLS.
      modality_dropout: as in `IMAT`.
      dtype: compute dtype; parameters are held in `param_dtype`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        width: int | None = 64,
        encoder_layers: int = 1,
        fusion_layers: int = 2,
        bottlenecks: int = 4,
        heads: int = 4,
        ffn: int = 128,
        cls_token: str = "learned",
        positions: str = "sinusoidal",
        input_norm: bool = True,
        max_frames=1024,
        norm: str = "post",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        input_dropout=0.0,
        head_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        remat: str = "none",
        attention: str = "plain",
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if not width:
            raise ValueError("mbt needs a width: its modalities share tokens")
        if fusion_layers < 2 or bottlenecks < 1:
            raise ValueError(
                "mbt.bottlenecks is 1 or more, and mbt.fusion_layers 2 or more: the first tells "
                "the tokens of the modalities, the next the modalities of the tokens"
            )
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        block = dict(heads=heads, ffn=ffn, norm=norm, dropout=dropout, attention=attention)
        block |= dict(attention_dropout=attention_dropout)
        self.modalities = tuple(m for m in MODALITIES if m in dims)
        self.modality_dropout = modality_dropout
        self.attention, self.dtype = attention, dtype
        self.encoders = nnx.Dict(
            {
                m: Encoder(
                    dims[m], width=width, layers=encoder_layers, cls_token=cls_token,
                    positions=positions, max_frames=of(max_frames, m), input_norm=input_norm,
                    input_dropout=of(input_dropout, m), remat=remat, **block, **kw,
                )
                for m in self.modalities
            }
        )  # fmt: skip
        self.layers = nnx.List(
            [
                nnx.Dict(
                    {
                        m: EncoderLayer(width, kernel_init=lecun, **block, **kw)
                        for m in self.modalities
                    }
                )
                for _ in range(fusion_layers)
            ]
        )
        init = nnx.initializers.normal(0.02)
        self.bottleneck = nnx.Param(init(rngs.params(), (bottlenecks, width), param_dtype))
        normed = self.modalities if norm == "pre" else ()
        self.final_norms = nnx.Dict({m: layer_norm(width, **kw) for m in normed})
        self.out = nnx.Dict({m: nnx.Linear(width, outputs, **kw) for m in self.modalities})
        self.head_dropout = head_dropout

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, K] float32, {"cls/text": [B, D], …})."""
        keys = keys_of(deterministic, rngs)
        masks = masks_of(batch, self.modalities, self.modality_dropout, keys)
        present = {m: mask.any(axis=1, keepdims=True) for m, mask in masks.items()}  # [B, 1]
        frames = {m: self.encoders[m](batch[m], masks[m], keys) for m in self.modalities}
        rows = next(iter(present.values())).shape[0]
        shared = self.bottleneck[...].astype(self.dtype)
        shared = jnp.broadcast_to(shared[None], (rows, *shared.shape))  # [B, F, D]
        for i, layer in enumerate(self.layers):
            updated = {}
            for m, (x, mask) in frames.items():
                length = x.shape[1]
                both = jnp.concatenate([x, shared], axis=1)
                seen = jnp.pad(mask, ((0, 0), (0, shared.shape[1])), constant_values=True)
                both = layer[m](both, seen, keys)
                frames[m], updated[m] = (both[:, :length], mask), both[:, length:]
            if i + 1 < len(self.layers):  # after the last, nobody reads it
                shared = mean_of_present(updated, present)
        cls = {m: x[:, 0] for m, (x, _) in frames.items()}
        cls |= {m: normed(cls[m]) for m, normed in self.final_norms.items()}
        outputs = {
            m: at_least_float32(self.out[m](dropout(x, self.head_dropout, keys)))
            for m, x in cls.items()
        }
        return mean_of_present(outputs, present), {f"cls/{m}": x for m, x in cls.items()}


def mean_of_present(x: Mapping[str, jax.Array], present: Mapping[str, jax.Array]) -> jax.Array:
    """Mean over the modalities that each row has; zero where there is none.

    Args:
      x: {m: [B, ...]}.
      present: {m: [B, 1] bool}.
    """
    total, count = 0.0, 0.0
    for m, value in x.items():
        there = present[m].reshape(-1, *[1] * (value.ndim - 1))
        total += jnp.where(there, value, 0)
        count += there.astype(value.dtype)
    return total / jnp.maximum(count, 1)
