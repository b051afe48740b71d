"""Features of clips, or of windows of one, through a trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from imat_jax import inference, sharding
from imat_jax.data import loader, published, records
from imat_jax.experiment import Network

ROWS = 64  # of a batch, at most: memory stays flat however long the clip is
LADDER = (16, 64, 256, 1024, 4096)  # padded lengths, so that a few programs do for all clips


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the network says of one stretch.

    Attributes:
      outputs: [K].
      frames: {modality: how many were read}; the config limits them.
      attention: {"text<-audio": [S]}: how the query modality's summary spreads over the frames of
        the other, mean of layers and heads; only of pairs of which both are there.
    """

    outputs: np.ndarray
    frames: Mapping[str, int]
    attention: Mapping[str, np.ndarray]


def make_reader(net: Network, params: Any, dtype: str) -> Callable[[list], list[Reading]]:
    """`reader(examples)`, each {modality: [T, D]}, T = 0 where missing -> their readings.

    Of a run that trains its text encoder, text is token ids [T] int32.

    Args:
      dtype: in which the training data store features; numbers are rounded as they were there.
    """

    @jax.jit
    def step(params, batch):
        outputs, extras = inference.forward(net, params, batch)
        weights = {k: v.mean(axis=(1, 2)) for k, v in extras.items() if k.startswith("ima/")}
        return outputs, weights

    is_published = net.config.data.mode == "published"
    place = published.place if is_published else loader.head
    limits = published.LIMITS if is_published else net.config.data.max_frames

    def as_read(x: np.ndarray) -> np.ndarray:
        """Features as they are stored, token ids as they are."""
        x = np.asarray(x)
        return x if x.dtype == np.int32 else x.astype(records.DTYPES[dtype])

    def read(examples: Sequence[Mapping[str, np.ndarray]]) -> list[Reading]:
        blocks = (examples[k : k + ROWS] for k in range(0, len(examples), ROWS))
        return [reading for block in blocks for reading in read_block(block)]

    def read_block(examples: Sequence[Mapping[str, np.ndarray]]) -> list[Reading]:
        rows = [
            {m: as_read(x[m]) for m in net.dims} | {"id": b"", "label": np.float32(0)}
            for x in examples
        ]
        longest = {m: max(len(row[m]) for row in rows) for m in net.dims}
        shape = tuple(_padded(longest[m], limits[m], is_published) for m in net.dims)
        size = 1 << (len(rows) - 1).bit_length()
        batch = loader.collate(rows, rows[0], net.dims, shape, size, lambda *a: place(*a, 0))
        outputs, weights = jax.device_get(step(params, sharding.put(batch, net.mesh)))
        lengths = dict(zip(net.dims, shape, strict=True))
        return [
            Reading(
                outputs[i],
                {m: int(batch[f"{m}_mask"][i].sum()) for m in net.dims},
                dict(_attention(weights, i, batch, lengths)),
            )
            for i in range(len(rows))
        ]

    return read


def _padded(length: int, limit: int, is_published: bool) -> int:
    if is_published:
        return limit
    return min(next((n for n in LADDER if n >= length), limit), limit)


def _attention(
    weights: Mapping[str, np.ndarray], i: int, batch: loader.Batch, lengths: Mapping[str, int]
) -> Iterator[tuple[str, np.ndarray]]:
    for name, values in weights.items():
        pair = name.removeprefix("ima/")
        query, key = pair.split("<-")
        if batch[f"{query}_mask"][i].any() and batch[f"{key}_mask"][i].any():
            own = values.shape[-1] - lengths[key]  # a learned CLS comes before the frames
            yield pair, values[i, own:][batch[f"{key}_mask"][i]]
