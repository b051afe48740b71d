"""Batches from a dataset, read ahead by Grain while the step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from imat_jax.data.dataset import Dataset
from imat_jax.data.neighbours import Neighbours
from imat_jax.data.plan import Shape, fit_buckets, plan

Batch = dict[str, Any]
# (record, modality, padded length, epoch) -> (frames [<= length, D], unmasked places)
Place = Callable[[Mapping[str, Any], str, int, int], tuple[np.ndarray, int]]


class Split:
    """One split of a dataset as batches of padded arrays; batch `s` is a pure function of `s`.

    A batch is as `collate` makes it, and says which examples it holds: `index` [rows] int32, their
    places in the split, -1 for rows without one.

    It is a random-access source (`len`, `[step]`), which is what Grain and a resumed run need.

    Args:
      dataset, split: what to read.
      modalities: which of the dataset's to read.
      batch_size: examples a batch over all processes.
      buckets: padded shapes, one length for each of `modalities`.
      seed: of the order; None for evaluation, which goes through the split once.
      steps: number of batches; default one epoch.
      rows: which rows of each batch to read, in order; default all.
      place: which frames of a record are used, and how many places are unmasked; `head`, or
        `published.place`.
      context: (n, both): batches also hold the n utterances before each one in its group, and after
        it if `both`; n = 0: any order will do.

    Raises:
      DataError: the order of the utterances is not known, and `context` needs it.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        modalities: Sequence[str],
        batch_size: int,
        buckets: Sequence[Shape],
        seed: int | None = None,
        steps: int | None = None,
        rows: np.ndarray | None = None,
        place: Place | None = None,
        context: tuple[int, bool] = (0, False),
    ):
        self.source = dataset.source(split)
        self.dims = {m: dataset.dims[m] for m in modalities}
        self.batch_size, self.buckets, self.seed = batch_size, list(buckets), seed
        self.place = place or head
        self.lengths = cropped_lengths(dataset, split, modalities, buckets[-1])
        count, both = context
        self._neighbours = Neighbours.find(dataset.index(split), count, both) if count else None
        margin = self._neighbours.margin if self._neighbours else 0
        self.steps_per_epoch = -(-len(self.lengths) // (batch_size - margin))
        self.steps = self.steps_per_epoch if steps is None else steps
        self.rows = np.arange(batch_size) if rows is None else rows
        self._plans: dict[int, list[tuple[Shape, np.ndarray]]] = {}

    def plan(self, epoch: int) -> list[tuple[Shape, np.ndarray]]:
        """The batches of an epoch: (shape, indices into the dataset)."""
        # Reading ahead straddles two epochs; the plan is pure, so threads may race here.
        plans = self._plans
        if epoch not in plans:
            made = self._plan(epoch)
            self._plans = {e: p for e, p in plans.items() if abs(e - epoch) <= 1} | {epoch: made}
            return made
        return plans[epoch]

    def _plan(self, epoch: int) -> list[tuple[Shape, np.ndarray]]:
        make = self._neighbours.plan if self._neighbours else plan
        return make(
            self.lengths, batch_size=self.batch_size, buckets=self.buckets, seed=self.seed,
            epoch=epoch,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.steps

    def batch(self, step: int) -> tuple[Shape, np.ndarray]:
        """(shape, indices into the dataset) of the batch of `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.plan(epoch)[position]

    def around(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a batch of these `rows` holds before and after them: their neighbours, weight 0."""
        return self._neighbours.around(rows) if self._neighbours else (rows[:0], rows[:0])

    def __getitem__(self, step: int) -> Batch:
        epoch = step // self.steps_per_epoch
        shape, rows = self.batch(step)
        left, right = self.around(rows)
        indices = np.concatenate([left, rows, right])
        mine = indices[self.rows[self.rows < len(indices)]]  # a last batch may be short
        records = self.source.__getitems__([int(i) for i in mine]) if len(mine) else []
        # A process that gets no row of a short batch still makes arrays of the same types.
        like = records[0] if records else self.source[int(indices[0])]
        place = lambda *a: self.place(*a, epoch)  # noqa: E731
        batch = collate(records, like, self.dims, shape, len(self.rows), place)
        batch["index"] = np.full(len(self.rows), -1, np.int32)
        batch["index"][: len(mine)] = mine
        if self._neighbours:
            counted = (self.rows >= len(left)) & (self.rows < len(left) + len(rows))
            batch["weight"] *= counted
            batch["group"] = np.full(len(self.rows), -1, np.int32)
            batch["group"][: len(mine)] = self._neighbours.group[mine]
        return batch


def head(record: Mapping[str, Any], m: str, length: int, epoch: int) -> tuple[np.ndarray, int]:
    """The first `length` frames of a record; all of them real."""
    frames = record[m][:length]
    return frames, len(frames)


def cropped_lengths(
    dataset: Dataset, split: str, modalities: Sequence[str], limits: Sequence[int]
) -> np.ndarray:
    """Frames of every example that are used, [N, M]: the first `limits[m]` of each modality."""
    lengths = dataset.lengths(split)
    return np.minimum(np.stack([lengths[m] for m in modalities], axis=1), limits)


def buckets_for(
    dataset: Dataset, modalities: Sequence[str], max_frames: Mapping[str, int], num_buckets: int
) -> list[Shape]:
    """Buckets fitted on all splits together, so that evaluation compiles no shape of its own."""
    limits = [max_frames[m] for m in modalities]
    lengths = [cropped_lengths(dataset, split, modalities, limits) for split in dataset.sized]
    widths = [dataset.dims[m] for m in modalities]
    buckets = fit_buckets(np.concatenate(lengths), num_buckets, widths=widths)
    return [tuple(np.minimum(shape, limits).tolist()) for shape in buckets]


def collate(
    records: Sequence[Mapping[str, Any]],
    like: Mapping[str, Any],
    dims: Mapping[str, int],
    shape: Shape,
    rows: int,
    place: Callable[[Mapping[str, Any], str, int], tuple[np.ndarray, int]],
) -> Batch:
    """Records into one padded batch of `rows` rows; rows without a record have weight 0.

    Args:
      like: any record; it says the types of what is stored.
      dims: the modalities, in the order of `shape`.

    Returns:
      {m: [rows, T, D] in storage dtype, or [rows, T] where text is tokens; m_mask: [rows, T] bool;
      label: [rows] or [rows, K]; weight: [rows] float32; id: list of str}.
    """
    batch: Batch = {"id": [r["id"].decode() for r in records]}
    for m, length in zip(dims, shape, strict=True):
        batch[m] = np.zeros((rows, length, *like[m].shape[1:]), like[m].dtype)
        batch[f"{m}_mask"] = np.zeros((rows, length), bool)
        for i, record in enumerate(records):
            frames, unmasked = place(record, m, length)
            batch[m][i, : len(frames)] = frames
            batch[f"{m}_mask"][i, :unmasked] = True
    label = np.asarray(like["label"])
    kind = np.int32 if np.issubdtype(label.dtype, np.integer) else np.float32
    batch["label"] = np.zeros((rows, *label.shape), kind)
    for i, record in enumerate(records):
        batch["label"][i] = record["label"]
    batch["weight"] = (np.arange(rows) < len(records)).astype(np.float32)
    return batch


def read(
    split: Split, *, start: int = 0, threads: int = 4, ahead: int = 8, workers: int = 0
) -> Iterator[Batch]:
    """The batches of `split` from step `start` on, read ahead in the background.

    Args:
      threads: reading threads; `ahead`: batches held ready.
      workers: reading processes; 0 (threads only) is faster on few cores.
    """
    batches = grain.MapDataset.source(split)[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    )
    if workers:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(batches)
