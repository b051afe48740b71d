"""Random changes to standardised features in training, inside the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax


def augment(
    batch: Mapping,
    key: jax.Array,
    modalities: Iterable[str],
    *,
    noise: float = 0.0,
    shift: float = 0.0,
    scale: float = 0.0,
    drop_frames: float = 0.0,
) -> dict:
    """Features as another speaker, face or microphone might have given them. Jittable.

    Args:
      batch: {m: [B, T, D], m_mask: [B, T], …}, standardised.
      key: of this step.
      modalities: which to change, in a fixed order.
      noise: deviation of Gaussian noise, drawn for every frame.
      shift, scale: deviations of an offset and of a relative gain, drawn for every utterance and
        feature and constant over its frames: what differs between speakers and recordings.
      drop_frames: chance that a frame is masked; the first stays, so that nothing goes missing.
    """
    out = dict(batch)
    for i, m in enumerate(modalities):
        keys = jax.random.split(jax.random.fold_in(key, i), 4)
        x, mask = out[m], out[f"{m}_mask"]
        rows, _, dim = x.shape
        if scale:
            x = x * (1 + scale * jax.random.normal(keys[0], (rows, 1, dim), x.dtype))
        if shift:
            x = x + shift * jax.random.normal(keys[1], (rows, 1, dim), x.dtype)
        if noise:
            x = x + noise * jax.random.normal(keys[2], x.shape, x.dtype)
        if drop_frames:
            keep = jax.random.bernoulli(keys[3], 1 - drop_frames, mask.shape)
            out[f"{m}_mask"] = mask & keep.at[:, 0].set(True)
        out[m] = x
    return out
