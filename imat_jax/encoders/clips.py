"""Which clips a folder or a table of media holds, and what is said of them.

A folder: every media file in it, also in folders inside; the id is the path without its suffix.
A table (CSV): columns `id`, `file` (default: the media file called like the id), `start`, `end` (in
seconds, of the file), `transcript`, `split`, `group`, `label` or `label:NAME`, all but `id`
optional. Without a transcript in the table, the .srt, .vtt, .csv or .txt beside the file is read.
"""

from __future__ import annotations

import dataclasses
import glob
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from imat_jax.data import ids
from imat_jax.data.corpus import DataError, Utterance
from imat_jax.data.sources import npy
from imat_jax.encoders import transcripts
from imat_jax.encoders.media import EXTENSIONS


@dataclasses.dataclass(frozen=True)
class Clip:
    """A stretch of a media file: from `start` to `end` seconds, None for its end.

    transcript: None where it lies beside the file, if anywhere.
    """

    id: str
    file: str
    start: float = 0.0
    end: float | None = None
    transcript: str | None = None

    def words(self) -> str:
        """What is said in it; "" where nobody has written it down."""
        if self.transcript is not None:
            return self.transcript
        path = transcripts.beside(pathlib.Path(self.file))
        if path is None:
            return ""
        script = transcripts.read(path)
        whole = self.start == 0 and self.end is None
        end = float("inf") if self.end is None else self.end
        return script.text if whole else script.text_between(self.start, end)


class Listing(NamedTuple):
    """Clips, what is known of each (`row` is its place), names of label columns, the table."""

    clips: list[Clip]
    utterances: list[Utterance]
    columns: list[str]
    table: pathlib.Path | None


def find(path: pathlib.Path) -> Listing:
    """The clips of the folder or table `path`.

    Raises:
      DataError: no media there; a file of the table that is missing; a time that is none.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder or table")
    is_table = path.suffix.lower() == ".csv"
    tables = [path] if is_table else sorted(path.glob("*.csv"))
    tables = [t for t in tables if is_table or not _is_transcript(t)]
    if len(tables) > 1:
        raise DataError(f"{path} holds {len(tables)} tables (.csv); give one of them as --input")
    clips, rows, named = _from_table(tables[0]) if tables else _from_folder(path)
    if not clips:
        raise DataError(f"{path}: no media file in it ({' '.join(sorted(EXTENSIONS))})")
    utterances = []
    for i, (clip, (row, said)) in enumerate(zip(clips, rows, strict=True)):
        group, order = ids.place(clip.id)
        utterances.append(
            Utterance(
                id=clip.id,
                row=i,
                annotations=said,
                split=row.get("split") or None,
                group=row.get("group") or group,
                order=order,
            )
        )
    return Listing(clips, utterances, named, tables[0] if tables else None)


def _is_transcript(table: pathlib.Path) -> bool:
    beside = table.parent.glob(f"{glob.escape(table.stem)}.*")
    return any(file.suffix.lower() in EXTENSIONS for file in beside)


def _media(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    hidden = (part for part in sorted(folder.rglob("*")) if not part.name.startswith("."))
    return (p for p in hidden if p.suffix.lower() in EXTENSIONS and p.is_file())


Rows = list[tuple[Mapping[str, str], Mapping[str, Any]]]


def _from_folder(folder: pathlib.Path) -> tuple[list[Clip], Rows, list[str]]:
    found: dict[str, pathlib.Path] = {}
    for file in _media(folder):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{file} and {found[name]} would both be {name!r}; rename one")
        found[name] = file
    clips = [Clip(name, str(file)) for name, file in found.items()]
    return clips, [({}, {}) for _ in clips], []


def _from_table(table: pathlib.Path) -> tuple[list[Clip], Rows, list[str]]:
    rows, columns = npy.read_table(table)
    named = [c for c in columns if c.startswith("label:")]
    annotate = lambda i, row: {}  # noqa: E731
    if named or "label" in columns:
        annotate = npy.annotator(table, rows, named)
    named_so: dict[str, list[pathlib.Path]] = {}
    if "file" not in columns:
        for file in _media(table.parent):
            path = file.relative_to(table.parent).with_suffix("").as_posix()
            for name in {file.stem, path}:
                named_so.setdefault(name, []).append(file)
    clips, described = [], []
    for i, row in enumerate(rows):
        if "file" in columns:
            candidates = [table.parent / (row["file"] or "")]
        else:
            candidates = named_so.get(row["id"], [])
        if len(candidates) != 1 or not candidates[0].is_file():
            said = row.get("file") or f"{row['id']}.*"
            found = "is not there" if len(candidates) < 2 else f"is {len(candidates)} files"
            raise DataError(f"{table}: row {i + 1} ({row['id']}): {said} {found}")
        start, end = (_seconds(table, i, row, key) for key in ("start", "end"))
        if end is not None and end <= (start or 0.0):
            raise DataError(f"{table}: row {i + 1} ({row['id']}): it ends before it starts")
        words = row.get("transcript") or None
        clips.append(Clip(row["id"], str(candidates[0]), start or 0.0, end, words))
        described.append((row, annotate(i, row)))
    return clips, described, [c.removeprefix("label:") for c in named]


def _seconds(table: pathlib.Path, i: int, row: Mapping[str, str], key: str) -> float | None:
    if not row.get(key):
        return None
    try:
        value = float(row[key])
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DataError(f"{table}: row {i + 1} ({row['id']}): `{key}` is {row[key]!r}, no seconds")
    return value
