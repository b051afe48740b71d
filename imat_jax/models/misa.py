"""MISA: what modalities share and what is each one's own, in two subspaces.

Hazarika et al., "MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment
Analysis", ACM Multimedia 2020, section 3: every modality's vector u_m is projected by an encoder
that all share and by one of its own; the six results go through one Transformer layer (section
3.4), and, side by side, to the outputs. Three losses (section 3.5) are added to the task's:

    similarity       central moment discrepancy of the shared vectors, mean over pairs
    difference       mean of the D x D squared entries of the covariance of shared and own, and of
                     two own, as in the authors' code (the paper: their sum, squared Frobenius norm)
    reconstruction   mean square error of u_m, decoded from the sum of its two

Parameters: 227,521 (features 300, 74, 35; one output; defaults).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from imat_jax.models.attention import layer_norm, lecun
from imat_jax.models.encoder import EncoderLayer
from imat_jax.models.mlp import MLP
from imat_jax.models.summary import SummaryFusion, keys_of

MOMENTS = 5  # of the central moment discrepancy


class MISA(SummaryFusion):
    """Shared and own projections of each modality's vector, fused by a Transformer layer.

    A missing modality's tokens are not attended to, and zero; the losses are over the rows that
    have the modalities they compare. Similarity and difference are statistics of the rows that go
    through the model together: with `accumulate`, of a microbatch.

    Differences from the authors' code (declare-lab/MISA; losses also as in thuiar/MMSA): encoders
    are IMAT's (`summary.py`), not two bidirectional LSTMs or BERT; the Transformer layer has
    `ffn` and `heads` of the config (2,048 and 2) and a GELU; the discriminator whose outputs enter
    no loss there is left out, and so is the adversarial alternative to the moment discrepancy; the
    head is `head_width` wide with dropout before it, where theirs is half as wide as its input
    (6 D to 3 D) with dropout (.5) after its first layer; scores are regressed by the task's loss
    (L1 unless the config says "mse"), theirs by MSE, beside which the weights 1, .3, 1 were set.

    Args:
      outputs: K.
      similarity, difference, reconstruction: weights of the three losses (α, β, γ).
      head_width: width of the head's hidden layer; None: of its input.
      head_dropout: before it.
      **encoder: arguments of `SummaryFusion`; `width` is that of both subspaces.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        similarity: float = 1.0,
        difference: float = 0.3,
        reconstruction: float = 1.0,
        width: int | None = 64,
        heads: int = 4,
        ffn: int = 128,
        norm: str = "post",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        head_width: int | None = 64,
        head_dropout: float = 0.0,
        rngs: nnx.Rngs,
        **encoder,
    ):
        if not width:
            raise ValueError("misa needs a width: its modalities share a subspace")
        if min(similarity, difference, reconstruction) < 0:
            raise ValueError("misa.similarity, .difference and .reconstruction are 0 or more")
        block = dict(norm=norm, dropout=dropout, attention_dropout=attention_dropout)
        super().__init__(dims, width=width, heads=heads, ffn=ffn, rngs=rngs, **block, **encoder)
        kw = {k: encoder.get(k, jnp.float32) for k in ("dtype", "param_dtype")} | {"rngs": rngs}

        def each() -> nnx.Dict:
            return nnx.Dict({m: nnx.Linear(width, width, **kw) for m in self.modalities})

        self.project, self.own, self.decode = each(), each(), each()
        self.norms = nnx.Dict({m: layer_norm(width, **kw) for m in self.modalities})
        self.shared = nnx.Linear(width, width, **kw)
        self.layer = EncoderLayer(
            width, heads, ffn, attention="plain", kernel_init=lecun, **block, **kw
        )
        joint = 2 * len(self.modalities) * width
        self.head = MLP(joint, head_width, outputs, layers=1, dropout=head_dropout, **kw)
        self.weights = (similarity, difference, reconstruction)

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """One batch as `IMAT` takes it -> (outputs [B, K] float32, extras).

        Extras: `loss` [B] float32, what is added to the task's loss; `shared/text`, `own/text` …
        """
        keys = keys_of(deterministic, rngs)
        vectors, present = self.summaries(batch, keys)
        u = {m: self.norms[m](nnx.relu(self.project[m](x))) for m, x in vectors.items()}
        shared = {m: jax.nn.sigmoid(self.shared(x)) for m, x in u.items()}
        own = {m: jax.nn.sigmoid(self.own[m](x)) for m, x in u.items()}
        decoded = {m: self.decode[m](shared[m] + own[m]) for m in u}

        there = jnp.concatenate([present[m] for m in u] * 2, axis=1)  # [B, 2 M]
        tokens = jnp.stack([*own.values(), *shared.values()], axis=1)  # [B, 2 M, D]
        tokens = jnp.where(there[..., None], tokens, 0)
        fused = jnp.where(there[..., None], self.layer(tokens, there, keys), 0)
        outputs, _ = self.head(fused.reshape(fused.shape[0], -1), keys)

        # Moments to the fifth power are not for 16 bits.
        wide = lambda x: {m: v.astype(jnp.float32) for m, v in x.items()}  # noqa: E731
        rows = {m: p[:, 0].astype(jnp.float32) for m, p in present.items()}
        loss = self._loss(wide(u), wide(shared), wide(own), wide(decoded), rows)
        extras = {f"shared/{m}": shared[m] for m in u} | {f"own/{m}": own[m] for m in u}
        return outputs, extras | {"loss": loss}

    def _loss(self, u, shared, own, decoded, rows) -> jax.Array:
        """[B]; the parts that are of the batch as a whole are the same for all rows."""
        both = lambda m, n: rows[m] * rows[n]  # noqa: E731
        pairs = list(itertools.combinations(u, 2))
        similar = [moment_discrepancy(shared[m], shared[n], both(m, n)) for m, n in pairs]
        different = [covariance(own[m], shared[m], rows[m]) for m in u]
        different += [covariance(own[m], own[n], both(m, n)) for m, n in pairs]
        errors = sum(rows[m] * jnp.square(decoded[m] - u[m]).mean(axis=1) for m in u)  # [B]
        similarity, difference, reconstruction = self.weights
        whole = similarity * sum(similar) / max(len(pairs), 1) + difference * sum(different)
        return whole + reconstruction * errors / jnp.maximum(sum(rows.values()), 1)


