"""A corpus into a TFDS dataset (ArrayRecord) that plain `tfds.builder_from_directory` reads.

The records need no TensorFlow: `encoding="bytes"` keeps arrays as they are (bfloat16 included) and
reads several times faster than TFDS's default lists of floats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from imat_jax.data.corpus import Corpus, DataError
from imat_jax.data.statistics import Moments

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
NONFINITE = ("error", "zero")
CHECKSUMS = "SHA256SUMS"


def features(corpus: Corpus, dtype: str) -> tfds.features.FeaturesDict:
    """The features of one example; see the table in docs/data.md."""
    label: Any
    if corpus.task == "multiclass":
        label = tfds.features.ClassLabel(names=list(corpus.class_names))
    elif corpus.task == "sentiment":
        label = tfds.features.Tensor(shape=(), dtype=np.float32)
    else:
        label = tfds.features.Tensor(shape=(len(corpus.class_names),), dtype=np.float32)
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "group": tfds.features.Text(),
            "order": np.int32,
            "transcript": tfds.features.Text(),
            "label": label,
        }
        | {
            m: tfds.features.Tensor(shape=(None, info.dim), dtype=DTYPES[dtype], encoding="bytes")
            for m, info in corpus.modalities.items()
        }
    )


def build(
    corpus: Corpus,
    output: str | os.PathLike,
    *,
    dtype: str = "bfloat16",
    nonfinite: str = "error",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write `corpus` to the directory `output` and return the dataset's metadata.

    The dataset is written beside its destination under a temporary name and renamed when it is
    complete, so that a build that was killed leaves nothing at `output`.

    Args:
      dtype: storage of the features: bfloat16, float16 or float32.
      nonfinite: what to do with NaN and infinity in features: "error", or "zero" to replace them.
        Their number is recorded either way.

    Raises:
      DataError: duplicate ids in a split, a group in two splits, non-finite features, an array of
        the wrong shape, an output that exists.
    """
    output = pathlib.Path(output).absolute()
    if output.exists() and not overwrite:
        raise DataError(f"{output} exists already; give another --output, or --overwrite")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.parent / f".{output.name}.building"
    shutil.rmtree(partial, ignore_errors=True)  # left by a build that was killed
    try:
        writer = _Writer(corpus, DTYPES[dtype], nonfinite, progress)
        builder_class = _builder_class(corpus, dtype, writer)
        builder = builder_class(data_dir=partial, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces sizes it does not know
            tfds.disable_progress_bar()
            builder.download_and_prepare()
        done = pathlib.Path(builder.data_dir)
        for split, index in writer.index.items():
            np.savez(done / f"index-{split}.npz", **{k: np.asarray(v) for k, v in index.items()})
        _write_checksums(done)
        if output.exists():
            output.rename(partial / "replaced")
        done.rename(output)
        return dict(builder.info.metadata)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _builder_class(corpus: Corpus, dtype: str, writer: _Writer):
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = corpus.name
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{corpus.protocol}: {' + '.join(corpus.modalities)}",
                features=features(corpus, dtype),
                metadata=writer.metadata,  # filled while writing; TFDS saves it after that
                disable_shuffling=True,  # the index files rely on the order of writing
            )

        def _split_generators(self, dl_manager):
            return {split: writer.examples(split) for split in corpus.splits}

        def _generate_examples(self):
            raise TypeError("_split_generators returns the examples themselves")

    return Builder


