"""NumPy archives: ragged modalities as one long array and its offsets.

    ids [N], split [N], label [N] or [N, K], and for each modality M:
    M [frames of all utterances, D], M_offsets [N + 1]        M in text, audio, vision

Optional: `video` or `actor` [N] (the group), `utt_idx` [N] (the order), `transcript` [N],
`label_names` [K]. Integer labels are classes; a real label is sentiment in [-3, 3]; a matrix of
real labels is a multilabel one. Nothing is unpickled.
"""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from imat_jax.data.corpus import MODALITIES, Corpus, DataError, Modality

GROUPS = ("video", "actor", "speaker", "group")


def corpus(path: str | pathlib.Path, protocol: str | None = None) -> Corpus:
    """Read an archive of the layout above.

    Args:
      path: the `.npz` file.
      protocol: name to record; default the file's stem.

    Raises:
      DataError: the file or one of its arrays does not have the layout; names both.
    """
    path = pathlib.Path(path)
    arrays = _load(path)
    count = _check(path, arrays)
    modalities = {m: Modality(dim=arrays[m].shape[1]) for m in MODALITIES if m in arrays}
    label = arrays["label"]
    if np.issubdtype(label.dtype, np.integer):
        task, names = "multiclass", [str(n) for n in arrays.get("label_names", ())]
        names = names or [str(k) for k in range(int(label.max()) + 1)]
        if label.min() < 0 or label.max() >= len(names):
            raise DataError(
                f"{path}: `label` runs from {label.min()} to {label.max()}, but there are "
                f"{len(names)} `label_names`"
            )
    else:
        task = "sentiment" if label.ndim == 1 else "multilabel"
        names = [] if label.ndim == 1 else [str(n) for n in arrays.get("label_names", ())]
        if label.ndim == 2 and len(names) != label.shape[1]:
            raise DataError(
                f"{path}: `label` has {label.shape[1]} columns and {len(names)} `label_names`"
            )
    group = next((arrays[g] for g in GROUPS if g in arrays), arrays["ids"])
    order = arrays.get("utt_idx", np.full(count, -1))
    transcript = arrays.get("transcript", np.full(count, ""))
    rows = {str(s): np.flatnonzero(arrays["split"] == s) for s in np.unique(arrays["split"])}

    def examples(split: str) -> Iterator[dict[str, Any]]:
        for i in rows[split]:
            yield {
                "id": str(arrays["ids"][i]),
                "group": str(group[i]),
                "order": int(order[i]),
                "transcript": str(transcript[i]),
                "label": label[i],
            } | {
                m: arrays[m][slice(*arrays[f"{m}_offsets"][i : i + 2])].astype(np.float32)
                for m in modalities
            }

    return Corpus(
        name=path.stem,
        protocol=protocol or path.stem,
        task=task,
        class_names=tuple(names),
        modalities=modalities,
        splits={s: lambda s=s: examples(s) for s in _ordered(rows)},
        sizes={s: len(rows[s]) for s in _ordered(rows)},
        files=(str(path),),
    )


def _ordered(splits) -> list[str]:
    first = [s for s in ("train", "valid", "test") if s in splits]
    return first + sorted(set(splits) - set(first))


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; --input takes the .npz archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz archive without pickles: {error}") from error


def _check(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> int:
    """All arrays are there and fit each other; returns the number of utterances."""
    missing = [name for name in ("ids", "split", "label") if name not in arrays]
    if missing:
        raise DataError(f"{path}: no array {missing[0]!r}; it holds {sorted(arrays)}")
    count = len(arrays["ids"])
    for name in ("split", "label", "transcript", "utt_idx", *GROUPS):
        if name in arrays and len(arrays[name]) != count:
            raise DataError(f"{path}: `{name}` has {len(arrays[name])} rows; `ids` has {count}")
    present = [m for m in MODALITIES if m in arrays]
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
