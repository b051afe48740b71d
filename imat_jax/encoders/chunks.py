"""Clips in chunks: what one worker extracts at once, and what an interrupted extraction keeps.

A chunk is a file, written under a temporary name and renamed. Which clips share one depends on the
clips alone, so a chunk is the same whoever computes it, and a resumed extraction gives what an
uninterrupted one does.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from imat_jax.data.builder import die_with_parent, sha256
from imat_jax.data.corpus import DataError
from imat_jax.encoders import media, transcripts
from imat_jax.encoders.clips import Clip
from imat_jax.encoders.extractor import Extractor, Recipe

CLIPS = 16  # most of a chunk
SECONDS = 300.0  # most of a chunk, unless one clip is longer


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some clips of similar length, and the file their features go to."""

    path: pathlib.Path
    clips: tuple[Clip, ...]


def durations(clips: Sequence[Clip], progress: bool = True) -> list[float | DataError]:
    """Seconds of each clip, or why its file cannot be read."""
    probe = functools.lru_cache(maxsize=None)(_probe)
    found: list[float | DataError] = []
    for clip in tqdm.tqdm(clips, "probe", unit="file", disable=not progress):
        whole = probe(clip.file)
        if isinstance(whole, float):
            whole = min(whole, float("inf") if clip.end is None else clip.end) - clip.start
            if whole <= 0:
                whole = DataError(f"{clip.file}: ends before {clip.id!r} starts, {clip.start} s")
        found.append(whole)
    return found


def _probe(file: str) -> float | DataError:
    try:
        return media.probe(file).duration
    except DataError as error:
        return error


def plan(
    clips: Sequence[Clip], seconds: Sequence[float], folder: pathlib.Path, settings: Any
) -> list[Chunk]:
    """Chunks of clips of similar length, shortest first.

    Each is named by the SHA-256 of what it is made of - clips, sizes and dates of their files, and
    `settings`, anything that JSON takes - so that a file of that name can be taken for it.
    """
    order = sorted(range(len(clips)), key=lambda i: (seconds[i], clips[i].id))
    groups: list[list[int]] = []
    for i in order:
        full = not groups or len(groups[-1]) == CLIPS
        if full or sum(seconds[j] for j in groups[-1]) + seconds[i] > SECONDS:
            groups.append([])
        groups[-1].append(i)
    return [_chunk(folder, [clips[i] for i in group], settings) for group in groups]


def _chunk(folder: pathlib.Path, clips: Sequence[Clip], settings: Any) -> Chunk:
    files = [(_stamp(clip.file), _stamp(transcripts.beside(clip.file))) for clip in clips]
    content = json.dumps([settings, list(map(dataclasses.astuple, clips)), files])
    name = hashlib.sha256(content.encode()).hexdigest()[:32]
    return Chunk(folder / f"{name}.npz", tuple(clips))


def _stamp(file: str | os.PathLike | None) -> tuple[int, int] | None:
    if file is None:
        return None
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns


def extract(chunk: Chunk, extractor: Extractor) -> None:
    """Write the features of `chunk`'s clips; a clip that cannot be read is noted there."""
    arrays: dict[str, np.ndarray] = {}
    notes = []
    for i, (clip, found) in enumerate(zip(chunk.clips, extractor(chunk.clips), strict=True)):
        if isinstance(found, DataError):
            notes.append({"error": str(found)})
            continue
        arrays |= {f"{i}/{m}": frames for m, frames in found.frames.items()}
        notes.append(
            {
                "sha256": _sha256(clip.file),
                "words": found.words,
                "pictures": found.pictures,
                "faces": len(found.times),
            }
        )
    partial = chunk.path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, notes=np.asarray(json.dumps(notes)), **arrays)
    partial.replace(chunk.path)


@functools.lru_cache(maxsize=256)
def _sha256(file: str) -> str:
    return sha256(pathlib.Path(file))


def run(chunks: Sequence[Chunk], extractor: Extractor, workers: int = 1) -> Iterator[Chunk]:
    """Extract `chunks`, in this process or in several like it; yields each when it is done."""
    if workers == 1 or len(chunks) < 2:
        for chunk in chunks:
            extract(chunk, extractor)
            yield chunk
        return
    context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(chunks)), context, initializer=_start, initargs=(extractor.recipe,)
    )
    with pool:
        waiting = {pool.submit(_extract_here, chunk): chunk for chunk in chunks}
        try:
            for future in concurrent.futures.as_completed(waiting):
                future.result()  # raises what the worker raised
                yield waiting[future]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_extractor: list[Extractor] = []  # of this worker process


def _start(recipe: Recipe) -> None:
    threading.Thread(target=die_with_parent, daemon=True).start()
    _extractor[:] = [Extractor(recipe)]


def _extract_here(chunk: Chunk) -> None:
    extract(chunk, _extractor[0])


def worker(recipe: Recipe) -> Callable[[Chunk], None]:
    """What extracts one chunk after the other; for `data.beam.run`."""
    return functools.partial(extract, extractor=Extractor(recipe))


def is_done(chunk: Chunk) -> bool:
    """Whether the file is there and whole; what failed is tried again."""
    try:
        return not any("error" in note for note in notes(chunk))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return False


def notes(chunk: Chunk) -> list[dict[str, Any]]:
    """Of each clip: `error`, or `sha256` of its file, `words`, `pictures`, `faces` among them."""
    # NumPy leaves a file open that it cannot read.
    with chunk.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return json.loads(str(archive["notes"]))


class Reader:
    """`reader(row)` is {modality: [T, D]} of clip `row`, from the chunks on disk."""

    def __init__(self, clips: Sequence[Clip], chunks: Sequence[Chunk], modalities: Sequence[str]):
        self._clips, self._modalities = clips, tuple(modalities)
        self._places = {c: (chunk.path, i) for chunk in chunks for i, c in enumerate(chunk.clips)}

    def __call__(self, row: int) -> dict[str, np.ndarray]:
        path, i = self._places[self._clips[row]]
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {m: archive[f"{i}/{m}"] for m in self._modalities}
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: damaged ({error}); delete it and extract again") from error
