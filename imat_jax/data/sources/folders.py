"""Folders of one `.npy` an utterance: how several sources keep their features."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from imat_jax.data.corpus import MODALITIES, DataError, Modality


class FeatureFolders:
    """{modality: folder} with `ID.npy` of shape [T, D], or [D] for one vector an utterance.

    Also a folder `ID/` of one vector a frame, in the order of their names. An utterance without
    either has no such modality. Nothing is unpickled.

    Raises:
      DataError: a folder that is not there or has no file for any of the utterances.
    """

    def __init__(self, folders: Mapping[str, pathlib.Path], names: Sequence[str]):
        self.folders = {m: pathlib.Path(folders[m]) for m in MODALITIES if m in folders}
        unknown = set(folders) - set(MODALITIES)
        if unknown or not self.folders:
            raise DataError(f"features are named {', '.join(MODALITIES)}, not {sorted(folders)}")
        self.names = list(names)
        self.modalities = {m: self._modality(m) for m in self.folders}

    @property
    def paths(self) -> list[str]:
        return [str(folder) for folder in self.folders.values()]

    def _modality(self, m: str) -> Modality:
        folder = self.folders[m]
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of {m} features")
        there = filter(None, map(functools.partial(self.path, m), self.names))
        first = next((frames for frames in map(_load, there) if frames.size), None)
        if first is None:
            raise DataError(
                f"{folder}: no {m} features for any of the {len(self.names)} utterances; expected "
                f"files such as {folder / (self.names[0] + '.npy')}"
            )
        return Modality(dim=first.shape[1], extractor=folder.name)

    def path(self, m: str, name: str) -> pathlib.Path | None:
        path = self.folders[m] / f"{name}.npy"
        if "/" in name or "\\" in name or "\0" in name:
            raise DataError(f"{name!r} as an id names a file outside of {self.folders[m]}")
        if path.is_file():
            return path
        return path.with_suffix("") if path.with_suffix("").is_dir() else None

    def read(self, row: int) -> dict[str, np.ndarray]:
        """Row = place in `names`."""
        found = {m: self.path(m, self.names[row]) for m in self.folders}
        frames = {m: _load(path) for m, path in found.items() if path}
        empty = {m: np.zeros((0, info.dim), np.float32) for m, info in self.modalities.items()}
        return {m: x if x.size else empty[m] for m, x in frames.items()}


def _load(path: pathlib.Path) -> np.ndarray:
    """[T, D]; the size in the header is compared with the file before anything is allocated."""
    if path.is_dir():
        frames = [_load(p) for p in sorted(path.glob("*.npy"))]
        if not frames:
            raise DataError(f"{path}: a folder of frames without a .npy file")
        return np.concatenate(frames)
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy file without pickles: {error}") from error
    if not array.size:
        return np.zeros((0, 0), np.float32)
    if array.ndim == 1:
        array = array[None]
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: shape {array.shape} of {array.dtype}; features are numbers [frames, width]"
        )
    return np.array(array)
