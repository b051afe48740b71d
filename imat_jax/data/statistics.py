"""Per-feature mean and deviation of the training split, and their use in a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


class Moments:
    """Running mean and deviation over frames, in float64 (Chan et al. 1979, parallel form)."""

    def __init__(self, dim: int):
        self.count = 0
        self.mean = np.zeros(dim)
        self.squares = np.zeros(dim)

    def add(self, frames: np.ndarray) -> None:
        """frames [T, D]."""
        if not len(frames):
            return
        frames = frames.astype(np.float64)
        one = Moments(frames.shape[1])
        one.count, one.mean = len(frames), frames.mean(axis=0)
        one.squares = ((frames - one.mean) ** 2).sum(axis=0)
        self.merge(one)

    def merge(self, other: Moments) -> None:
        """Add the frames that `other` has seen."""
        if not other.count:
            return
        total, shift = self.count + other.count, other.mean - self.mean
        self.squares += other.squares + shift**2 * (self.count * other.count / total)
        self.mean += shift * (other.count / total)
        self.count = total

    def state(self) -> dict[str, Any]:
        """All of it as JSON, exactly; `from_state` reads it."""
        mean, squares = self.mean.tolist(), self.squares.tolist()
        return {"count": self.count, "mean": mean, "squares": squares}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Moments:
        moments = cls(len(state["mean"]))
        moments.count = state["count"]
        moments.mean, moments.squares = np.asarray(state["mean"]), np.asarray(state["squares"])
        return moments

    def as_dict(self) -> dict[str, Any]:
        deviation = np.sqrt(self.squares / max(self.count, 1))
        return {"frames": self.count, "mean": self.mean.tolist(), "std": deviation.tolist()}


def standardize(batch: Mapping, statistics: Mapping[str, Mapping]) -> dict:
    """Each modality of a batch less its mean, over its deviation; padding becomes 0. Jittable.

    A feature that is constant over the training split has no scale: it is only centred.

    Args:
      batch: {m: [B, T, D], m_mask: [B, T], ...}; entries that are no modality pass unchanged.
      statistics: {m: {"mean": [D], "std": [D]}}, of the training split and no other.
    """
    out = dict(batch)
    for m, moments in statistics.items():
        if m not in batch:
            continue
        mean, std = (np.asarray(moments[k], np.float32) for k in ("mean", "std"))
        scale = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1).astype(np.float32)
        x = (batch[m].astype(jnp.float32) - mean[None, None]) / scale[None, None]
        out[m] = jnp.where(batch[f"{m}_mask"][..., None], x, 0)
    return out
