"""Folds of EmoBox, with features of one `.npy` a key: speech emotion in 32 corpora.

    data/CORPUS/fold_K/CORPUS_{train,valid,test}_fold_K.jsonl   key, emo, …
    data/CORPUS/label_map.json                                  {emo: class}
    dump/CORPUS/MODEL/KEY.npy                                   [T, D]

Most corpora have no validation fold; `--hold_out` takes one from train, by group.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

from imat_jax.data import ids
from imat_jax.data.corpus import Corpus, DataError, Utterance
from imat_jax.data.sources.folders import FeatureFolders

SPLITS = ("train", "valid", "test")


def corpus(
    path: str | pathlib.Path, features: Mapping[str, str] | None = None, fold: int = 1
) -> Corpus:
    """Read fold `fold` of the corpus in the folder `path`, or in its only `data/CORPUS`.

    Args:
      features: {modality: folder}; default: audio from the only folder of `dump/CORPUS`.

    Raises:
      DataError: no such fold, an emotion that `label_map.json` does not know, no features.
    """
    home = find(pathlib.Path(path))
    name = home.name
    tables = {s: home / f"fold_{fold}" / f"{name}_{s}_fold_{fold}.jsonl" for s in SPLITS}
    tables = {s: table for s, table in tables.items() if table.is_file()}
    if not tables:
        there = ", ".join(sorted(p.name for p in home.glob("fold_*")))
        raise DataError(f"{home}: no fold_{fold}; there are {there}")
    classes = json.loads((home / "label_map.json").read_text())
    listed = []
    for split, table in tables.items():
        for number, line in enumerate(table.read_text().splitlines(), 1):
            try:
                entry = json.loads(line)
                listed.append((split, entry["key"], entry["emo"], classes[entry["emo"]]))
            except (ValueError, KeyError) as error:
                raise DataError(f"{table}, line {number}: {error!r}") from error
    folders = FeatureFolders(features or _dump(home), [key for _, key, _, _ in listed])
    utterances = []
    for row, (split, key, emotion, emotion_class) in enumerate(listed):
        bare = key.removeprefix(f"{name}-")
        group, order = ids.place(bare)
        if group.startswith("dia"):
            group = f"{split}/{group}"  # MELD counts its dialogues from 0 in each split
        raw = {"category": emotion_class, "emo": emotion}
        utterances.append(Utterance(key, row, raw, split, group, order))
    return Corpus(
        name=name,
        utterances=utterances,
        modalities=folders.modalities,
        read=folders.read,
        files=(*map(str, tables.values()), str(home / "label_map.json"), *folders.paths),
        facts={"emobox_fold": fold},
    )


def find(path: pathlib.Path) -> pathlib.Path:
    """The folder with `label_map.json`: `path`, or the only one in `path/data`."""
    homes = [path] if (path / "label_map.json").is_file() else []
    homes = homes or [p.parent for p in sorted(path.glob("data/*/label_map.json"))]
    if len(homes) != 1:
        said = ", ".join(str(h) for h in homes) or "none"
        raise DataError(f"{path}: one folder with label_map.json is needed; here: {said}")
    return homes[0]


def _dump(home: pathlib.Path) -> dict[str, str]:
    dump = home.parent.parent / "dump" / home.name
    models = sorted(p for p in dump.glob("*") if p.is_dir())
    if len(models) != 1:
        said = ", ".join(p.name for p in models) or "none"
        raise DataError(f"{dump}: which features: {said}? Say --features=audio=DIR")
    return {"audio": str(models[0])}
