"""Mixup (Zhang et al. 2018): train on convex combinations of two utterances and of their losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from imat_jax.data.corpus import MODALITIES


def mixup(batch: dict, key: jax.Array, alpha: float) -> tuple[dict, jax.Array, jax.Array]:
    """Mix each utterance with a partner from its batch, the features already standardised.

    λ ~ Beta(alpha, alpha), one a batch, taken above 1/2 so that an utterance outweighs its partner.
    A frame that only one of the two has is mixed with zeros, the mean of standardised features.

    Args:
      batch: {m: [B, T, D], m_mask: [B, T], weight: [B], label, ...}.

    Returns:
      (the batch with mixed modalities, share λ [B] of the utterance itself, partner [B] int): the
      loss is λ loss(outputs, label) + (1 - λ) loss(outputs, label[partner]).
    """
    draw, order = jax.random.split(key)
    share = jax.random.beta(draw, alpha, alpha)
    partner = jax.random.permutation(order, len(batch["weight"]))
    # A row of weight 0 fills a last batch up; nothing is mixed with it.
    share = jnp.where(batch["weight"][partner] > 0, jnp.maximum(share, 1 - share), 1)  # [B]
    mixed = dict(batch)
    for m in MODALITIES:
        if m not in batch:
            continue
        mask, scale = batch[f"{m}_mask"], share[:, None, None]
        x = jnp.where(mask[..., None], batch[m], 0).astype(jnp.float32)
        mixed[m] = scale * x + (1 - scale) * x[partner]
        mixed[f"{m}_mask"] = mask | (mask[partner] & (share < 1)[:, None])
    return mixed, share, partner
