"""Folds inside training and validation, for settings: python benchmarks/inner_folds.py --help

Of an `.npz` archive (`imat_jax/data/sources/npz.py`) everything but the test split is dealt out
into folds, whole groups together; archive k has fold k as its test split, fold k + 1 as validation
and the others as training. What is chosen on these has not seen the archive's own test split.

python benchmarks/inner_folds.py --input=mosi400.npz --output=inner --folds=5
imat build --input=inner/1.npz --output=data/inner-1   # 2, 3, …

Build them without --protocol: one that has a rule for the splits would put its own in their place.
"""

from __future__ import annotations

import argparse
import pathlib
import zipfile

import numpy as np

from imat_jax.cli import UsageError, fail
from imat_jax.data import ids
from imat_jax.data.corpus import split_name

SPLITS = ("test", "valid")  # of the folds k and k + 1


def select(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The utterances `rows` of an archive; frames go with their offsets."""
    n = len(arrays["ids"])
    out = {}
    for name, array in arrays.items():
        if f"{name}_offsets" in arrays:
            starts = arrays[f"{name}_offsets"]
            out[name] = np.concatenate([array[starts[i] : starts[i + 1]] for i in rows])
        elif name.endswith("_offsets"):
            lengths = np.diff(array)[rows]
            out[name] = np.concatenate([[0], np.cumsum(lengths)]).astype(array.dtype)
        elif array.ndim and len(array) == n:
            out[name] = array[rows]
        else:
            out[name] = array
    return out


def assign(groups: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each utterance, from 0: the largest groups first, each to the emptiest."""
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < folds:
        raise UsageError(f"--folds={folds}: there are {len(names)} groups outside the test split")
    fold, filled = np.zeros(len(names), int), np.zeros(folds, int)
    for name in np.argsort(-counts, kind="stable"):
        fold[name] = np.argmin(filled)
        filled[fold[name]] += counts[name]
    return fold[inverse]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, type=pathlib.Path, help="the .npz archive")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder of the folds")
    parser.add_argument("--folds", type=int, default=5, help="3 or more")
    parser.add_argument("--group", default="video", help="the array that says what stays together")
    args = parser.parse_args()
    if args.folds < 3:
        raise UsageError(f"--folds={args.folds}: take 3 or more; one is test, one validation")
    try:
        with np.load(args.input, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{args.input}: not a readable .npz archive: {error}") from error
    for name in ("ids", "split", args.group):
        if name not in arrays:
            raise UsageError(f"{args.input} has no array {name!r}, it has {', '.join(arrays)}")
    named = np.asarray([split_name(ids.text(one)) for one in arrays["split"]])
    if "test" not in named:
        raise UsageError(f"{args.input}: no split is test, but {', '.join(np.unique(named))}")
    arrays = select(arrays, np.flatnonzero(named != "test"))
    fold = assign(arrays[args.group], args.folds)
    args.output.mkdir(parents=True, exist_ok=True)
    for k in range(args.folds):
        split = np.full(len(fold), "train")
        for step, name in enumerate(SPLITS):
            split[fold == (k + step) % args.folds] = name
        path = args.output / f"{k + 1}.npz"
        partial = path.with_name(f".{path.name}")
        np.savez(partial, **arrays | {"split": split})
        partial.rename(path)
        counts = ", ".join(f"{name} {(split == name).sum()}" for name in ("train", *SPLITS[::-1]))
        print(f"{path}: {counts}")


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        fail(error)
