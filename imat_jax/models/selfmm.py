"""Self-MM: each modality also predicts a label of its own, which is made up along the way.

Yu et al., "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for
Multimodal Sentiment Analysis", AAAI 2021: LF-DNN with a head more for each modality; the labels of
these come from the module of section 3.3 (`unimodal_labels.py`), and count the more the further
they are from the multimodal label (section 3.4): the loss is
|ŷ - y| + Σ_m tanh|y_m - y| |ŷ_m - y_m|.

Parameters: 169,092 (features 300, 74, 35; one output; defaults).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from imat_jax.models.mlp import MLP
from imat_jax.models.summary import SummaryFusion, keys_of


class SelfMM(SummaryFusion):
    """Late concatenation with heads of single modalities, whose labels are generated.

    For `sentiment` only: labels are moved by how near features are to those of positive and of
    negative utterances, which the authors define for one real score.

    Differences from the authors' code (thuiar/Self-MM, thuiar/MMSA): encoders are IMAT's
    (`summary.py`), not a fine-tuned BERT and LSTMs; all heads have one width (128 and 16 to 64),
    and one optimiser.

    Args:
      outputs: 1.
      label_range: generated labels are kept within ± so much (H).
      head_width: width of all heads' hidden layers, and so of the features that labels are
        generated from.
      head_dropout: before the hidden layers.
      **encoder: arguments of `SummaryFusion`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        label_range: float = 3.0,
        head_width: int | None = 64,
        head_dropout: float = 0.0,
        rngs: nnx.Rngs,
        **encoder,
    ):
        if outputs != 1:
            raise ValueError(
                f"selfmm is for the task sentiment, one real score; this one has {outputs} outputs"
            )
        if not head_width:
            raise ValueError("selfmm needs a head_width: features of all heads are remembered")
        if label_range <= 0:
            raise ValueError(f"selfmm.label_range is above 0, not {label_range}")
        super().__init__(dims, rngs=rngs, **encoder)
        kw = {k: encoder.get(k, jnp.float32) for k in ("dtype", "param_dtype")}
        kw |= dict(dropout=head_dropout, rngs=rngs)
        self.label_range, self.head_width = label_range, head_width
        self.head = MLP(sum(self.widths.values()), head_width, 1, **kw)
        self.heads = nnx.Dict({m: MLP(w, head_width, 1, **kw) for m, w in self.widths.items()})

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, 1] float32, extras).

        Extras: `feature/fusion`, `feature/text` … [B, H]; `present/text` … [B] bool;
        `unimodal/text` … [B], the modality's own prediction; and where the batch has `label` [B]
        and `unimodal_label/text` … [B], `loss` [B], what is added to the task's loss.
        """
        keys = keys_of(deterministic, rngs)
        vectors, present = self.summaries(batch, keys)
        joint = jnp.concatenate(list(vectors.values()), axis=1)
        outputs, feature = self.head(joint, keys)
        extras = {"feature/fusion": feature}
        loss = jnp.zeros(outputs.shape[0], jnp.float32)
        for m, x in vectors.items():
            own, feature = self.heads[m](x, keys)
            there = present[m][:, 0]
            extras |= {f"feature/{m}": feature, f"present/{m}": there, f"unimodal/{m}": own[:, 0]}
            if f"unimodal_label/{m}" in batch:
                label = batch[f"unimodal_label/{m}"]
                loss += jnp.where(there, unimodal_loss(own[:, 0], label, batch["label"]), 0)
        return outputs, extras | {"loss": loss}


def unimodal_loss(own: jax.Array, label: jax.Array, multimodal: jax.Array) -> jax.Array:
    """tanh|y_m - y| |ŷ_m - y_m|, all [B]."""
    return jnp.tanh(jnp.abs(label - multimodal.reshape(label.shape))) * jnp.abs(own - label)
