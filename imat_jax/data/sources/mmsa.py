"""Pickles of MMSA and Self-MM: MOSI, MOSEI, SIMS; aligned or not.

    {split: {id, raw_text, text [N, L, D], text_bert [N, 3, L], audio [N, La, Da],
             vision [N, Lv, Dv], audio_lengths, vision_lengths, regression_labels, …}}

`text_bert` holds token ids, mask and segments, so its mask gives the lengths of the text. A file
without `audio_lengths` is an aligned one: a frame of audio and vision for each token.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from imat_jax.data import ids, unpickle
from imat_jax.data.checks import describe_lengths, lengths_disagree
from imat_jax.data.corpus import MODALITIES, Corpus, DataError, Modality, Utterance, split_name

PROBED = 100  # utterances of a split whose stated lengths are compared with their features


def corpus(path: str | pathlib.Path) -> Corpus:
    """Read the pickle at `path`; features stay in the file until they are asked for.

    Raises:
      DataError: not this layout; names the field.
    """
    path = pathlib.Path(path)
    data = unpickle.load(path)
    splits = {s: v for s, v in data.items() if isinstance(v, dict) and "id" in v}
    if not splits:
        raise DataError(f"{path}: no split with an `id`; it holds {', '.join(map(str, data))}")
    utterances: list[Utterance] = []
    places: list[tuple[str, int]] = []
    lengths: dict[str, dict[str, np.ndarray]] = {}
    disagreeing: dict[str, list[str]] = {m: [] for m in MODALITIES}
    for split, fields in splits.items():
        names = [ids.text(name) for name in np.asarray(fields["id"]).reshape(-1)]
        present = [m for m in MODALITIES if m in fields]
        for m in present:
            shape = getattr(fields[m], "shape", ())
            if len(shape) != 3 or shape[0] != len(names):
                raise DataError(
                    f"{path}: `{split}/{m}` has shape {shape}, not ({len(names)}, frames, width)"
                )
        annotations = _annotations(path, split, fields, len(names))
        lengths[split] = {m: _lengths(fields, m, len(names)) for m in present}
        texts = np.asarray(fields.get("raw_text", [""] * len(names))).reshape(-1)
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
        for m in present if "audio_lengths" in fields else ():
            for i in range(0, len(names), -(-len(names) // PROBED)):
                if lengths_disagree(fields[m][i], lengths[split][m][i]):
                    disagreeing[m].append(names[i])

    def read(row: int) -> dict[str, np.ndarray]:
        split, i = places[row]
        return {m: splits[split][m][i][: length[i]] for m, length in lengths[split].items()}

    first = next(iter(splits.values()))
    return Corpus(
        name=path.stem,
        utterances=utterances,
        modalities={
            m: Modality(dim=first[m].shape[2], extractor=extractor(m, first[m].shape[2]))
            for m in lengths[next(iter(splits))]
        },
        read=read,
        files=(str(path),),
        facts={"aligned": "audio_lengths" not in first},
        warnings=tuple(describe_lengths(disagreeing)),
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


def _lengths(fields: dict, m: str, count: int) -> np.ndarray:
    """Frames of each utterance that are no padding."""
    if m != "text" and f"{m}_lengths" in fields:
        stated = np.asarray(fields[f"{m}_lengths"], np.int64).reshape(-1)
        return np.clip(stated, 0, fields[m].shape[1])
    same_clock = fields[m].shape[1] == fields.get("text", fields[m]).shape[1]
    if "text_bert" in fields and same_clock:
        mask = np.stack([np.asarray(fields["text_bert"][i])[1] for i in range(count)])
        return mask.astype(np.int64).sum(axis=1)
    clock = fields["text"] if m != "text" and same_clock and "text" in fields else fields[m]
    return np.asarray([_last_frame(clock[i]) for i in range(count)])


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
