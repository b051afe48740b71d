"""TFN: the tensor fusion network, all products of the modalities' features.

Zadeh et al., "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017, section 4.2:
z = [z_text; 1] ⊗ [z_audio; 1] ⊗ [z_vision; 1], whose entries are the features of every single
modality, the products of pairs and those of all three; section 4.3: two hidden layers read z.

Parameters: 449,201 (features 300, 74, 35; one output; defaults).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from imat_jax.models.mlp import MLP
from imat_jax.models.summary import SummaryFusion, keys_of


class TFN(SummaryFusion):
    """Outer product of the modalities' vectors, each with a 1, and two hidden layers.

    A missing modality is [0 … 0; 1]: the products that are left are those of the others.

    Differences from the authors' code (thuiar/MMSA, which follows A2Zadeh/TensorFusionNetwork):
    encoders are IMAT's (`summary.py`); vectors are narrowed to `tensor_width` = 16 each before the
    product, where they take 32 to 128, so that the first hidden layer has 0.3 and not some 20
    million weights; outputs are not squeezed into the label's range by a sigmoid.

    Args:
      outputs: K.
      tensor_width: width of each vector in the product; with M modalities the product has
        (tensor_width + 1)^M entries.
      head_width: width of the hidden layers.
      head_dropout: before the hidden layers.
      **encoder: arguments of `SummaryFusion`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        tensor_width: int = 16,
        head_width: int | None = 64,
        head_dropout: float = 0.0,
        rngs: nnx.Rngs,
        **encoder,
    ):
        if tensor_width < 1:
            raise ValueError(f"tfn.tensor_width is 1 or more, not {tensor_width}")
        if not head_width:
            raise ValueError("tfn needs a head_width: its input is too wide to be repeated")
        super().__init__(dims, rngs=rngs, **encoder)
        kw = {k: encoder.get(k, jnp.float32) for k in ("dtype", "param_dtype")} | {"rngs": rngs}
        self.narrow = nnx.Dict(
            {m: nnx.Linear(width, tensor_width, **kw) for m, width in self.widths.items()}
        )
        features = (tensor_width + 1) ** len(self.modalities)
        self.head = MLP(features, head_width, outputs, dropout=head_dropout, **kw)

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, K] float32, {"summary/text": [B, D], …})."""
        keys = keys_of(deterministic, rngs)
        vectors, present = self.summaries(batch, keys)
        factors = [jnp.where(present[m], self.narrow[m](x), 0) for m, x in vectors.items()]
        outputs, _ = self.head(outer_product(factors), keys)
        return outputs, {f"summary/{m}": x for m, x in vectors.items()}


def outer_product(vectors: list[jax.Array]) -> jax.Array:
    """Vectors [B, D_i], each with a 1 in front, multiplied out: [B, prod (D_i + 1)]."""
    product = with_one(vectors[0])
    for x in vectors[1:]:
        product = product[:, :, None] * with_one(x)[:, None, :]
        product = product.reshape(product.shape[0], -1)
    return product


def with_one(x: jax.Array) -> jax.Array:
    """[B, D] -> [B, 1 + D], a 1 in front."""
    return jnp.pad(x, ((0, 0), (1, 0)), constant_values=1)
