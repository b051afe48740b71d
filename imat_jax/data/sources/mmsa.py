"""Pickles of MMSA and Self-MM: MOSI, MOSEI, SIMS; aligned or not.

    {split: {id, raw_text, text [N, L, D], text_bert [N, 3, L], audio [N, La, Da],
             vision [N, Lv, Dv], audio_lengths, vision_lengths, regression_labels, …}}

`text_bert` holds token ids, mask and segments, so its mask gives the lengths of the text. A file
without `audio_lengths` is an aligned one: a frame of audio and vision for each token.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imat_jax.data import ids
from imat_jax.data.corpus import MODALITIES, Corpus, DataError, Modality, Utterance, split_name
from imat_jax.data.sources.padded import Sequences, modalities, open_splits

PROBED = 100  # utterances of a split whose stated lengths are compared with their features


def corpus(path: str | pathlib.Path) -> Corpus:
    """Read the pickle at `path`; features stay in the file until they are asked for.

    Raises:
      DataError: not this layout; names the field.
    """
    path = pathlib.Path(path)
    splits, sequences = open_splits(path, "id")
    utterances: list[Utterance] = []
    places: list[tuple[str, int]] = []
    lengths: dict[str, dict[str, np.ndarray]] = {}
    disagreeing: dict[str, list[str]] = {m: [] for m in MODALITIES}
    for split, fields in splits.items():
        names = [ids.text(name) for name in np.asarray(fields["id"]).reshape(-1)]
        present = sequences[split]
        annotations = _annotations(path, split, fields, len(names))
        lengths[split] = {m: _lengths(fields, present, m) for m in present}
        texts = np.asarray(fields.get("raw_text", [""] * len(names))).reshape(-1)
        if len(texts) != len(names):
            raise DataError(f"{path}: `{split}/raw_text` has not one text for each `id`")
        for i, name in enumerate(names):
            group, order = ids.place(name)
            utterances.append(
                Utterance(
                    id=name,
                    row=len(places),
                    annotations=annotations[i],
                    split=split_name(split),
                    group=group,
                    order=order,
                    transcript=ids.text(texts[i]),
                )
            )
            places.append((split, i))
        for m in present:
            if f"{m}_lengths" not in fields:
                continue  # text: BERT has run over its padding too
            for i in range(0, len(names), -(-len(names) // PROBED)):
                if _disagree(present[m][i], lengths[split][m][i]):
                    disagreeing[m].append(names[i])

    def read(row: int) -> dict[str, np.ndarray]:
        split, i = places[row]
        return {m: sequences[split][m][i][: length[i]] for m, length in lengths[split].items()}

    found, warnings = modalities(sequences)
    return Corpus(
        name=path.stem,
        utterances=utterances,
        modalities={m: Modality(x.dim, extractor=extractor(m, x.dim)) for m, x in found.items()},
        read=read,
        files=(str(path),),
        facts={"aligned": not any("audio_lengths" in fields for fields in splits.values())},
        warnings=(*_disagreements(disagreeing), *warnings),
    )


def _annotations(path: pathlib.Path, split: str, fields: dict, count: int) -> list[dict[str, Any]]:
    kinds = {"sentiment": "regression_labels"}
    kinds |= {f"sentiment_{m}": f"regression_labels_{m[0].upper()}" for m in MODALITIES}
    values = {}
    for kind, name in kinds.items():
        if name in fields:
            values[kind] = np.asarray(fields[name], np.float64).reshape(-1)
            if len(values[kind]) != count:
                raise DataError(f"{path}: `{split}/{name}` has not one number for each `id`")
    if "sentiment" not in values:
        raise DataError(f"{path}: `{split}` has no `regression_labels`; it has {sorted(fields)}")
    return [{kind: float(column[i]) for kind, column in values.items()} for i in range(count)]


def _lengths(fields: dict, present: Mapping[str, Sequences], m: str) -> np.ndarray:
    """Frames of each utterance that are no padding."""
    own, text = present[m], present.get("text", present[m])
    if m != "text" and f"{m}_lengths" in fields:
        stated = np.asarray(fields[f"{m}_lengths"], np.int64).reshape(-1)
        return np.maximum(stated, 0)
    if own.frames is None:
        return np.asarray([len(own[i]) for i in range(len(own))])
    if "text_bert" in fields:
        shape = np.shape(fields["text_bert"])
        if len(shape) != 3 or shape[:2] != (len(own), 3):
            raise DataError(f"{own.where}: `text_bert` beside it has shape {shape}, not (N, 3, L)")
        if shape[2] == own.frames:
            masks = (np.asarray(fields["text_bert"][i])[1] for i in range(len(own)))
            return np.asarray([int(mask.sum()) for mask in masks], np.int64)
    clock = text if own.frames == text.frames else own
    return np.asarray([_last_frame(clock[i]) for i in range(len(own))])


def _disagree(frames: np.ndarray, length: int) -> bool:
    """Whether padded `frames` [T, D] are fewer than stated, or hold anything beyond."""
    return bool(length > len(frames) or np.any(np.nan_to_num(frames[length:])))


def _disagreements(found: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence a modality, from {modality: ids whose lengths disagree}."""
    return [
        f"{m}: the stated length of {len(names)} utterances is not that of their features, such "
        f"as {names[0]}"
        for m, names in found.items()
        if names
    ]


def _last_frame(frames: np.ndarray) -> int:
    """Length without the zeros at the end."""
    return int(np.flatnonzero((np.asarray(frames) != 0).any(axis=1)).max(initial=-1)) + 1


def extractor(m: str, dim: int) -> str:
    """What MMSA says of its features, by their width."""
    known = {
        ("text", 768): "BERT", ("text", 300): "GloVe",
        ("audio", 74): "COVAREP", ("audio", 5): "COVAREP (5 chosen)", ("audio", 33): "LibROSA",
        ("vision", 35): "FACET 4.2", ("vision", 47): "FACET 4.1",
        ("vision", 20): "FACET (20 chosen)",
        ("vision", 709): "OpenFace 2",
    }  # fmt: skip
    return known.get((m, dim), "unknown")
