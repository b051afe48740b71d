"""Test-time damage to a batch: frames, bursts and whole modalities lost, features made noisy.

All randomness of an example comes from its row in the split, the kind of damage, the modality and
the place of the frame: not from its batch, its padding, or which other modalities a model reads.
And what is lost at a rate is lost at every higher one, so that a curve over rates is of one and the
same utterance getting worse.

Letters: B batch, T frames, D feature width, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imat_jax.data.corpus import MODALITIES
from imat_jax.models.dropout import random_bits

KINDS = ("frames", "burst", "modalities", "noise")


class Condition(NamedTuple):
    """How much damage; numbers only, so that one compiled program does for all conditions.

    Attributes:
      keep: [M] bool; a modality that is not kept is missing in every example.
      affected: [M] bool; the modalities that the other fields damage.
      frames, burst, modalities: rates in [0, 1): of `lose_frames`, `lose_burst`, `lose_modalities`.
      noise: `level` of `add_noise`.
    """

    keep: np.ndarray
    affected: np.ndarray
    frames: np.float32 = np.float32(0)
    burst: np.float32 = np.float32(0)
    modalities: np.float32 = np.float32(0)
    noise: np.float32 = np.float32(0)


def condition(
    modalities: Sequence[str],
    /,
    keep: Sequence[str] | None = None,
    affected: Sequence[str] | None = None,
    **levels: float,
) -> Condition:
    """A `Condition` by names: which of `modalities` are kept and affected (None: all), levels."""
    among = lambda names: np.isin(modalities, list(modalities if names is None else names))  # noqa: E731
    return Condition(among(keep), among(affected), **{k: np.float32(v) for k, v in levels.items()})


def corrupt(
    batch: Mapping[str, Any],
    rows: jax.Array,
    how: Condition,
    deviations: Mapping[str, np.ndarray],
    seed: int = 0,
) -> dict[str, Any]:
    """A batch as it is read, damaged. Jittable; `how` may be traced.

    Args:
      batch: {m: [B, T, D], m_mask: [B, T], ...}; text may be token ids [B, T], which get no noise.
      rows: [B] int32; each example's row in its split.
      deviations: {modality: [D] of its features in training}, in canonical order, as `how` has it.
    """
    here = tuple(deviations)
    words = _words(rows, seed)
    scores = jnp.stack([uniform(words["modalities", m], 1)[:, 0] for m in here], axis=1)
    present = jnp.stack([batch[f"{m}_mask"].any(axis=1) for m in here], axis=1) & how.keep[None]
    kept = jax.vmap(lose_modalities, (0, None, None, 0))(
        present, how.modalities, how.affected, scores
    )
    out = dict(batch)
    for i, m in enumerate(here):
        x, mask = batch[m], batch[f"{m}_mask"] & kept[:, i, None]
        share = lambda rate, i=i: jnp.where(how.affected[i], rate, 0.0)  # noqa: E731
        length = mask.shape[1]
        chances = uniform(words["frames", m], 1 + length)
        mask = jax.vmap(lose_frames, (0, None, 0))(mask, share(how.frames), chances)
        chances = uniform(words["burst", m], 2)
        out[f"{m}_mask"] = jax.vmap(lose_burst, (0, None, 0))(mask, share(how.burst), chances)
        if x.ndim == 3:
            scale = share(how.noise) * jnp.asarray(deviations[m], jnp.float32)
            # Drawing noise for every feature costs as much as a small model: only where it is used.
            out[m] = jax.lax.cond(
                share(how.noise) > 0,
                lambda x, scale, words: x + scale[None, None] * normal(words, x.shape[1:]),
                lambda x, scale, words: x,
                x.astype(jnp.float32), scale, words["noise", m],
            )  # fmt: skip
    return out


def lose_frames(mask: jax.Array, rate: jax.Array, chances: jax.Array) -> jax.Array:
    """mask [T] without `lost` of its real frames, any as likely as another; chances [1 + T]."""
    count = lost(mask, rate, chances[0])
    rank = jnp.argsort(jnp.argsort(jnp.where(mask, chances[1:], 2.0)))  # padding comes last
    return mask & (rank >= count)


def lose_burst(mask: jax.Array, rate: jax.Array, chances: jax.Array) -> jax.Array:
    """mask [T] without `lost` contiguous real frames, from anywhere as likely; chances [2]."""
    count = lost(mask, rate, chances[0])
    left = jnp.sum(mask, dtype=jnp.int32) - count
    start = jnp.floor(chances[1] * (left + 1).astype(jnp.float32)).astype(jnp.int32)
    place = jnp.cumsum(mask, dtype=jnp.int32) - 1  # among the real frames
    return mask & ~((place >= start) & (place < start + count))


def lost(mask: jax.Array, rate: jax.Array, chance: jax.Array) -> jax.Array:
    """How many of the n real frames of mask [T] are lost: rate n, rounded up or down by chance.

    Never all: that would be a missing modality, which is damage of its own.
    """
    n = jnp.sum(mask, dtype=jnp.int32)
    count = jnp.floor(rate * n.astype(jnp.float32) + chance).astype(jnp.int32)
    return jnp.clip(count, 0, jnp.maximum(n - 1, 0))


def lose_modalities(
    present: jax.Array, rate: jax.Array, affected: jax.Array, chances: jax.Array
) -> jax.Array:
    """present [M] with each affected modality lost with probability `rate`; never the last one.

    Of those of an example that would lose all, one stays, any as likely as another. (Dropout in
    training keeps all then; at high rates most examples would be whole again.) chances [M].
    """
    kept = present & ~(affected & (chances < rate))
    last = jnp.arange(len(present)) == jnp.argmax(jnp.where(present, chances, -1.0))
    return kept | (present & last & ~kept.any())


def uniform(words: jax.Array, count: int) -> jax.Array:
    """[B, count] in [0, 1), from words [B, 2]; the first of them do not depend on `count`."""
    bits = jax.vmap(lambda w: random_bits(w, (count,)))(words)
    return (bits >> 8).astype(jnp.float32) * 2**-24


def normal(words: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[B, *shape], standard normal, from words [B, 2]; frames do not depend on how many follow."""
    bits = jax.vmap(lambda w: random_bits(w, shape))(words)
    # The middles of 2^24 equal parts of (-1, 1), so that neither end is met.
    return np.float32(2**0.5) * jax.lax.erf_inv(
        (bits >> 8).astype(jnp.float32) * 2**-23 + (2**-24 - 1)
    )


def _words(rows: jax.Array, seed: int) -> dict[tuple[str, str], jax.Array]:
    """{(kind, modality): two random words of each row, [B, 2] uint32}."""
    names = [(kind, m) for kind in KINDS for m in MODALITIES]
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)
    words = jax.vmap(lambda key: jax.random.bits(key, (len(names), 2), jnp.uint32))(keys)
    return {name: words[:, i] for i, name in enumerate(names)}
