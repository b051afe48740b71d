"""Pickled lists of MISA, MMIM and MAG-BERT.

    [((words, vision, audio, …), label, segment), …]     vision before audio

one a split: `train.pkl`, `dev.pkl` and `test.pkl` in a folder, or one file {"train": …, "dev": …}.
What comes after `audio` differs: the words as strings (MISA), the words and two lengths (MMIM).
`words` are ids into a vocabulary, strings, or nothing: no text features, unless they are vectors.
The words are kept as transcripts, from which text features can be extracted.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from imat_jax.data import ids, unpickle
from imat_jax.data.corpus import Corpus, DataError, Modality, Utterance, split_name
from imat_jax.data.lazy import Array
from imat_jax.data.sources.mmsa import extractor


def corpus(path: str | pathlib.Path) -> Corpus:
    """Read the folder or file at `path`; features stay in the files until they are asked for.

    Raises:
      DataError: not this layout; names file, split and place.
    """
    path = pathlib.Path(path)
    files = split_files(path) if path.is_dir() else {}
    if path.is_dir() and not files:
        raise DataError(f"{path}: no train.pkl, dev.pkl or test.pkl there")
    lists = {s: unpickle.load(f) for s, f in files.items()} if files else unpickle.load(path)
    if not isinstance(lists, dict):
        raise DataError(
            f"{path}: one list; MISA keeps a file a split, give the folder of train.pkl, dev.pkl "
            "and test.pkl"
        )
    utterances: list[Utterance] = []
    examples: list[Any] = []
    for split, members in lists.items():
        if not isinstance(members, list):
            raise DataError(f"{path}: `{split}` is a {type(members).__name__}, not a list")
        seen: collections.Counter = collections.Counter()
        for i, example in enumerate(members):
            features = _features(path, split, i, example)
            name = ids.text(example[2]) if len(example) > 2 else f"{split}-{i:05d}"
            group, order = ids.place(name)
            seen[name] += 1
            if seen[name] > 1 or (not group and len(example) > 2):
                # MMIM's MOSEI names the video only, so that names repeat.
                group, name = group or name, f"{name}#{seen[name] - 1}"
            utterances.append(
                Utterance(
                    id=name,
                    row=len(examples),
                    annotations=ids.scores(example[1], f"{path}: example {i} of `{split}`"),
                    split=split_name(split),
                    group=group,
                    order=order,
                    transcript=_transcript(features),
                )
            )
            examples.append(features)

    def read(row: int) -> dict[str, np.ndarray]:
        return {m: _frames(examples[row][k]) for m, k in places.items()}

    if not examples:
        raise DataError(f"{path}: no example")
    places = {"vision": 1, "audio": 2}
    if getattr(examples[0][0], "ndim", 0) == 2:
        places = {"text": 0, **places}
    dims = {
        m: next((d for e in examples if (d := _frames(e[k]).shape[-1])), 0)
        for m, k in places.items()
    }
    return Corpus(
        name=path.stem,
        utterances=utterances,
        modalities={
            m: Modality(dim=dims[m], extractor=extractor(m, dims[m]))
            for m in ("text", "audio", "vision")
            if m in dims
        },
        read=read,
        label_names={"emotions": ids.EMOTIONS},
        files=tuple(map(str, files.values())) or (str(path),),
    )


def split_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """{split: pickle}, by the names train, dev or valid, and test."""
    found = {split_name(p.stem): p for p in sorted(folder.glob("*.pkl"))}
    return {s: found[s] for s in ("train", "valid", "test") if s in found}


def _features(path: pathlib.Path, split: str, i: int, example: Any) -> Sequence[Any]:
    if (
        not isinstance(example, tuple | list)
        or len(example) < 2
        or not isinstance(example[0], tuple | list)
        or len(example[0]) < 3
    ):
        raise DataError(
            f"{path}: example {i} of `{split}` is not ((words, vision, audio, …), label, segment)"
        )
    return example[0]


def _transcript(features: Sequence[Any]) -> str:
    for member in (*features[3:], features[0]):
        if isinstance(member, list | tuple | Array) and len(member):
            words = np.asarray(member, object).reshape(-1).tolist()
            if all(isinstance(w, str | bytes) for w in words):
                return " ".join(map(ids.text, words))
    return ""


def _frames(member: Any) -> np.ndarray:
    """[T, D] without the zeros at its end."""
    frames = np.asarray(member)
    if frames.ndim != 2:
        frames = frames.reshape(len(frames), -1) if frames.size else np.zeros((0, 0))
    last = int(np.flatnonzero((frames != 0).any(axis=1)).max(initial=-1)) + 1
    return frames[:last]
