"""Early concatenation: the simplest model that sees all modalities.

Of every modality the mean and the deviation of its frames, side by side, into one network; no
equations. Features that meet before the first layer are the early fusion of Williams et al.,
"Recognizing Emotions in Video Using Multimodal DNN Feature Fusion", Challenge-HML 2018. With one
modality it is the plain unimodal baseline.

Parameters: 56,641 (features 300, 74, 35; one output; defaults).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from imat_jax.models.dropout import dropout
from imat_jax.models.encoder import frame_moments
from imat_jax.models.imat import MODALITIES
from imat_jax.models.mlp import MLP
from imat_jax.models.summary import keys_of, masks_of, of


class Early(nnx.Module):
    """Mean and deviation of the frames of each modality, concatenated, and two hidden layers.

    A missing modality's statistics are zero, which is the mean of standardised features.

    Differences from EF-LSTM, the early fusion of the published tables: features are not aligned to
    words, so they are joined after pooling and not frame by frame, and there is no LSTM.

    Args:
      dims: {modality: feature width} of the modalities to use, any non-empty subset.
      outputs: K.
      head_width: width of the hidden layers; None: of the input.
      input_dropout: a rate, or {modality: rate}, on the statistics.
      head_dropout: before the hidden layers.
      modality_dropout: as in `IMAT`.
      dtype: compute dtype; parameters are held in `param_dtype`.
    """

    attention = "none"

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        head_width: int | None = 64,
        input_dropout=0.0,
        head_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.modalities = tuple(m for m in MODALITIES if m in dims)
        self.input_dropout = tuple(of(input_dropout, m) for m in self.modalities)
        self.modality_dropout = modality_dropout
        self.dtype = dtype
        features = 2 * sum(dims.values())
        self.head = MLP(features, head_width, outputs, dropout=head_dropout, **kw)

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, K] float32, {})."""
        keys = keys_of(deterministic, rngs)
        masks = masks_of(batch, self.modalities, self.modality_dropout, keys)
        moments = []
        for (m, mask), rate in zip(masks.items(), self.input_dropout, strict=True):
            x = jnp.where(mask[..., None], batch[m], 0).astype(self.dtype)
            moments.append(dropout(frame_moments(x, mask), rate, keys))
        outputs, _ = self.head(jnp.concatenate(moments, axis=1).astype(self.dtype), keys)
        return outputs, {}
