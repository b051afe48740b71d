"""Shapley values of modalities: how a prediction, or a score, divides among them. Exact."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np


def shapley(players: Sequence[str], value: Mapping[tuple[str, ...], np.ndarray]) -> np.ndarray:
    """The Shapley value of each player (Shapley 1953), [players, …].

        phi_m = sum over S without m of |S|! (M - |S| - 1)! / M!  [v(S + m) - v(S)]

    They add up to v(all) - v(none); a player who changes nothing gets 0; two who change the same
    get the same; and they are linear in v.

    Args:
      value: v of all 2^M subsets, the empty one too, each in the order of `players`; arrays of one
        shape, such as one number an utterance.
    """
    count = len(players)
    found = []
    for m in players:
        total = 0.0
        others = [p for p in players if p != m]
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1)
            for subset in itertools.combinations(others, size):
                with_m = tuple(p for p in players if p in (*subset, m))
                gain = np.asarray(value[with_m], float) - np.asarray(value[subset], float)
                total = total + weight / math.factorial(count) * gain
        found.append(total)
    return np.stack(found)
