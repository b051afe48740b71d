"""Utterances into one shard of ArrayRecord, with a summary of what was written."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from imat_jax.data.corpus import Corpus, DataError, Utterance
from imat_jax.data.statistics import Moments

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
NONFINITE = ("error", "zero")


def features(corpus: Corpus, dtype: str) -> tfds.features.FeaturesDict:
    """The features of one example; see the table in docs/data.md.

    `encoding="bytes"` keeps arrays as they are (bfloat16 included) and reads several times faster
    than TFDS's default lists of floats.
    """
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
            "annotation": tfds.features.Text(),
            "label": label,
        }
        | {
            m: tfds.features.Tensor(shape=(None, info.dim), dtype=DTYPES[dtype], encoding="bytes")
            for m, info in corpus.modalities.items()
        }
    )


@dataclasses.dataclass(frozen=True)
class Shard:
    """What one worker writes: some utterances of one split, in order, to one file."""

    split: str
    path: pathlib.Path
    utterances: Sequence[Utterance]
    dims: Mapping[str, int]
    features: Mapping[str, Any]  # `FeaturesDict.to_json`: the object itself cannot be sent
    dtype: str
    nonfinite: str


@dataclasses.dataclass
class Summary:
    """What was found while writing a shard.

    Attributes:
      num_bytes: of the serialised examples.
      lengths: {modality: frames of each utterance}.
      nonfinite: {modality: [number of non-finite values, id of the first utterance]}.
      zero: {modality: utterances that have frames, all of them zeros}.
      moments: {modality: of the features as stored}, of train; merged over shards in order.
    """

    split: str
    count: int
    num_bytes: int
    lengths: dict[str, list[int]]
    nonfinite: dict[str, list]
    zero: dict[str, int]
    moments: dict[str, Moments]

    def to_json(self) -> str:
        fields = vars(self) | {"moments": {m: v.state() for m, v in self.moments.items()}}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        fields = json.loads(text)
        moments = {m: Moments.from_state(v) for m, v in fields.pop("moments").items()}
        return cls(**fields, moments=moments)


def write(
    shard: Shard,
    read: Callable[[int], Mapping[str, np.ndarray]],
    advance: Callable[[], Any] = lambda: None,
) -> Summary:
    """Write `shard`, one utterance in memory at a time; `advance` is called after each.

    Raises:
      DataError: an array of another shape than the corpus says; non-finite features, unless
        `shard.nonfinite` is "zero".
    """
    connector = tfds.features.FeaturesDict.from_json(shard.features)
    summary = Summary(
        split=shard.split,
        count=len(shard.utterances),
        num_bytes=0,
        lengths={m: [] for m in shard.dims},
        nonfinite={m: [0, ""] for m in shard.dims},
        zero=dict.fromkeys(shard.dims, 0),
        moments={m: Moments(dim) for m, dim in shard.dims.items()},
    )
    # One record a group: examples are read in random order. Level 1 of zstd: noise such as features
    # does not get smaller at a higher one, it only takes longer.
    writer = ArrayRecordWriter(str(shard.path), "group_size:1,zstd:1")
    try:
        for utterance in shard.utterances:
            arrays = _read(read, utterance)
            example = {
                "id": utterance.id,
                "group": utterance.group or utterance.id,
                "order": utterance.order,
                "transcript": utterance.transcript,
                "annotation": json.dumps(utterance.annotations, ensure_ascii=False),
                "label": utterance.label,
            }
            for m in shard.dims:
                example[m] = _frames(shard, summary, utterance, m, arrays.get(m))
            record = _in_order(connector.serialize_example(example))
            summary.num_bytes += len(record)
            writer.write(record)
            advance()
    finally:
        writer.close()
    return summary


def _read(read: Callable[[int], Mapping[str, np.ndarray]], utterance: Utterance) -> Mapping:
    try:
        return read(utterance.row)
    except DataError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(f"features of {utterance.id!r} cannot be read: {error!r}") from error


def _in_order(record: bytes) -> bytes:
    """The same record with its features sorted: else equal data has other bytes in each process."""
    return tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)


def _frames(shard: Shard, summary: Summary, utterance: Utterance, m: str, array) -> np.ndarray:
    """The frames of modality `m` as they are stored; what is found is noted in `summary`."""
    dim = shard.dims[m]
    frames = np.zeros((0, dim)) if array is None or not np.size(array) else np.asarray(array)
    if frames.ndim != 2 or frames.shape[1] != dim:
        raise DataError(f"{utterance.id!r}: `{m}` has shape {frames.shape}, not (frames, {dim})")
    with np.errstate(over="ignore"):  # beyond float16's range; found below as infinity
        frames = frames.astype(DTYPES[shard.dtype])
    values = frames.astype(np.float32)  # as stored
    bad = ~np.isfinite(values)
    if bad.any():
        if shard.nonfinite == "error":
            frame, feature = np.argwhere(bad)[0]
            raise DataError(
                f"{utterance.id!r} of split {shard.split!r}: `{m}` is {values[frame, feature]} at "
                f"frame {frame}, feature {feature} ({bad.sum()} such values in it); "
                "repair the source, or build with --nonfinite=zero"
            )
        found = summary.nonfinite[m]
        summary.nonfinite[m] = [found[0] + int(bad.sum()), found[1] or utterance.id]
        frames[bad] = values[bad] = 0
    summary.lengths[m].append(len(frames))
    if len(frames):
        summary.zero[m] += not values.any()
    if shard.split == "train":
        summary.moments[m].add(values)
    return frames