class _Writer:
    """Checks the examples on their way to disk, and gathers index, statistics and counts."""

    def __init__(self, corpus: Corpus, dtype, nonfinite: str, progress: bool):
        if nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite is one of {NONFINITE}, not {nonfinite!r}")
        self.corpus, self.dtype, self.repair, self.progress = corpus, dtype, nonfinite, progress
        self.moments = {m: Moments(info.dim) for m, info in corpus.modalities.items()}
        self.index: dict[str, dict[str, list]] = {}
        self.split_of_group: dict[str, str] = {}
        self.metadata = tfds.core.MetadataDict(
            {
                "protocol": corpus.protocol,
                "task": corpus.task,
                "class_names": list(corpus.class_names),
                "dtype": np.dtype(dtype).name,
                "modalities": {m: dataclasses.asdict(i) for m, i in corpus.modalities.items()},
                "sources": {pathlib.Path(f).name: sha256(pathlib.Path(f)) for f in corpus.files},
                "splits": {},
                "nonfinite": dict.fromkeys(corpus.modalities, 0) | {"policy": nonfinite},
                "facts": dict(corpus.facts),
            }
        )

    def examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        columns = ("id", "group", "order", "label", *(f"{m}_length" for m in self.moments))
        index = self.index[split] = {c: [] for c in columns}
        seen: set[str] = set()
        bar = tqdm.tqdm(
            self.corpus.splits[split](), f"build {split}", self.corpus.sizes[split],
            unit="utt", disable=not self.progress,
        )  # fmt: skip
        for key, example in enumerate(bar):
            self._check_identity(split, example, seen)
            for m in self.moments:
                example[m] = self._frames(split, example, m)
                index[f"{m}_length"].append(len(example[m]))
                if split == "train":
                    self.moments[m].add(example[m].astype(np.float32))
            for column in ("id", "group", "order", "label"):
                index[column].append(example[column])
            yield key, example
        if not seen:
            raise DataError(f"split {split!r} of {self.corpus.name} has no example")
        self._summarize(split)

    def _check_identity(self, split: str, example: dict[str, Any], seen: set[str]) -> None:
        if example["id"] in seen:
            raise DataError(
                f"split {split!r} holds the id {example['id']!r} twice; make ids unique"
            )
        seen.add(example["id"])
        other = self.split_of_group.setdefault(example["group"], split)
        if other != split:
            raise DataError(
                f"group {example['group']!r} is in split {other!r} and, with id "
                f"{example['id']!r}, in {split!r}: a speaker, video or dialogue must stay in one "
                "split, or the test score is worth nothing; split by group"
            )

    def _frames(self, split: str, example: dict[str, Any], m: str) -> np.ndarray:
        frames, dim = np.asarray(example[m]), self.corpus.modalities[m].dim
        if frames.ndim != 2 or frames.shape[1] != dim:
            raise DataError(
                f"{example['id']!r}: `{m}` has shape {frames.shape}, not (frames, {dim})"
            )
        with np.errstate(over="ignore"):  # beyond float16's range; found below as infinity
            frames = frames.astype(self.dtype)
        bad = ~np.isfinite(frames.astype(np.float32))
        if bad.any():
            if self.repair == "error":
                frame, feature = np.argwhere(bad)[0]
                raise DataError(
                    f"{example['id']!r} of split {split!r}: `{m}` is {frames[frame, feature]} at "
                    f"frame {frame}, feature {feature} ({bad.sum()} such values in it); "
                    "repair the source, or build with --nonfinite=zero"
                )
            self.metadata["nonfinite"][m] += int(bad.sum())
            frames[bad] = 0
        return frames

    def _summarize(self, split: str) -> None:
        index, names = self.index[split], self.corpus.class_names
        label = np.asarray(index["label"])
        facts: dict[str, Any] = {"examples": len(label)}
        if self.corpus.task == "multiclass":
            counts = np.bincount(label, minlength=len(names))
            facts["classes"] = dict(zip(names, counts.tolist(), strict=True))
        else:
            columns = label.reshape(len(label), -1)
            facts["label_mean"] = columns.mean(axis=0).tolist()
            facts["label_std"] = columns.std(axis=0).tolist()
            if split == "train":
                facts["label_median"] = np.median(columns, axis=0).tolist()
        for m in self.moments:
            lengths = np.asarray(index[f"{m}_length"])
            quartiles = np.percentile(lengths, [0, 25, 50, 75, 100]).tolist()
            facts[m] = {"frames": int(lengths.sum()), "missing": int((lengths == 0).sum())}
            facts[m]["length_quartiles"] = quartiles
        self.metadata["splits"][split] = facts
        if split == "train":
            self.metadata["statistics"] = {m: v.as_dict() for m, v in self.moments.items()}


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_checksums(directory: pathlib.Path) -> None:
    """In the format of `sha256sum -c`."""
    files = sorted(p for p in directory.iterdir() if p.is_file())
    lines = [f"{sha256(p)}  {p.name}\n" for p in files]
    (directory / CHECKSUMS).write_text("".join(lines))
