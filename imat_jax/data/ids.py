"""The field's ways to number the segments of a video, and other small facts about names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from imat_jax.data.corpus import DataError

# Columns of "All Labels" of CMU-MOSEI after the sentiment.
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")

_SEGMENT = (
    re.compile(r"^(?P<video>.+)\$_\$(?P<segment>\d+)$"),  # MMSA
    re.compile(r"^(?P<video>.+)\[(?P<segment>\d+)\]$"),  # CMU-MultimodalSDK, MISA
    re.compile(r"^(?P<dialogue>dia\d+)_utt(?P<segment>\d+)"),  # MELD
    re.compile(r"^(?P<dialogue>Ses0\d[FM]_\w+)_[FM](?P<segment>\d{3})$"),  # IEMOCAP
    re.compile(r"^(?P<video>.{11})_(?P<segment>\d+)$"),  # a YouTube id, which may hold "_"
)


def text(value: Any) -> str:
    """A string from bytes, str or anything NumPy makes of them."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value).encode(errors="replace").decode()  # no lone surrogates


def place(name: str) -> tuple[str, int]:
    """`vid$_$11`, `vid[11]`, `vid_11`, `dia3_utt4`, `Ses01F_impro01_F000` -> (group, order).

    ("", -1) for a name of another form.
    """
    for pattern in _SEGMENT:
        match = pattern.match(name)
        if match:
            return match[1], int(match["segment"])
    return "", -1


def scores(label: Any, where: str) -> dict[str, Any]:
    """Annotations from one number, the sentiment, or seven, with the emotions of CMU-MOSEI.

    Raises:
      DataError: another number of them; `where` names the place.
    """
    values = np.asarray(label, np.float64).reshape(-1).tolist()
    if len(values) == 1:
        return {"sentiment": values[0]}
    if len(values) == 1 + len(EMOTIONS):
        return {"sentiment": values[0], "emotions": values[1:]}
    raise DataError(f"{where} has {len(values)} labels an utterance; known are 1 and 7")
