"""A model's outputs over a whole split, each example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from imat_jax import sharding
from imat_jax.data import loader
from imat_jax.data.statistics import standardize


def forward(graphdef, statistics: Mapping[str, Mapping] | None, params, batch) -> tuple:
    """(outputs [B, K], extras) of a batch as it is read; nothing is random in it."""
    if statistics:
        batch = standardize(batch, statistics)
    return nnx.merge(graphdef, params)(batch, deterministic=True)


def make_step(graphdef, statistics: Mapping[str, Mapping] | None) -> Callable:
    """`step(params, batch) -> outputs [B, K]`, jitted."""
    return jax.jit(lambda params, batch: forward(graphdef, statistics, params, batch)[0])


def outputs(step: Callable, params: Any, split: loader.Split, mesh, config) -> np.ndarray:
    """The outputs of all examples of `split`, [N, K], in the order of the dataset's index.

    Args:
      split: with `seed=None`, so that it is one pass.
      config: the `data` part of the run's config: threads, ahead, workers.
    """
    batches = loader.read(split, threads=config.threads, ahead=config.ahead, workers=config.workers)
    pieces = []
    for batch in batches:
        # Fetching would wait for the device; it gets its next batch first.
        pieces.append(step(params, sharding.put(batch, mesh)))
    whole = [multihost_utils.process_allgather(piece, tiled=True) for piece in pieces]
    result = np.empty((len(split.lengths), whole[0].shape[-1]), np.float32)
    for (_, rows), piece in zip(split.plan(0), whole, strict=True):
        result[rows] = piece[: len(rows)]
    return result
