"""Pickles of MulT: sentiment of MOSI and MOSEI, and IEMOCAP's four binary emotions.

    {split: {text, audio, vision [N, L, D], labels [N, 1, 1] or [N, 4, 2], id}}

Utterances are padded with zeros, in front in the files in use, and no lengths are given: zeros at
either end are padding. Of aligned files, only what is zero in all modalities.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from imat_jax.data import ids
from imat_jax.data.corpus import Corpus, DataError, Modality, Utterance, split_name
from imat_jax.data.sources.mmsa import extractor
from imat_jax.data.sources.padded import modalities, open_splits

PAIRS = ("neutral", "happy", "sad", "angry")


def corpus(path: str | pathlib.Path) -> Corpus:
    """Read the pickle at `path`; features stay in the file until they are asked for.

    Raises:
      DataError: not this layout; names the field.
    """
    path = pathlib.Path(path)
    splits, sequences = open_splits(path, "labels")
    found, warnings = modalities(sequences)
    utterances: list[Utterance] = []
    places: list[tuple[str, int]] = []
    for split, fields in splits.items():
        count = len(fields["labels"])
        labels = np.asarray(fields["labels"], np.float64)
        for i, (name, group, order) in enumerate(_names(path, fields.get("id"), split, count)):
            utterances.append(
                Utterance(
                    id=name,
                    row=len(places),
                    annotations=_annotations(path, labels[i]),
                    split=split_name(split),
                    group=group,
                    order=order,
                )
            )
            places.append((split, i))
    clocks = {x.frames for x in found.values()}
    aligned = len(clocks) == 1 and None not in clocks

    def read(row: int) -> dict[str, np.ndarray]:
        split, i = places[row]
        frames = {m: x[i] for m, x in sequences[split].items()}
        spans = {m: (x != 0).any(axis=1) for m, x in frames.items()}
        if aligned:
            spans = dict.fromkeys(frames, np.any(list(spans.values()), axis=0))
        return {m: x[_span(spans[m])] for m, x in frames.items()}

    return Corpus(
        name=path.stem,
        utterances=utterances,
        modalities={m: Modality(x.dim, extractor=extractor(m, x.dim)) for m, x in found.items()},
        read=read,
        label_names={"pairs": PAIRS, "emotions": ids.EMOTIONS},
        files=(str(path),),
        facts={"aligned": aligned},
        warnings=warnings,
    )


def _span(real: np.ndarray) -> slice:
    """From the first True to the last."""
    where = np.flatnonzero(real)
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0)


def _annotations(path: pathlib.Path, label: np.ndarray) -> dict[str, Any]:
    if label.shape == (len(PAIRS), 2):  # one-hot: column 1 says that the emotion is there
        return {"pairs": label.argmax(axis=1).tolist()}
    return ids.scores(label, f"{path}: `labels`")


def _names(path: pathlib.Path, stored: Any, split: str, count: int) -> list[tuple[str, str, int]]:
    """(id, group, order) of each utterance."""
    if stored is None or not len(stored):
        return [(f"{split}-{i:05d}", "", -1) for i in range(count)]
    if len(stored) != count:
        raise DataError(f"{path}: `{split}/id` has {len(stored)} rows for {count} labels")
    names = []
    for row in np.asarray(stored).reshape(count, -1):
        parts = [ids.text(part) for part in row]
        if len(parts) == 3:  # video or segment, start, end
            group, order = ids.place(parts[0])
            names.append(("_".join(parts), group or parts[0], order))
        else:
            names.append((parts[0], *ids.place(parts[0])))
    return names
