"""Windows over a clip: where they lie, and which frames are in one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def cover(duration: float, length: float, hop: float) -> list[tuple[float, float]]:
    """Windows of `length` seconds, every `hop`, until one ends with the clip, perhaps shorter."""
    found = [(0.0, min(length, duration))]
    while found[-1][1] < duration and (start := len(found) * hop) < duration:
        found.append((start, min(start + length, duration)))
    return found


def between(
    frames: Mapping[str, np.ndarray], times: np.ndarray, rate_hz: float, start: float, end: float
) -> dict[str, np.ndarray]:
    """The frames from `start` to `end` seconds; all of text, whose words have no times.

    Args:
      frames: {modality: [T, D]}, of a clip.
      times: seconds of each frame of vision. rate_hz: frames of audio a second.
    """
    part = dict(frames)
    if "audio" in part:
        part["audio"] = part["audio"][round(start * rate_hz) : round(end * rate_hz)]
    if "vision" in part:
        part["vision"] = part["vision"][(times >= start) & (times < end)]
    return part
