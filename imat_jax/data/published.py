"""SSE-FT's padding, masks and crops as published, to reproduce its numbers (`sse_ft` 1.2, 3.1).

Every batch is padded to 512 tokens, 935 wav2vec frames and 300 face frames. The audio mask is
computed from |samples - 150000|, which leaves two or three padded frames unmasked in short clips,
and in clips longer than 9.4 s masks real ones - all of them beyond 28 s. Longer audio is cropped at
random, in evaluation too; longer text and video lose their tails.

What cached features cannot repeat: the reference encodes the zeros that it pads a waveform with, so
its padded frames are features of silence; ours are zeros.
"""

from __future__ import annotations

import zlib

import numpy as np

LIMITS = {"text": 512, "audio": 935, "vision": 300}
SAMPLES = 150_000  # 9.375 s at 16 kHz
CONVOLUTIONS = ((10, 5), (8, 4), (4, 2), (4, 2), (4, 2), (1, 1), (1, 1))  # (kernel, stride)


def conv_length(samples: int) -> int:
    """Frames that wav2vec's encoder makes of so many samples; negative where the original is."""
    for kernel, stride in CONVOLUTIONS:
        samples = (samples - kernel) // stride + 1
    return samples


def unmasked(frames: int) -> int:
    """How many of the 935 audio frames the published mask leaves, for a clip of so many frames.

    The records hold frames, not samples; the shortest waveform that gives `frames` is taken.
    """
    limit = LIMITS["audio"]
    padded = conv_length(abs(465 + 160 * (frames - 1) - SAMPLES))
    if padded <= 0:
        return limit
    # From index 935 - padded on; a negative index counts from the end, as a Python slice does.
    first = limit - padded
    return max(first if first >= 0 else first + limit, 0)


def place(record, modality: str, length: int, epoch: int) -> tuple[np.ndarray, int]:
    """The frames of one record as the reference sees them, and how many places it leaves unmasked.

    Args:
      record: a decoded example.
      length: the padded length, `LIMITS[modality]`.
      epoch: with the id, decides the crop.
    """
    frames = record[modality]
    if modality != "audio" or not len(frames):
        return frames[:length], min(len(frames), length)
    if len(frames) > length:
        random = np.random.RandomState([zlib.crc32(record["id"]), epoch])
        start = random.randint(len(frames) - length + 1)
        return frames[start : start + length], unmasked(len(frames))
    return frames, unmasked(len(frames))