def moment_discrepancy(x: jax.Array, y: jax.Array, rows: jax.Array) -> jax.Array:
    """Central moment discrepancy (Zellinger et al. 2017) of features in [0, 1], a number.

    |E x - E y| + Σ_{k=2..5} |E (x - E x)^k - E (y - E y)^k|, Euclidean norms.

    Args:
      x, y: [B, D].
      rows: [B] float, 1 for the rows that count and 0 for the others.
    """
    mean_x, mean_y = _mean(x, rows), _mean(y, rows)
    x, y = x - mean_x[None], y - mean_y[None]
    total = _norm(mean_x - mean_y)
    for k in range(2, MOMENTS + 1):
        total += _norm(_mean(x**k, rows) - _mean(y**k, rows))
    return total


def covariance(x: jax.Array, y: jax.Array, rows: jax.Array) -> jax.Array:
    """Mean square of xᵀ y, over its D x D entries; a number.

    x and y are centred over the rows, and each row is divided by its length, which as in the
    authors' code has no gradient. Arguments as of `moment_discrepancy`.
    """

    def unit(x: jax.Array) -> jax.Array:
        x = (x - _mean(x, rows)[None]) * rows[:, None]
        return x / (jax.lax.stop_gradient(jnp.linalg.norm(x, axis=1, keepdims=True)) + 1e-6)

    return jnp.square(unit(x).T @ unit(y)).mean()


def _mean(x: jax.Array, rows: jax.Array) -> jax.Array:
    return (x * rows[:, None]).sum(axis=0) / jnp.maximum(rows.sum(), 1)


def _norm(x: jax.Array) -> jax.Array:
    """Euclidean; its gradient is 0 at 0, not NaN."""
    square = jnp.square(x).sum()
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
