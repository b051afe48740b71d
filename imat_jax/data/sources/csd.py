"""Computational sequences of CMU-MultimodalSDK: a folder of `.csd` files (HDF5).

    NAME/data/VIDEO/{features [n, D], intervals [n, 2] in seconds},  NAME/metadata/…

One file an extractor, whole videos; the labels' file holds an interval and a label a segment. An
utterance is a segment, its frames are those whose interval overlaps the segment's. Files that the
SDK has aligned already hold one entry a segment, `VIDEO[k]`.

Of HDF5, plain data sets only: links to other files, references and virtual data sets are refused.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from imat_jax.data import ids
from imat_jax.data.corpus import MODALITIES, Corpus, DataError, Modality, Utterance

# What the published files are called, by what they hold.
KNOWN = {
    "text": r"WordVectors|glove|bert",
    "audio": r"COVAREP|OpenSmile|librosa",
    "vision": r"Facet|OpenFace|Visual",
    "words": r"Words$|Words(_with_SP)?$",
    "labels": r"Label",
}
EPSILON = 1e-5  # seconds; what touches a segment less than this is not in it
LARGEST = 1 << 34  # bytes of one data set
MOST_PACKED = 1000  # times that gzip makes data smaller


def corpus(
    path: str | pathlib.Path, features: Mapping[str, str] | None = None, align: str = ""
) -> Corpus:
    """Read the folder `path`.

    Args:
      features: {modality: name of a sequence or file}, where several would do.
      align: "text" averages the other modalities over the interval of each word, which is how
        aligned data sets of this corpus were made; "": each keeps its own frames.

    Raises:
      DataError: no labels, two candidates for a modality, HDF5 that is more than data.
    """
    path = pathlib.Path(path)
    folder = path if path.is_dir() else path.parent
    sequences = {f: Sequence.open(f) for f in sorted(folder.glob("*.csd"))}
    if not sequences:
        raise DataError(f"{folder}: no .csd file there")
    chosen = _choose(folder, sequences, features or {})
    if align and align not in chosen:
        raise DataError(f"--align={align}: there is no {align} among {', '.join(chosen)}")
    labels = chosen["labels"]
    utterances: list[Utterance] = []
    spans: list[tuple[str, np.ndarray]] = []
    for key in labels.keys:
        group, order = ids.place(key) if key.endswith("]") else (key, -1)
        values, intervals = labels.read(key)
        # Rows are numbered as they stand, which is not always the order of time.
        ranks = np.argsort(np.argsort(intervals[:, 0], kind="stable"))
        for k, rank in enumerate(ranks):
            utterances.append(
                Utterance(
                    id=key if order >= 0 else f"{key}[{k}]",
                    row=len(spans),
                    annotations=ids.scores(values[k], f"{labels.path}: `{key}`"),
                    group=group,
                    order=order if order >= 0 else int(rank),
                    transcript=_words(chosen.get("words"), key, intervals[k]),
                )
            )
            spans.append((key, intervals[k]))
    present = [m for m in MODALITIES if m in chosen]

    def read(row: int) -> dict[str, np.ndarray]:
        key, span = spans[row]
        cut = {m: chosen[m].cut(key, span) for m in present}
        if not align:
            return {m: x for m, (x, _) in cut.items()}
        clock = cut[align][1]
        return {m: x if m == align else _average(x, t, clock) for m, (x, t) in cut.items()}

    return Corpus(
        name=folder.resolve().name,
        utterances=utterances,
        modalities={m: Modality(chosen[m].dim, extractor=chosen[m].name) for m in present},
        read=read,
        label_names={"emotions": ids.EMOTIONS},
        files=tuple(str(s.path) for s in chosen.values()),
        facts={"aligned": align},
    )


class Sequence:
    """One `.csd` file: its name, keys and width."""

    def __init__(self, path: pathlib.Path, file: Any, name: str):
        self.path, self.name, self._data = path, name, file[name]["data"]
        self.keys = sorted(self._data)
        if not self.keys:
            raise DataError(f"{path}: `{name}/data` is empty")
        self.dim = int(np.prod(self._dataset(self.keys[0], "features").shape[1:]))

    @classmethod
    def open(cls, path: pathlib.Path) -> Sequence:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(f"{path}: not a readable HDF5 file: {error}") from error
        _check_links(path, file)
        roots = [n for n in file if isinstance(file[n], h5py.Group) and "data" in file[n]]
        if len(roots) != 1:
            raise DataError(f"{path}: not a computational sequence: its roots are {list(file)}")
        return cls(path, file, roots[0])

    def _dataset(self, key: str, what: str):
        group = self._data[key]
        found = group.get(what) if isinstance(group, h5py.Group) else None
        where = f"{self.path}: `{self.name}/data/{key}/{what}`"
        if not isinstance(found, h5py.Dataset):
            raise DataError(f"{where} is not there")
        if found.external or found.is_virtual or h5py.check_ref_dtype(found.dtype):
            raise DataError(f"{where} points outside of itself; only plain data are read")
        stored = found.id.get_storage_size()
        if found.nbytes > LARGEST or found.nbytes > MOST_PACKED * max(stored, 1024):
            raise DataError(f"{where} claims {found.nbytes:,} bytes, and holds {stored:,}")
        return found

    def read(self, key: str) -> tuple[h5py.Dataset, np.ndarray]:
        """features [n, D], not read yet, and intervals [n, 2] in seconds."""
        features, intervals = self._dataset(key, "features"), self._dataset(key, "intervals")
        if intervals.shape != (len(features), 2):
            raise DataError(
                f"{self.path}: `{key}` has {features.shape} features and {intervals.shape} "
                "intervals; one interval a row is needed"
            )
        return features, intervals[()].astype(np.float64)

    def cut(self, key: str, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames that overlap `span` = (start, end), and their intervals; in the order of time."""
        if key not in self._data:
            return np.zeros((0, self.dim), np.float32), np.zeros((0, 2))
        features, intervals = self.read(key)
        inside = (intervals[:, 0] < span[1] - EPSILON) & (intervals[:, 1] > span[0] + EPSILON)
        order = np.flatnonzero(inside)
        if not len(order):
            return np.zeros((0, self.dim), np.float32), np.zeros((0, 2))
        start, stop = order[0], order[-1] + 1
        values = features[start:stop].reshape(stop - start, self.dim)
        order = order[np.argsort(intervals[order, 0], kind="stable")]
        return values[order - start], intervals[order]


