"""LF-DNN: late concatenation of one vector a modality.

Cambria et al., "Benchmarking Multimodal Sentiment Analysis", CICLing 2017, and Williams et al.,
"Recognizing Emotions in Video Using Multimodal DNN Feature Fusion", Challenge-HML 2018, in the form
of MMSA, which calls it LF-DNN; neither has equations: [h_text; h_audio; h_vision], two hidden
layers with ReLU, a dense layer to the outputs. With one modality it is IMAT's own encoder under a
head: the unimodal baseline for a fusion of encoders.

Parameters: 143,937 (features 300, 74, 35; one output; defaults).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from imat_jax.models.mlp import MLP
from imat_jax.models.summary import SummaryFusion, keys_of


class Late(SummaryFusion):
    """Summaries side by side, and two hidden layers; a missing modality's summary is zero.

    Differences from the authors' code (thuiar/MMSA): encoders are IMAT's (`summary.py`) and not an
    LSTM of words and dense layers on mean frames; no BatchNorm.

    Args:
      outputs: K.
      head_width: width of the hidden layers; None: of their input.
      head_dropout: before the hidden layers.
      **encoder: arguments of `SummaryFusion`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        head_width: int | None = 64,
        head_dropout: float = 0.0,
        rngs: nnx.Rngs,
        **encoder,
    ):
        super().__init__(dims, rngs=rngs, **encoder)
        kw = {k: encoder.get(k, jnp.float32) for k in ("dtype", "param_dtype")}
        features = sum(self.widths.values())
        self.head = MLP(features, head_width, outputs, dropout=head_dropout, rngs=rngs, **kw)

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, K] float32, {"summary/text": [B, D], …})."""
        keys = keys_of(deterministic, rngs)
        vectors, _ = self.summaries(batch, keys)
        outputs, _ = self.head(jnp.concatenate(list(vectors.values()), axis=1), keys)
        return outputs, {f"summary/{m}": x for m, x in vectors.items()}
