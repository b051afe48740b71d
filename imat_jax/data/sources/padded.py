"""Pickles of splits, each a dict of fields; a modality is a padded array or a list of arrays."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from imat_jax.data import unpickle
from imat_jax.data.corpus import MODALITIES, DataError
from imat_jax.data.lazy import Array


def open_splits(
    path: pathlib.Path, field: str
) -> tuple[dict[str, dict], dict[str, dict[str, Sequences]]]:
    """({split: its fields}, {split: {modality: its frames}}) of the pickle at `path`.

    Args:
      field: what every split has; the length of it is the number of utterances.

    Raises:
      DataError: no split with that field, or a modality of another shape.
    """
    data = unpickle.load(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: a {type(data).__name__}, not a dict of splits")
    splits = {s: v for s, v in data.items() if isinstance(v, dict) and field in v}
    if not splits:
        raise DataError(f"{path}: no split with `{field}`; it holds {', '.join(map(str, data))}")
    frames = {
        split: {
            m: Sequences(fields[m], f"{path}: `{split}/{m}`", len(fields[field]))
            for m in MODALITIES
            if fields.get(m) is not None
        }
        for split, fields in splits.items()
    }
    return splits, frames


def modalities(
    frames: Mapping[str, Mapping[str, Sequences]],
) -> tuple[dict[str, Sequences], tuple[str, ...]]:
    """({modality: its frames in the first split that has it}, a warning where one does not)."""
    found = {m: next((x[m] for x in frames.values() if m in x), None) for m in MODALITIES}
    found = {m: x for m, x in found.items() if x is not None}
    lacking = [(m, split) for split, x in frames.items() for m in found if m not in x]
    return found, tuple(f"{m}: not in the split {split!r}" for m, split in lacking)


class Sequences:
    """`[i]` is the frames of utterance i, [T, D], as stored: padding is the caller's business.

    Args:
      field: [N, T, D]; [N, D], one vector an utterance; or N arrays [T_i, D], a list or an array of
        objects.
      where: names the field in errors.

    Raises:
      DataError: another shape, or not `count` utterances.
    """

    def __init__(self, field, where: str, count: int):
        if isinstance(field, Array | np.ndarray) and field.dtype.hasobject:
            field = list(np.asarray(field).reshape(-1))
        self._field, self.where = field, where
        shape = getattr(field, "shape", None) or (len(field),)
        if shape[0] != count or len(shape) > 3 or (len(shape) == 1 and not isinstance(field, list)):
            raise DataError(f"{where} has shape {shape}, not ({count}, frames, width)")
        # Frames that all are padded to; None where each has its own number.
        self.frames = {3: lambda: shape[1], 2: lambda: 1}.get(len(shape), lambda: None)()
        widths = {shape[-1]} if len(shape) > 1 else {self[i].shape[1] for i in range(count)} - {0}
        if len(widths) != 1:
            raise DataError(f"{where} has features of widths {sorted(widths)}; one is needed")
        (self.dim,) = widths

    def __len__(self) -> int:
        return len(self._field)

    def __getitem__(self, i: int) -> np.ndarray:
        frames = np.asarray(self._field[i])
        if frames.ndim == 1:
            frames = frames[None] if frames.size else np.zeros((0, 0))
        if frames.ndim != 2 or frames.dtype.kind not in "fiub":
            raise DataError(
                f"{self.where}: utterance {i} has shape {frames.shape} of {frames.dtype}, not "
                "numbers (frames, width)"
            )
        return frames if frames.size else np.zeros((0, getattr(self, "dim", 0)), np.float32)
