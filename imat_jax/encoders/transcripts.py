"""What is said in a media file, from a text file, subtitles or a table that lies beside it."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import html
import io
import math
import os
import pathlib
import re

from imat_jax.data.corpus import DataError

SUFFIXES = (".srt", ".vtt", ".csv", ".txt")  # sooner those that know times
TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]?\d)[.,](\d{1,3})"
TIMES = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?", re.ASCII)
# Tags of HTML and of voices, times inside a cue, and {\an8} for where it stands on the screen.
MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|</?[\d:.]+>|\{\\[^{}]*\}")


@dataclasses.dataclass(frozen=True)
class Cue:
    """What is said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """All that is said, "" where nothing is; and cues, where the times are known."""

    text: str
    cues: tuple[Cue, ...] = ()

    @classmethod
    def of(cls, cues: list[Cue]) -> Transcript:
        """The transcript of these cues; those that say nothing are left out."""
        spoken = tuple(cue for cue in cues if cue.text)
        return cls(" ".join(cue.text for cue in spoken), spoken)

    def text_between(self, start: float, end: float) -> str:
        """The cues that overlap `start` to `end` seconds; the whole text if there are no cues."""
        if not self.cues:
            return self.text
        return " ".join(c.text for c in self.cues if c.start < end and c.end > start)


def read(path: str | os.PathLike) -> Transcript:
    """A transcript, by the suffix of its file. White space, of lines too, becomes single spaces.

    `.txt`: text. `.srt`, `.vtt`: subtitles, without their markup. `.csv`: a header, then rows, of
    which `text` is used, and `start` and `end` in seconds if they are there.

    Raises:
      DataError: no such file, another suffix, neither UTF-8 nor UTF-16, or malformed; the line is
        named.
    """
    path = pathlib.Path(path)
    readers = {".txt": _txt, ".srt": _srt, ".vtt": _vtt, ".csv": _csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: not a transcript; one of {', '.join(SUFFIXES)} is read")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return readers[path.suffix.lower()](_decoded(path), path)


def beside(media: str | os.PathLike) -> pathlib.Path | None:
    """The transcript with the stem and in the folder of a media file: .srt, .vtt, .csv or .txt."""
    paths = (pathlib.Path(media).with_suffix(suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _decoded(path: pathlib.Path) -> str:
    raw = path.read_bytes()
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line}: not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path}: it holds zero bytes; save the file as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _txt(text: str, path: pathlib.Path) -> Transcript:
    return Transcript(_plain(text))


def _srt(text: str, path: pathlib.Path) -> Transcript:
    return Transcript.of([_cue(block, path) for block in _blocks(text)])


def _vtt(text: str, path: pathlib.Path) -> Transcript:
    if not text.strip():
        return Transcript("")
    if not re.match(r"WEBVTT(\s|$)", text):
        raise DataError(f"{path}: line 1: a .vtt file begins with WEBVTT")
    skipped = ("NOTE", "STYLE", "REGION")
    blocks = [b for b in _blocks(text)[1:] if b[0][1].split(maxsplit=1)[0] not in skipped]
    cues = [_cue(block, path) for block in blocks]
    return Transcript.of([dataclasses.replace(c, text=_plain(html.unescape(c.text))) for c in cues])


def _csv(text: str, path: pathlib.Path) -> Transcript:
    if not text.strip():
        return Transcript("")
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    cues = []
    try:
        names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if "text" not in names:
            raise DataError(f"{path}: line 1: no column `text`; columns are start, end, text")
        if ("start" in names) != ("end" in names):
            raise DataError(f"{path}: line 1: a column `start` needs a column `end`, and it one")
        for row in rows:
            if None in row or row[names["text"]] is None:
                raise DataError(f"{path}: line {rows.line_num}: {len(names)} columns are needed")
            words = _plain(row[names["text"]])
            if "start" not in names:
                cues.append(Cue(0.0, 0.0, words))
                continue
            try:
                start, end = (float(row[names[name]] or "nan") for name in ("start", "end"))
            except ValueError:
                start = end = math.nan
            if not 0 <= start <= end < math.inf:
                problem = "start and end must be seconds, start first"
                raise DataError(f"{path}: line {rows.line_num}: {problem}")
            cues.append(Cue(start, end, words))
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.reader.line_num}: {error}") from error
    transcript = Transcript.of(cues)
    return transcript if "start" in names else Transcript(transcript.text)


def _blocks(text: str) -> list[list[tuple[int, str]]]:
    """Lines with their numbers, in groups that empty lines part."""
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            blocks[-1].append((number, line))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _cue(block: list[tuple[int, str]], path: pathlib.Path) -> Cue:
    """A cue: a line with its number or name, which may be missing, then times, then text."""
    at = 0 if TIMES.fullmatch(block[0][1]) or len(block) == 1 else 1
    number, line = block[at]
    found = TIMES.fullmatch(line)
    if not found:
        problem = "00:00:01,000 --> 00:00:02,000 must come here"
        raise DataError(f"{path}: line {number}: {problem}; it says {line.strip()[:40]!r}")
    start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
    if end < start:
        raise DataError(f"{path}: line {number}: the cue ends before it begins")
    lines = block[at + 1 :]
    for number, line in lines:
        if TIMES.fullmatch(line):
            raise DataError(f"{path}: line {number}: no empty line before this cue")
    return Cue(start, end, _plain(MARKUP.sub("", " ".join(line for _, line in lines))))


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return (whole * 1000 + int(fraction.ljust(3, "0"))) / 1000


def _plain(text: str) -> str:
    return " ".join(text.split())
