"""NumPy archives: ragged modalities as one long array and its offsets.

    ids [N], split [N], label [N] or [N, K], and for each modality M:
    M [frames of all utterances, D], M_offsets [N + 1]        M in text, audio, vision

An array [N, D] without offsets holds one vector an utterance: one frame. Arrays of other names, of
which one file may hold several a modality, are picked with `--features=audio=NAME`.

Optional: `video` or `actor` [N] (the group), `utt_idx` [N] (the order), `transcript` [N],
`label_names` [K]. Integer labels are classes; a real label is sentiment in [-3, 3]; a matrix of
real labels is a multilabel one. Nothing is unpickled.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from imat_jax.data import ids
from imat_jax.data.corpus import MODALITIES, Corpus, DataError, Modality, Utterance
from imat_jax.data.lazy import Array, read_npz

GROUPS = ("video", "actor", "speaker", "group")


def corpus(path: str | pathlib.Path, features: Mapping[str, str] | None = None) -> Corpus:
    """Read an archive of the layout above.

    Args:
      path: the `.npz` file.
      features: {modality: name of its array}, where it is not called like the modality.

    Raises:
      DataError: the file or one of its arrays does not have the layout; names both.
    """
    path = pathlib.Path(path)
    names = {m: m for m in MODALITIES} | dict(features or {})
    if set(names) - set(MODALITIES) or len(set(names.values())) < len(names):
        raise DataError(f"--features names an array for each of {MODALITIES}, not {features}")
    arrays = _load(path, names)
    count = _check(path, arrays)
    modalities = {m: Modality(dim=arrays[m].shape[1]) for m in MODALITIES if m in arrays}
    kind, names, values = _annotation(path, arrays)
    group = next((arrays[g] for g in GROUPS if g in arrays), np.full(count, ""))
    order = arrays.get("utt_idx", np.full(count, -1))
    transcript = arrays.get("transcript", np.full(count, ""))
    utterances = [
        Utterance(
            id=ids.text(arrays["ids"][i]),
            row=i,
            annotations={kind: values[i]},
            split=ids.text(arrays["split"][i]),
            group=ids.text(group[i]),
            order=int(order[i]),
            transcript=ids.text(transcript[i]),
        )
        for i in range(count)
    ]

    def read(row: int) -> dict[str, np.ndarray]:
        return {
            m: arrays[m][slice(*arrays[f"{m}_offsets"][row : row + 2].tolist())].astype(np.float32)
            for m in modalities
        }

    return Corpus(
        name=path.stem,
        utterances=utterances,
        modalities=modalities,
        read=read,
        label_names={kind: names} if names else {},
        files=(str(path),),
    )


def _annotation(
    path: pathlib.Path, arrays: dict[str, np.ndarray | Array]
) -> tuple[str, list[str], list]:
    """Kind of the labels, names of classes or columns, and a value an utterance."""
    label = np.asarray(arrays["label"])
    if label.ndim > 1 and label.size == len(label):
        label = label.reshape(-1)
    names = [ids.text(n) for n in arrays.get("label_names", ())]
    if np.issubdtype(label.dtype, np.integer) and label.ndim == 1:
        names = names or [str(k) for k in range(int(label.max()) + 1)]
        if label.min() < 0 or label.max() >= len(names):
            raise DataError(
                f"{path}: `label` runs from {label.min()} to {label.max()}, but there are "
                f"{len(names)} `label_names`"
            )
        return "category", names, [names[k] for k in label]
    if label.ndim == 1:
        if label.dtype.kind != "f":
            raise DataError(f"{path}: `label` is of {label.dtype}; integers or numbers are read")
        return "sentiment", [], label.astype(float).tolist()
    if label.ndim != 2 or len(names) != label.shape[1]:
        raise DataError(
            f"{path}: `label` has shape {label.shape} and there are {len(names)} `label_names`"
        )
    return "emotions", names, label.astype(float).tolist()


def _load(path: pathlib.Path, names: Mapping[str, str]) -> dict[str, np.ndarray | Array]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; --input takes the .npz archive")
    known = {"ids", "split", "label", "label_names", "transcript", "utt_idx", *GROUPS}
    stored = {name: m for m, name in names.items()}
    stored |= {f"{name}_offsets": f"{m}_offsets" for m, name in names.items()}
    arrays = read_npz(path, known | stored.keys())
    for m, name in names.items():
        if name != m and name not in arrays:
            raise DataError(f"{path}: no array {name!r}, which --features names for {m}")
    return {stored.get(name, name): array for name, array in arrays.items()}


def _check(path: pathlib.Path, arrays: dict[str, np.ndarray | Array]) -> int:
    """All arrays are there and fit each other, given offsets; returns the number of utterances."""
    missing = [name for name in ("ids", "split", "label") if name not in arrays]
    if missing:
        raise DataError(f"{path}: no array {missing[0]!r}; it holds {sorted(arrays)}")
    if any(arrays[name].ndim != 1 for name in ("ids", "split")):
        raise DataError(f"{path}: `ids` and `split` must be [N]")
    count = len(arrays["ids"])
    for name in ("split", "label", "transcript", "utt_idx", *GROUPS):
        if name in arrays and len(arrays[name]) != count:
            raise DataError(f"{path}: `{name}` has {len(arrays[name])} rows; `ids` has {count}")
    present = [m for m in MODALITIES if m in arrays]
    for m in present:  # a vector an utterance: one frame each
        if arrays[m].ndim == 2 and len(arrays[m]) == count:
            arrays.setdefault(f"{m}_offsets", np.arange(count + 1))
    if not present:
        raise DataError(f"{path}: none of the modalities {MODALITIES}; it holds {sorted(arrays)}")
    for m in present:
        offsets = arrays.get(f"{m}_offsets")
        if offsets is None or offsets.shape != (count + 1,) or arrays[m].ndim != 2:
            raise DataError(f"{path}: `{m}` must be [frames, dim] with `{m}_offsets` [{count + 1}]")
        if offsets[0] != 0 or offsets[-1] != len(arrays[m]) or (np.diff(offsets) < 0).any():
            raise DataError(
                f"{path}: `{m}_offsets` must rise from 0 to the {len(arrays[m])} frames of `{m}`"
            )
    return count
