"""Feature files that people already have, read into a `Corpus`: one module a format."""

from __future__ import annotations

import inspect
import pathlib
from typing import Any

from imat_jax.data import unpickle
from imat_jax.data.corpus import Corpus, DataError
from imat_jax.data.sources import csd, emobox, mertools, misa, mmsa, mult, npy, npz, sseft

READERS = {
    "npz": npz.corpus,
    "mmsa": mmsa.corpus,
    "mult": mult.corpus,
    "misa": misa.corpus,
    "csd": csd.corpus,
    "mertools": mertools.corpus,
    "emobox": emobox.corpus,
    "sseft": sseft.corpus,
    "npy": npy.corpus,
}


def open_corpus(source: str, path: str, **options: Any) -> Corpus:
    """The corpus at `path`, read as the format `source`; "auto" detects it.

    Args:
      options: of the reader, such as `features`; those that are None or "" count as not given.

    Raises:
      DataError: the file is not of the format, or the format has no such option.
    """
    _existing(path)
    if source == "auto":
        source, _ = detect(path)
    reader = READERS[source]
    given = {name: value for name, value in options.items() if value}
    for name in given:
        if name not in inspect.signature(reader).parameters:
            raise DataError(f"--{name} says nothing to --source={source}")
    try:
        return reader(path, **given)
    except DataError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not what --source={source} reads (docs/data.md): {error!r}"
        ) from error


def detect(path: str) -> tuple[str, str]:
    """(format, why) of the file or folder at `path`.

    Raises:
      DataError: none of the formats; says what was looked for.
    """
    place = _existing(path)
    if place.is_dir():
        found = _detect_folder(place)
    elif place.suffix == ".npz":
        found = ("npz", "an .npz archive")
    elif place.suffix == ".csd":
        found = ("csd", "a computational sequence; its folder is read")
    elif place.suffix == ".csv":
        found = ("npy", "a CSV table")
    else:
        found = _detect_pickle(place)
    if found is None:
        raise DataError(
            f"{path}: none of the formats {', '.join(READERS)} (docs/data.md shows each); "
            "if it is one of them, say --source=NAME to see what is amiss"
        )
    return found


def _existing(path: str) -> pathlib.Path:
    place = pathlib.Path(path)
    if not place.exists():
        raise DataError(f"{path}: no such file or folder")
    return place


def _detect_folder(place: pathlib.Path) -> tuple[str, str] | None:
    if any(place.glob("*.csd")):
        return "csd", "a folder with .csd files"
    if any(place.glob("train_[atv].tsv")):
        return "sseft", "a folder with manifests train_….tsv"
    if misa.split_files(place):
        return "misa", "a folder with train.pkl, dev.pkl, test.pkl"
    if mertools.label_file(place):
        return "mertools", "a folder with label….npz"
    if (place / "label_map.json").is_file() or any(place.glob("data/*/label_map.json")):
        return "emobox", "a folder with label_map.json"
    if any(place.glob("*.csv")):
        return "npy", "a folder with a CSV table"
    return None


def _detect_pickle(place: pathlib.Path) -> tuple[str, str] | None:
    with place.open("rb") as file:
        if file.read(1) not in b"\x80(cd}]":
            return None
    content = unpickle.load(place)
    if not isinstance(content, dict):
        return None
    splits = [v for v in content.values() if isinstance(v, dict)]
    if any("labels" in v for v in splits):
        return "mult", "a pickle whose splits have `labels`"
    if any("id" in v for v in splits):
        return "mmsa", "a pickle whose splits have `id` and regression labels"
    if any(isinstance(v, list) for v in content.values()):
        return "misa", "a pickle of lists of examples"
    return None
