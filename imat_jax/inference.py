"""A model's outputs over a whole split, each example exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from imat_jax import sharding
from imat_jax.data import loader
from imat_jax.data.statistics import standardize
from imat_jax.experiment import Network


def forward(net: Network, params, batch) -> tuple:
    """(outputs [B, K], extras) of a batch as it is read; nothing is random in it."""
    if net.statistics:
        batch = standardize(batch, net.statistics)
    return net.apply(params, batch, deterministic=True)


def make_step(net: Network) -> Callable:
    """`step(params, batch) -> outputs [B, K]`, jitted; every process gets all rows."""
    everywhere = sharding.replicated(net.mesh)
    return jax.jit(lambda params, batch: forward(net, params, batch)[0], out_shardings=everywhere)


def outputs(step: Callable, params: Any, split: loader.Split, net: Network) -> np.ndarray:
    """The outputs of all examples of `split`, [N, K], in the order of the dataset's index.

    Args:
      split: with `seed=None`, so that it is one pass.
    """
    config = net.config.data
    batches = loader.read(split, threads=config.threads, ahead=config.ahead, workers=config.workers)
    pieces = []
    for batch in batches:
        # Fetching would wait for the device; it gets its next batch first.
        pieces.append(step(params, sharding.put(batch, net.mesh)))
    whole = [np.asarray(piece) for piece in pieces]
    result = np.empty((len(split.lengths), whole[0].shape[-1]), np.float32)
    for (_, rows), piece in zip(split.plan(0), whole, strict=True):
        before, _ = split.around(rows)
        result[rows] = piece[len(before) : len(before) + len(rows)]
    return result
