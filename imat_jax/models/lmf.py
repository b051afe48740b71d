"""LMF: low-rank multimodal fusion, a tensor fusion whose weights are a sum of rank-one tensors.

Liu et al., "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", ACL 2018,
section 3: the outputs are h = W · ([z_text; 1] ⊗ [z_audio; 1] ⊗ [z_vision; 1]) + b (equations 1
and 2), and with W = Σ_r ⊗_m w_m^(r) neither W nor the product is ever formed: h is the elementwise
product over modalities of Σ_r-many projections, summed over r.

Parameters: 128,145 (features 300, 74, 35; one output; defaults).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from imat_jax.models.backends import at_least_float32
from imat_jax.models.dropout import dropout
from imat_jax.models.summary import SummaryFusion, keys_of
from imat_jax.models.tfn import with_one


class LMF(SummaryFusion):
    """The outputs are a low-rank tensor fusion of the modalities' vectors.

    A missing modality is [0 … 0; 1], as in `TFN`.

    Differences from the authors' code (thuiar/MMSA, which follows
    Justin1904/Low-rank-Multimodal-Fusion): encoders are IMAT's (`summary.py`). As in that code,
    and unlike the paper, the ranks are summed with trained weights.

    Args:
      outputs: K.
      rank: number of rank-one tensors.
      head_dropout: on the vectors that are fused.
      **encoder: arguments of `SummaryFusion`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        rank: int = 4,
        head_dropout: float = 0.0,
        rngs: nnx.Rngs,
        **encoder,
    ):
        if rank < 1:
            raise ValueError(f"lmf.rank is 1 or more, not {rank}")
        super().__init__(dims, rngs=rngs, **encoder)
        dtype = encoder.get("param_dtype", jnp.float32)
        init = nnx.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        # The name makes them weights to the optimiser, which decays what is called a kernel.
        self.kernels = nnx.Dict(
            {
                m: nnx.Param(init(rngs.params(), (rank, 1 + width, outputs), dtype))
                for m, width in self.widths.items()
            }
        )
        self.ranks = nnx.Param(jnp.full((rank,), rank**-0.5, dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype))
        self.head_dropout = head_dropout

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, K] float32, {"summary/text": [B, D], …})."""
        keys = keys_of(deterministic, rngs)
        vectors, _ = self.summaries(batch, keys)
        # Products of several numbers: float32 whatever the compute dtype is.
        factors = [at_least_float32(dropout(x, self.head_dropout, keys)) for x in vectors.values()]
        kernels = [self.kernels[m][...] for m in vectors]
        outputs = low_rank_fusion(factors, kernels, self.ranks[...]) + self.bias[...][None]
        return outputs, {f"summary/{m}": x for m, x in vectors.items()}


def low_rank_fusion(
    vectors: Sequence[jax.Array], kernels: Sequence[jax.Array], ranks: jax.Array
) -> jax.Array:
    """Σ_r ranks_r ∏_m [1; x_m] · w_m^(r).

    Args:
      vectors: [B, D_m] of each modality.
      kernels: [R, 1 + D_m, K] of each; row 0 is that of the 1.
      ranks: [R].

    Returns:
      [B, K].
    """
    product = None
    for x, w in zip(vectors, kernels, strict=True):
        part = jnp.einsum("bd,rdk->brk", with_one(x), w)
        product = part if product is None else product * part
    return jnp.einsum("r,brk->bk", ranks, product)
