"""A built dataset opened for reading: metadata, lengths, records."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.proto import tf_example_pb2

from imat_jax.data.builder import CHECKSUMS
from imat_jax.data.corpus import MODALITIES, DataError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset directory that `build` wrote, or any TFDS ArrayRecord one with the same features.

    Attributes:
      path: the directory.
      dims: {modality: feature width} of what it holds.
      metadata: what the builder recorded; empty for a directory that is not ours.
      only: the splits that may be read; of others, nothing but how long their examples are. None:
        all.
    """

    path: pathlib.Path
    builder: tfds.core.DatasetBuilder
    dims: Mapping[str, int]
    metadata: Mapping[str, Any]
    only: tuple[str, ...] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike, only: Sequence[str] | None = None) -> Dataset:
        """Raises `DataError` where there is no dataset, or a damaged one."""
        path = pathlib.Path(path)
        if not (path / "dataset_info.json").is_file():
            raise DataError(
                f"{path}: no dataset there (no dataset_info.json); make one with "
                f"`python -m imat_jax.build --source=… --output={path}`"
            )
        try:
            builder = tfds.builder_from_directory(path)
            features = builder.info.features
        except Exception as error:  # of TFDS, of protocol buffers, of JSON
            raise damaged(path / "dataset_info.json or features.json", error) from error
        dims = {m: features[m].shape[-1] for m in MODALITIES if m in features}
        return cls(path, builder, dims, dict(builder.info.metadata or {}), only and tuple(only))

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that may be read."""
        return tuple(s for s in self.builder.info.splits if self.only is None or s in self.only)

    @property
    def sized(self) -> tuple[str, ...]:
        """Those that `lengths` knows: all there are."""
        return tuple(self.builder.info.splits)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the list of all files' SHA-256: two datasets with the same are the same."""
        sums = self.path / CHECKSUMS
        return hashlib.sha256(sums.read_bytes()).hexdigest() if sums.is_file() else "unknown"

    def _check(self, split: str) -> None:
        """Raises `DataError` where there is no such split, or it may not be read."""
        if split not in self.builder.info.splits:
            raise DataError(f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        if split not in self.splits:
            raise DataError(
                f"{self.path} was opened for {' and '.join(self.splits)} only: the split {split!r} "
                "cannot be read here"
            )

    def source(self, split: str) -> Records:
        """Random access to the records of `split`: `source[i]`, `source.__getitems__([…])`."""
        self._check(split)
        info = self.builder.info.splits[split]
        return Records(self.builder.as_data_source(split), info.filepaths, info.shard_lengths)

    def transcripts(self, split: str) -> list[str]:
        """What is said in each record of `split`, "" where nothing is known of it."""
        self._check(split)
        # Decoding the features as well would take most of the time.
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = self.builder.as_data_source(split, deserialize_method=raw)
        found = []
        for start in range(0, len(source), 256):
            for record in source.__getitems__([*range(start, min(start + 256, len(source)))]):
                value = tf_example_pb2.Example.FromString(record).features.feature["transcript"]
                found.append(b"".join(value.bytes_list.value).decode())
        return found

    def index(self, split: str) -> dict[str, np.ndarray]:
        """`id`, `group`, `order`, `label` and `{m}_length` of all records, without reading them."""
        source = self.source(split)
        stored = self._stored(split)
        if stored is not None:
            return stored
        columns: dict[str, list] = {}
        for example in tqdm.tqdm(source, f"index {split}", unit="utt"):
            row = {k: example[k] for k in ("order", "label")}
            row |= {k: example[k].decode() for k in ("id", "group")}
            row |= {f"{m}_length": len(example[m]) for m in self.dims}
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
        return {name: np.asarray(column) for name, column in columns.items()}

    def lengths(self, split: str) -> dict[str, np.ndarray]:
        """{m: frames of every record of `split`}: all that may be known of any split.

        Padded shapes are fitted to them. Of a split that may not be read, nothing else is opened.
        """
        stored = self._stored(split, [f"{m}_length" for m in self.dims])
        if stored is None:
            stored = self.index(split)
        return {m: stored[f"{m}_length"] for m in self.dims}

    def _stored(self, split: str, names: Sequence[str] = ()) -> dict[str, np.ndarray] | None:
        """The columns `names`, or all, of what the builder wrote beside the records."""
        path = self.path / f"index-{split}.npz"
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in names or archive.files}
        except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise damaged(path, error) from error


class Records:
    """A split's records; one that cannot be read is an error that names its file.

    Args:
      source: of TFDS; opens a file when it is first read from.
      files: the split's, in order; `lengths`: records of each.
    """

    def __init__(self, source: Any, files: Sequence[os.PathLike], lengths: Sequence[int]):
        self._source, self._files = source, [os.fspath(f) for f in files]
        self._ends = list(itertools.accumulate(lengths))

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Mapping[str, Any]:
        try:
            return self._source[i]
        except IndexError:
            raise
        except Exception as error:  # what ArrayRecord and TFDS's parser raise is not documented
            raise damaged(self._files[bisect.bisect(self._ends, i)], error) from error

    def __getitems__(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        try:
            return self._source.__getitems__(indices)
        except Exception:
            return [self[i] for i in indices]  # one of them fails again, and says whose it is


def damaged(path: str | os.PathLike, error: Exception) -> DataError:
    said = (str(error).splitlines() or [""])[0][:100]
    return DataError(
        f"{path} is damaged ({type(error).__name__}: {said}); `sha256sum -c {CHECKSUMS}` in its "
        "folder says which files are. Copy them again, or build the dataset again"
    )
