"""What a source hands to the builder: a corpus, its modalities and its examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MODALITIES = ("text", "audio", "vision")


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


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A labelled multimodal corpus.

    An example is a dict: `id`, `group` (what must not cross splits), `order` (place in the group,
    -1 unknown), `transcript`, `label`, and for each modality an array [T, D], T = 0 if missing.

    Attributes:
      name: of the corpus; names the record files.
      protocol: corpus, split and label space, e.g. `mosi-sentiment`.
      task: a name in `tasks.TASKS`; fixes the type of `label`.
      modalities: {modality: provenance}; only those the corpus has.
      splits: {split: function that starts an iterator of examples}.
      sizes: {split: number of examples}.
      class_names: of the classes, or of the columns of a vector label.
      files: the source files, whose SHA-256 are recorded.
      facts: anything else worth keeping in the metadata, JSON only.
    """

    name: str
    protocol: str
    task: str
    modalities: Mapping[str, Modality]
    splits: Mapping[str, Callable[[], Iterator[dict[str, Any]]]]
    sizes: Mapping[str, int]
    class_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class DataError(ValueError):
    """Bad input: one message that names the file, the field and the fix."""
