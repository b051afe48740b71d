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
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)  # [B]
    here = tuple(deviations)
    present = jnp.stack([batch[f"{m}_mask"].any(axis=1) for m in here], axis=1) & how.keep[None]
    kept = jax.vmap(lose_modalities, (0, None, None, None, 0))(
        present, how.modalities, how.affected, places(here), _of_kind(keys, "modalities")
    )
    out = dict(batch)
    for i, m in enumerate(here):
        share = lambda rate, i=i: jnp.where(how.affected[i], rate, 0.0)  # noqa: E731
        mask = batch[f"{m}_mask"] & kept[:, i, None]
        for kind, lose in (("frames", lose_frames), ("burst", lose_burst)):
            of_kind = _of_kind(keys, kind, m)
            mask = jax.vmap(lose, (0, None, 0))(mask, share(getattr(how, kind)), of_kind)
        out[f"{m}_mask"] = mask
        if batch[m].ndim == 3:
            level = share(how.noise)
            noisy = jax.vmap(add_noise, (0, None, None, 0))
            args = (batch[m], level, deviations[m], _of_kind(keys, "noise", m))
            # Drawing noise for every frame costs as much as a small model: only where it is used.
            clean = lambda x, *_: x.astype(jnp.float32)  # noqa: E731
            out[m] = jax.lax.cond(level > 0, noisy, clean, *args)
    return out


def places(modalities: Sequence[str]) -> np.ndarray:
    """[M] int32: where each modality stands among all three, whichever a model reads."""
    return np.asarray([MODALITIES.index(m) for m in modalities], np.int32)


def lose_frames(mask: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """mask [T] without `lost` of its real frames, any as likely as another."""
    scores = jax.vmap(jax.random.uniform)(_of_frames(key, len(mask)))
    rank = jnp.argsort(jnp.argsort(jnp.where(mask, scores, 2.0)))  # padding comes last
    return mask & (rank >= lost(mask, rate, key))


def lose_burst(mask: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """mask [T] without `lost` of its real frames, contiguous, beginning anywhere as likely."""
    count = lost(mask, rate, key)
    left = jnp.sum(mask, dtype=jnp.int32) - count
    where = jax.random.uniform(jax.random.fold_in(key, 1))
    start = jnp.floor(where * (left + 1).astype(jnp.float32)).astype(jnp.int32)
    place = jnp.cumsum(mask, dtype=jnp.int32) - 1  # among the real frames
    return mask & ~((place >= start) & (place < start + count))


def lost(mask: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """How many of the n real frames of mask [T] are lost: rate n, rounded up or down by chance.

    Never all: that would be a missing modality, which is damage of its own.
    """
    n = jnp.sum(mask, dtype=jnp.int32)
    chance = jax.random.uniform(jax.random.fold_in(key, 2))
    count = jnp.floor(rate * n.astype(jnp.float32) + chance).astype(jnp.int32)
    return jnp.clip(count, 0, jnp.maximum(n - 1, 0))


def lose_modalities(
    present: jax.Array, rate: jax.Array, affected: jax.Array, which: jax.Array, key: jax.Array
) -> jax.Array:
    """present [M] with each affected modality lost with probability `rate`; never the last one.

    Of those of an example that would lose all, one stays, any as likely as another. (Dropout in
    training keeps all then; at high rates most examples would be whole again.)

    Args:
      which: [M]; `places` of the modalities.
    """
    scores = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(which)
    kept = present & ~(affected & (scores < rate))
    last = jnp.arange(len(present)) == jnp.argmax(jnp.where(present, scores, -1.0))
    return kept | (present & last & ~kept.any())


def add_noise(x: jax.Array, level: jax.Array, deviation: jax.Array, key: jax.Array) -> jax.Array:
    """x [T, D] plus Gaussian noise of `level` times `deviation` [D], float32."""
    normal = jax.vmap(lambda k: jax.random.normal(k, (x.shape[1],)))(_of_frames(key, len(x)))
    return x.astype(jnp.float32) + level * jnp.asarray(deviation, jnp.float32)[None] * normal


def _of_kind(keys: jax.Array, kind: str, m: str = MODALITIES[0]) -> jax.Array:
    """A key of its own for a kind of damage to a modality, for each of `keys` [B]."""
    number = KINDS.index(kind) * len(MODALITIES) + MODALITIES.index(m)
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _of_frames(key: jax.Array, count: int) -> jax.Array:
    """[count] keys; that of a frame does not depend on how many there are."""
    place = jnp.arange(count, dtype=jnp.uint32)
    # 1 and 2 are the keys of a burst's place and of rounding.
    return jax.vmap(lambda t: jax.random.fold_in(key, t))(place + jnp.uint32(3))
