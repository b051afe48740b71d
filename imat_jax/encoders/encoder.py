"""What extraction needs of an encoder: a function of raw inputs, and where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imat_jax.data.corpus import Modality

SAMPLE_RATE = 16_000  # of every waveform, in Hz
FACE_SIZE = 256  # side of every face crop, in pixels


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen feature extractor of one modality.

    Attributes:
      modality: width, checkpoint and layer of its features, as datasets record them.
      encode: inputs to features, one float32 array [T, D] an input, T = 0 where there is nothing.
        An input is, of text, a string; of audio, a waveform [L] at 16 kHz, float32 in [-1, 1]; of
        vision, face crops [N, 256, 256, 3], RGB in uint8, and T = N.
      stride: of audio, (samples that a frame sees, samples from one frame to the next) where
        nothing else bears on it, so that frames of sound that goes on need not be made again; None
        where a frame depends on all of its clip.
    """

    modality: Modality
    encode: Callable[[Sequence[Any]], list[np.ndarray]]
    stride: tuple[int, int] | None = None
