"""The folder of SSE-FT: manifests and label files, with features beside them.

    {train,valid,test}_{a,t,v}.tsv   first line a root folder, then a file name a line
    label_file_{train,valid,test}.csv   a header, then ID,LABEL
    text/ID.npy  audio/ID.npy  vision/ID.npy   features [T, D]

The published system reads waveforms, token ids and face crops and computes features as it trains;
here they are computed once (`imat_jax.extract`). Of the manifests, the ids count; the roots do not.
"""

from __future__ import annotations

import csv
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from imat_jax.data import ids
from imat_jax.data.corpus import MODALITIES, Corpus, DataError, Utterance
from imat_jax.data.sources.folders import FeatureFolders

SPLITS = ("train", "valid", "test")


def corpus(path: str | pathlib.Path, features: Mapping[str, str] | None = None) -> Corpus:
    """Read the folder `path`.

    Args:
      features: {modality: folder}; default text, audio and vision in `path`.

    Raises:
      DataError: manifests that do not fit each other or the labels; names the file.
    """
    path = pathlib.Path(path)
    features = features or {m: str(path / m) for m in MODALITIES if (path / m).is_dir()}
    if not features:
        raise DataError(f"{path}: no folder text, audio or vision with features; see docs/data.md")
    listed: list[tuple[str, str]] = []
    files: list[str] = []
    labels: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        manifests = [p for m in "atv" if (p := path / f"{split}_{m}.tsv").is_file()]
        if not manifests:
            raise DataError(f"{path}: no manifest {split}_a.tsv, {split}_t.tsv or {split}_v.tsv")
        stems = {p: _stems(p) for p in manifests}
        first, *others = manifests
        for other in others:
            if stems[other] != stems[first]:
                raise DataError(f"{other} does not list the same utterances as {first.name}")
        table = path / f"label_file_{split}.csv"
        labels |= {(split, name): label for name, label in _labels(table)}
        listed += [(split, name) for name in stems[first]]
        files += [str(p) for p in (*manifests, table)]
    folders = FeatureFolders(features, [name for _, name in listed])
    utterances = []
    for row, (split, name) in enumerate(listed):
        if (split, name) not in labels:
            raise DataError(f"{path / f'label_file_{split}.csv'}: no label for {name}")
        group, order = _place(name)
        if name.startswith("dia"):
            group = f"{split}/{group}"  # MELD counts its dialogues from 0 in each split
        utterances.append(
            Utterance(name, row, _annotation(labels[split, name]), split, group, order)
        )
    return Corpus(
        name=path.resolve().name,
        utterances=utterances,
        modalities=folders.modalities,
        read=folders.read,
        files=(*files, *folders.paths),
    )


def _stems(path: pathlib.Path) -> list[str]:
    lines = path.read_text().splitlines()[1:]  # the first is the root on the author's machine
    return [pathlib.PurePosixPath(line.split("\t")[0]).name.split(".")[0] for line in lines if line]


def _labels(path: pathlib.Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open(newline="") as file:
        return [(row[0].split(".")[0], row[1]) for row in list(csv.reader(file))[1:] if row]


def _place(name: str) -> tuple[str, int]:
    if re.search(r"_s_[1-5]_", name):
        return "", -1  # IEMOCAP: neither dialogue nor turn can be told from such a name
    match = re.fullmatch(r"(.+)_(\d+)", name)
    return (match[1], int(match[2])) if match and not name.startswith("dia") else ids.place(name)


def _annotation(label: str) -> dict[str, Any]:
    try:
        return {"sentiment": float(label)}
    except ValueError:
        return {"category": label}
