"""Folders of MERTools / MERBench: features of one `.npy` an utterance, labels in an `.npz`.

    features/EXTRACTOR-FRA/NAME.npy [T, D]   or EXTRACTOR-UTT/NAME.npy [D]
    label*.npz        {train,val,test,whole,…}_corpus: {NAME: {"emo": …, "val": …}}
    transcription.csv NAME and text; optional

`emo` is a name in MER, a number in IEMOCAP and MELD, and 0 where `val` is the label (MOSI, MOSEI,
SIMS). The numbers' names are those of the files that MERTools made its labels from.
"""

from __future__ import annotations

import csv
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from imat_jax.data import ids, unpickle
from imat_jax.data.corpus import Corpus, DataError, Utterance, split_name
from imat_jax.data.sources.folders import FeatureFolders

# "hubert" is speech though it ends in "bert": the first pattern that fits says what it is.
EXTRACTORS = {
    "audio": r"hubert|wav2vec|wavlm|whisper|vggish|egemaps|opensmile|is09|is13|data2vec|ecapa",
    "vision": r"clip|resnet|senet|dino|videomae|eva|manet|emonet|ferplus|openface|vit|image",
    "text": r"bert|electra|xlnet|llama|vicuna|bloom|baichuan|glm|falcon|moss|opt|gpt|qwen|t5",
}
IEMOCAP = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
NONE = -10  # `val` where there is no value


def corpus(path: str | pathlib.Path, features: Mapping[str, str] | None = None) -> Corpus:
    """Read the folder `path`.

    Args:
      features: {modality: folder below `features/`, or a path}, where several would do.

    Raises:
      DataError: no labels, several candidates for a modality, labels of another form.
    """
    path = pathlib.Path(path)
    table = label_file(path)
    if table is None:
        raise DataError(f"{path}: no label*.npz there, or in a folder of it")
    root = table.parent
    transcripts = _transcripts(root)
    listed: list[tuple[str, str, Any]] = []
    for member, content in unpickle.load_npz(table).items():
        if isinstance(content, dict):
            split = member.removesuffix("_corpus")
            listed += [(split, ids.text(name), label) for name, label in content.items()]
    if not listed:
        raise DataError(f"{table}: no `…_corpus` with a dict of labels")
    folders = FeatureFolders(_folders(root, features or {}), [name for _, name, _ in listed])
    utterances = []
    for row, (split, name, label) in enumerate(listed):
        bare = re.sub(r"^(train|val|test)_(?=dia)", "", name)  # MELD's splits share its names
        group, order = ids.place(bare)
        utterances.append(
            Utterance(
                id=name,
                row=row,
                annotations=_annotations(table, name, label),
                split=None if split == "whole" else split_name(split),
                group=f"{split_name(split)}/{group}" if bare != name else group,
                order=order,
                transcript=transcripts.get(name, ""),
            )
        )
    return Corpus(
        name=root.resolve().name,
        utterances=utterances,
        modalities=folders.modalities,
        read=folders.read,
        files=(str(table), *folders.paths),
    )


def label_file(path: pathlib.Path) -> pathlib.Path | None:
    """The `label*.npz` of the folder `path`, the shortest name if there are several."""
    found = sorted(path.glob("label*.npz"), key=lambda p: (len(p.name), p.name))
    return found[0] if found else None


def _annotations(table: pathlib.Path, name: str, label: Any) -> dict[str, Any]:
    if not isinstance(label, Mapping) or not {"emo", "val"} & set(label):
        raise DataError(f"{table}: the label of {name} is {label!r}, not {{'emo': …, 'val': …}}")
    emotion, value = label.get("emo"), float(label.get("val", NONE))
    found: dict[str, Any] = {}
    if isinstance(emotion, str | bytes):
        found["category"] = ids.text(emotion)
        if value != NONE:
            found["dimensions"] = [value]
    elif value != NONE:
        found["sentiment"] = value
    elif emotion is not None:
        known = IEMOCAP if name.startswith("Ses") else MELD if "dia" in name else ()
        if not 0 <= int(emotion) < len(known):
            raise DataError(f"{table}: emotion number {emotion} of {name} has no name known here")
        found["category"] = known[int(emotion)]
    return found


def _folders(root: pathlib.Path, wanted: Mapping[str, str]) -> dict[str, pathlib.Path]:
    home = root / "features"
    if wanted:
        return {m: home / name if (home / name).is_dir() else pathlib.Path(name)
                for m, name in wanted.items()}  # fmt: skip
    found: dict[str, list[pathlib.Path]] = {}
    for folder in sorted(p for p in home.glob("*") if p.is_dir()):
        kinds = (m for m, pattern in EXTRACTORS.items() if re.search(pattern, folder.name, re.I))
        found.setdefault(next(kinds, "unknown"), []).append(folder)
    for m, folders in found.items():
        if m == "unknown" or len(folders) > 1:
            said = ", ".join(f.name for f in folders)
            what = "what are" if m == "unknown" else f"which is {m}:"
            raise DataError(f"{home}: {what} {said}? Say --features=text=…,audio=…,vision=…")
    if not found:
        raise DataError(f"{home}: no folders of features there")
    return {m: folders[0] for m, folders in found.items()}


def _transcripts(root: pathlib.Path) -> dict[str, str]:
    """{name: text}, English where there are several languages."""
    tables = sorted(root.glob("transcription*.csv"), key=lambda p: -len(p.name))
    if not tables:
        return {}
    with tables[0].open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    column = next((c for c in ("english", "sentence", "chinese") if rows and c in rows[0]), None)
    return {row["name"]: row[column] or "" for row in rows} if column else {}
