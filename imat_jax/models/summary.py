"""One vector a modality: what the fusions of whole utterances start from.

The authors of LF-DNN, TFN, LMF, MISA and Self-MM read text with an LSTM or a fine-tuned BERT, the
others from means of frames or LSTMs. Here all of them read every modality with IMAT's own encoder,
so that what is compared is the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from imat_jax.models.attention import layer_norm
from imat_jax.models.dropout import Keys, dropout, layer_keys
from imat_jax.models.encoder import Encoder, frame_moments
from imat_jax.models.imat import MODALITIES, drop_modalities


class Statistics(nnx.Module):
    """A projection of the frames' mean and deviation, with a LayerNorm."""

    def __init__(self, features, width, *, input_norm, input_dropout, dtype, param_dtype, rngs):
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.features = features
        self.width = width or features
        self.summarize = nnx.Linear(2 * features, self.width, **kw)
        self.input_norm = layer_norm(self.width, **kw) if input_norm else nnx.data(None)
        self.input_dropout = input_dropout
        self.dtype = dtype

    def __call__(self, x, mask, keys: Keys = None):
        """x [B, T, F], mask [B, T] -> [B, D]."""
        x = frame_moments(jnp.where(mask[..., None], x, 0).astype(self.dtype), mask)
        x = self.summarize(dropout(x, self.input_dropout, keys).astype(self.dtype))
        return x if self.input_norm is None else self.input_norm(x)


class SummaryFusion(nnx.Module):
    """Base of the models that fuse one vector a modality.

    A modality's vector is position 0 of its `Encoder`; without self-attention layers, where
    nothing else reads the frames, a projection of the frames' mean and deviation.

    Args:
      dims: {modality: feature width} of the modalities to use, any non-empty subset.
      width: of the vectors; None keeps the features' own widths.
      encoder_layers, heads, ffn, cls_token, positions, max_frames, input_norm, norm, dropout,
        attention_dropout, remat, attention: as in `Encoder`.
      input_dropout: a rate, or {modality: rate}.
      modality_dropout: as in `IMAT`.
      dtype: compute dtype; parameters are held in `param_dtype`.

    Raises:
      ValueError: there is nothing to read the frames with.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        *,
        width: int | None = 64,
        encoder_layers: int = 1,
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
        modality_dropout: float = 0.0,
        remat: str = "none",
        attention: str = "plain",
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if not encoder_layers and cls_token != "statistics":
            raise ValueError(
                f"cls_token={cls_token!r} with encoder_layers=0 reads no frame; take "
                'cls_token="statistics", or a layer'
            )
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs, input_norm=input_norm)
        options = dict(
            layers=encoder_layers, heads=heads, ffn=ffn, cls_token=cls_token, positions=positions,
            norm=norm, dropout=dropout, attention_dropout=attention_dropout, remat=remat,
            attention=attention,
        )  # fmt: skip
        self.modalities = tuple(m for m in MODALITIES if m in dims)
        self.modality_dropout = modality_dropout
        self.attention = attention
        self.encoders = nnx.Dict()
        for m in self.modalities:
            kw["input_dropout"] = of(input_dropout, m)
            if encoder_layers:
                frames = of(max_frames, m)
                encoder = Encoder(dims[m], width=width, max_frames=frames, **options, **kw)
            else:
                encoder = Statistics(dims[m], width, **kw)
            self.encoders[m] = encoder

    @property
    def widths(self) -> dict[str, int]:
        return {m: self.encoders[m].width for m in self.modalities}

    def summaries(
        self, batch: Mapping, keys: Keys
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """({m: [B, D_m], zero where m is missing}, {m: [B, 1] bool, whether it is there})."""
        masks = masks_of(batch, self.modalities, self.modality_dropout, keys)
        present = {m: mask.any(axis=1, keepdims=True) for m, mask in masks.items()}
        vectors = {}
        for m, mask in masks.items():
            x = self.encoders[m](batch[m], mask, keys)
            if isinstance(x, tuple):
                x = x[0][:, 0]
            vectors[m] = jnp.where(present[m], x, 0)
        return vectors, present


def keys_of(deterministic: bool, rngs: nnx.Rngs | None) -> Keys:
    """The randomness of a call."""
    return None if deterministic else layer_keys(rngs.dropout())


def masks_of(batch: Mapping, modalities, rate: float, keys: Keys) -> dict[str, jax.Array]:
    """{m: [B, T] bool}; in training, modalities are dropped with probability `rate`."""
    masks = {m: batch[f"{m}_mask"] for m in modalities}
    return drop_modalities(masks, rate, next(keys)) if keys and rate > 0 else masks


def of(value, modality: str):
    """One value for all modalities, or {modality: value}."""
    return value[modality] if isinstance(value, Mapping) else value
