"""What a source hands to the builder: a corpus, its modalities and its utterances."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MODALITIES = ("text", "audio", "vision")
UNSPLIT = "unsplit"  # TFDS keeps "all" for itself


class DataError(ValueError):
    """Bad input: one message that names the file, the field and the fix."""


def subsets(modalities: Sequence[str] = MODALITIES) -> list[tuple[str, ...]]:
    """The non-empty subsets of some modalities, single ones first and the whole last."""
    sizes = range(1, len(modalities) + 1)
    return [s for n in sizes for s in itertools.combinations(modalities, n)]


@dataclasses.dataclass(frozen=True)
class Modality:
    """Provenance of one modality's features; "unknown" where the source does not say.

    dim: feature width D. rate_hz: frames a second, None where frames follow no clock (tokens) or
    where the source does not say.
    """

    dim: int
    extractor: str = "unknown"
    checkpoint: str = "unknown"
    layer: str = "unknown"
    rate_hz: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """All of an utterance but its features.

    Attributes:
      id: unique in its split.
      row: what `Corpus.read` takes.
      annotations: everything the source says of it, raw, by kind: `sentiment` a number; `category`
        a name; `emotions` one intensity each; `pairs` 0 or 1 each; `dimensions` numbers.
      split: as the source has it; None where it has none.
      group: what must not cross splits: speaker, video or dialogue; "" where unknown.
      order: place in the group; -1 unknown.
      label: what is to be predicted; set by the protocol.
    """

    id: str
    row: int
    annotations: Mapping[str, Any]
    split: str | None = None
    group: str = ""
    order: int = -1
    transcript: str = ""
    label: Any = None


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A labelled multimodal corpus: a list of utterances, and a function that reads their features.

    Attributes:
      name: of the corpus; names the record files.
      utterances: in the order in which they are written.
      modalities: {modality: provenance}; only those the corpus has.
      read: row -> {modality: array [T, D]}, T = 0 if missing. Safe to call from threads.
      label_names: {kind of annotation: names of its classes or columns}, where the source knows.
      protocol: corpus, split and label space, e.g. `mosi-sentiment`; "" until one is applied.
      task: a name in `tasks.TASKS`, with the names of its classes or columns.
      files: the source files and folders, whose SHA-256 are recorded.
      facts: anything else worth keeping in the metadata, JSON only.
      warnings: what the user should know before trusting a number.
      leaks: groups cross splits, knowingly: a published protocol that is kept for comparison.
    """

    name: str
    utterances: Sequence[Utterance]
    modalities: Mapping[str, Modality]
    read: Callable[[int], Mapping[str, np.ndarray]]
    label_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    protocol: str = ""
    task: str = ""
    class_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    leaks: bool = False

    def splits(self) -> dict[str, list[Utterance]]:
        """{split: its utterances}; train, valid and test first. Without a split: `UNSPLIT`."""
        found: dict[str, list[Utterance]] = {}
        for utterance in self.utterances:
            found.setdefault(utterance.split or UNSPLIT, []).append(utterance)
        first = [s for s in ("train", "valid", "test") if s in found]
        return {s: found[s] for s in first + sorted(set(found) - set(first))}


SPLITS = {
    "train": "train", "training": "train", "trn": "train",
    "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid",
    "test": "test", "tst": "test", "testing": "test",
}  # fmt: skip


def split_name(name: str) -> str:
    """The field's many names for train, valid and test, as one; other names stay."""
    return SPLITS.get(name.lower(), name.lower())
