"""Which examples make up which batch: pure functions of the lengths, a seed and an epoch.

Nothing else goes in - not the number of hosts, not what ran before - so step s of a run is always
the same examples in the same order: resuming is a seek, and 1 host or 64 see the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Shape = tuple[int, ...]


def fit_buckets(
    lengths: np.ndarray,
    num_buckets: int,
    *,
    widths: Sequence[float] | None = None,
    multiple: int = 8,
    candidates: int = 64,
) -> list[Shape]:
    """A few padded shapes that waste the least on these lengths.

    The shapes form a chain (each is at least the one before in every modality), so that a batch
    that a bucket could not fill can always be completed from the next larger one. Examples are
    sorted by the features they hold; the cuts between buckets minimise the number of padded
    features by dynamic programming over `candidates` quantiles.

    Args:
      lengths: [N, M] frames of each example and modality.
      num_buckets: at most this many; fewer where fewer shapes differ.
      widths: [M] cost of a frame of each modality (its feature width); default 1.
      multiple: lengths above it are rounded up to a multiple of it, for the vector units.

    Returns:
      Shapes (frames of each modality), smallest first; every example fits the last.
    """
    lengths = np.asarray(lengths)
    widths = np.ones(lengths.shape[1]) if widths is None else np.asarray(widths, float)
    by_size = lengths[np.argsort(lengths @ widths, kind="stable")]
    ceilings = np.maximum(np.maximum.accumulate(by_size, axis=0), 1)  # bucket shape up to there
    ceilings = np.where(ceilings > multiple, -(-ceilings // multiple) * multiple, ceilings)
    count = len(by_size)
    cuts = np.unique(np.linspace(0, count, min(candidates, count) + 1).astype(int))
    cost = ceilings[np.maximum(cuts - 1, 0)] @ widths  # of one example in a bucket that ends there
    # best[j]: least cost of the examples before cuts[j]; origin[k][j]: where bucket k begins.
    best = np.where(cuts == 0, 0.0, np.inf)
    results, origins = [], []
    for _ in range(max(num_buckets, 1)):
        total = best[:, None] + (cuts[None, :] - cuts[:, None]) * cost[None, :]
        total[np.tril_indices(len(cuts))] = np.inf
        origins.append(total.argmin(axis=0))
        best = total.min(axis=0)
        results.append(best[-1])
    ends, j = [], len(cuts) - 1
    for origin in reversed(origins[: int(np.argmin(results)) + 1]):
        ends.append(cuts[j] - 1)
        j = origin[j]
    return sorted({tuple(int(t) for t in ceilings[end]) for end in ends})


def assign(lengths: np.ndarray, buckets: Sequence[Shape]) -> np.ndarray:
    """The smallest bucket that each example fits, [N] int."""
    fits = (lengths[:, None, :] <= np.asarray(buckets)[None]).all(axis=-1)  # [N, buckets]
    if not fits[:, -1].all():
        worst = lengths[~fits[:, -1]].max(axis=0)
        raise ValueError(
            f"lengths up to {tuple(worst)} do not fit the largest bucket {buckets[-1]}"
        )
    return fits.argmax(axis=1)


def plan(
    lengths: np.ndarray,
    *,
    batch_size: int,
    buckets: Sequence[Shape],
    seed: int | None,
    epoch: int = 0,
) -> list[tuple[Shape, np.ndarray]]:
    """The batches of one epoch: each example exactly once, in ceil(N / batch_size) batches.

    All batches are full but one. What a bucket leaves over moves up into the next larger bucket.

    Args:
      lengths: [N, M]; already cropped to what the largest bucket holds.
      batch_size: of the whole system, all hosts together.
      buckets: a chain of shapes, as `fit_buckets` gives.
      seed: None keeps the order of the corpus (evaluation).
      epoch: with the seed, decides the order.

    Returns:
      [(shape, example indices [<= batch_size])].
    """
    # RandomState, not Generator: NumPy promises that its streams never change.
    random = None if seed is None else np.random.RandomState([seed, epoch])
    order = np.arange(len(lengths)) if random is None else random.permutation(len(lengths))
    bucket = assign(np.asarray(lengths), buckets)[order]
    batches, rest = [], order[:0]
    for b, shape in enumerate(buckets):
        members = np.concatenate([rest, order[bucket == b]])
        full = len(members) - len(members) % batch_size
        batches += [(shape, rows) for rows in members[:full].reshape(-1, batch_size)]
        rest = members[full:]
    if len(rest):
        batches.append((buckets[assign(np.asarray(lengths)[rest], buckets).max()], rest))
    if random is not None:
        batches = [batches[i] for i in random.permutation(len(batches))]
    return batches


def padding(lengths: np.ndarray, batches: Sequence[tuple[Shape, np.ndarray]]) -> np.ndarray:
    """Share of each modality's padded frames that holds real ones, [M]."""
    real = sum(lengths[rows].sum(axis=0) for _, rows in batches)
    return real / sum(np.asarray(shape) * len(rows) for shape, rows in batches)