def _check_links(path: pathlib.Path, file: h5py.File) -> None:
    """Every name is a hard link, and no group is inside itself."""
    seen, waiting = set(), [file]
    while waiting:
        group = waiting.pop()
        if hash(group.id) in seen:
            raise DataError(f"{path}: `{group.name}` comes twice; only trees of data are read")
        seen.add(hash(group.id))
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise DataError(f"{path}: `{group.name}/{name}` is a link; only data are read")
            if isinstance(group[name], h5py.Group):
                waiting.append(group[name])


def _choose(
    folder: pathlib.Path, sequences: Mapping[pathlib.Path, Sequence], wanted: Mapping[str, str]
) -> dict[str, Sequence]:
    """{"text", "audio", "vision", "words", "labels": sequence}, of those that there are."""
    chosen = {}
    for role, pattern in KNOWN.items():
        pattern = re.escape(wanted[role]) if role in wanted else pattern
        fits = [
            s for p, s in sequences.items()
            if re.search(pattern, p.stem, re.I) or re.search(pattern, s.name, re.I)
        ]  # fmt: skip
        if role == "vision" and len(fits) > 1:  # "Visual" is in most names
            fits = [s for s in fits if "visual" not in s.name.lower()] or fits
        if len(fits) > 1:
            said = ", ".join(s.path.name for s in fits)
            raise DataError(f"{folder}: which is {role}: {said}? Say --features={role}=NAME")
        if fits:
            chosen[role] = fits[0]
        elif role in wanted:
            raise DataError(f"{folder}: no .csd file or sequence {wanted[role]!r} for {role}")
    if "labels" not in chosen:
        said = ", ".join(p.name for p in sequences)
        raise DataError(f"{folder}: no labels among {said}; get the corpus's …Labels.csd")
    if not set(chosen) & set(MODALITIES):
        raise DataError(f"{folder}: no features known by name; say --features=audio=NAME,…")
    return chosen


def _words(words: Sequence | None, key: str, span: np.ndarray) -> str:
    if words is None:
        return ""
    spoken = (ids.text(w) for w in words.cut(key, span)[0].reshape(-1))
    return " ".join(w for w in spoken if w != "sp")  # "sp" is a pause


def _average(frames: np.ndarray, intervals: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """Mean over each interval of `clock` [n, 2] of the frames that overlap it; zeros if none do."""
    rows = np.zeros((len(clock), frames.shape[1]), np.float32)
    for i, (start, end) in enumerate(clock):
        inside = (intervals[:, 0] < end - EPSILON) & (intervals[:, 1] > start + EPSILON)
        if inside.any():
            rows[i] = frames[inside].mean(axis=0)
    return rows
