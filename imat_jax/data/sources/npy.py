"""Your own features: a CSV table, and a folder of one `.npy` an utterance for each modality.

    table.csv     id,split,group,label,transcript
    text/ID.npy   audio/ID.npy   vision/ID.npy        [T, D], or [D] for one vector an utterance

`label` is a number (sentiment in [-3, 3]), a class name, or numbers in several columns
`label:NAME` (dimensions). `group` and `transcript` may be left out.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

from imat_jax.data import ids
from imat_jax.data.corpus import MODALITIES, Corpus, DataError, Utterance
from imat_jax.data.sources.folders import FeatureFolders


def corpus(path: str | pathlib.Path, features: Mapping[str, str] | None = None) -> Corpus:
    """Read the table at `path`, or the only one in the folder `path`.

    Args:
      features: {modality: folder}; default: the folders text, audio and vision beside the table.

    Raises:
      DataError: a column that is missing, a label that is none; names file, line and column.
    """
    path = find_table(pathlib.Path(path))
    rows, columns = read_table(path)
    if features is None:
        features = {m: str(path.parent / m) for m in MODALITIES if (path.parent / m).is_dir()}
    if not features:
        raise DataError(
            f"{path}: no folder text, audio or vision beside it; name them with "
            "--features=text=DIR,audio=DIR,vision=DIR"
        )
    folders = FeatureFolders(features, [row["id"] for row in rows])
    named = [c for c in columns if c.startswith("label:")]
    if "label" not in columns and not named:
        raise DataError(f"{path}: no column `label`; it has {', '.join(columns)}")
    annotate = annotator(path, rows, named)
    utterances = []
    for i, row in enumerate(rows):
        group, order = ids.place(row["id"])
        utterances.append(
            Utterance(
                id=row["id"],
                row=i,
                annotations=annotate(i, row),
                split=row.get("split") or None,
                group=row.get("group") or group,
                order=order,
                transcript=row.get("transcript") or "",
            )
        )
    return Corpus(
        name=path.stem,
        utterances=utterances,
        modalities=folders.modalities,
        read=folders.read,
        label_names={"dimensions": [c.removeprefix("label:") for c in named]},
        files=(str(path), *folders.paths),
    )


def find_table(path: pathlib.Path) -> pathlib.Path:
    """`path`, or the only CSV file in the folder `path`."""
    if not path.is_dir():
        return path
    tables = sorted(path.glob("*.csv"))
    if len(tables) != 1:
        said = ", ".join(t.name for t in tables) or "none"
        raise DataError(f"{path}: one table (.csv) is needed there; there is {said}")
    return tables[0]


def read_table(path: pathlib.Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows, and names of the columns; there is an `id` and at least one row."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if any(row.values())]
            columns = list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV table in UTF-8: {error}") from error
    if "id" not in columns or not rows:
        raise DataError(
            f"{path}: a table with a column `id` and rows is needed; columns: {', '.join(columns)}"
        )
    return rows, columns


def annotator(path: pathlib.Path, rows: list[dict[str, str]], named: list[str]):
    def number(i: int, row: dict[str, str], column: str) -> float:
        try:
            return float(row[column])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: row {i + 1} ({row['id']}): `{column}` is {row[column]!r}, not a number"
            ) from error

    if named:
        return lambda i, row: {"dimensions": [number(i, row, c) for c in named]}
    empty = [row["id"] for row in rows if not row["label"]]
    if empty:
        raise DataError(f"{path}: {len(empty)} rows have no `label`, such as {empty[0]}")
    numbers = [_is_number(row["label"]) for row in rows]
    if not any(numbers) or all(row["label"].isdigit() for row in rows):
        return lambda i, row: {"category": row["label"]}

    def sentiment(i: int, row: dict[str, str]) -> dict[str, Any]:
        return {"sentiment": number(i, row, "label")}

    return sentiment


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
