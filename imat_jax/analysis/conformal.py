"""Split conformal prediction: sets of classes and intervals that hold the truth as often as asked.

Calibrated on examples that are exchangeable with those to come and took no part in training, a set
holds the true label with probability at least `coverage`, whatever the model (Vovk et al. 2005; Lei
et al. 2018 for intervals). That is over examples and calibration sets together, not for each class.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.stats

SCORES = ("lac", "aps")


def quantile(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of the n calibration scores; inf where n is too small.

    The n + 1 in place of n is what makes the promise hold for finite n.
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 10 * 0.7 is a bit above 7
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def class_scores(prob: np.ndarray, kind: str = "lac") -> np.ndarray:
    """How strange each class would be as the label, [N, C], from probabilities [N, C].

    - "lac": 1 - p_c (Sadinle et al. 2019). The smallest sets on average; they may be empty.
    - "aps": sum of p over the classes more probable than c (Romano et al. 2020), without their
      randomisation: adapted to how hard an example is; never empty, for the first has 0.

    Raises:
      ValueError: another kind.
    """
    if kind == "lac":
        return 1 - prob
    if kind == "aps":
        above = prob[:, None, :] > prob[:, :, None]  # [N, C, other]
        return (prob[:, None, :] * above).sum(axis=2)
    raise ValueError(f"scores are one of {SCORES}, not {kind!r}")


def threshold(prob: np.ndarray, label: np.ndarray, coverage: float, kind: str = "lac") -> float:
    """The limit for `sets`, from calibration examples."""
    scores = class_scores(prob, kind)
    return quantile(scores[np.arange(len(label)), label], coverage)


def sets(prob: np.ndarray, limit: float, kind: str = "lac") -> np.ndarray:
    """Which classes belong to the set of each example, [N, C] bool: those not above `limit`."""
    return class_scores(prob, kind) <= limit


def radius(label: np.ndarray, pred: np.ndarray, coverage: float) -> float:
    """Half the width of the interval pred ± radius, from calibration examples' |label - pred|."""
    return quantile(np.abs(label - pred), coverage)


def expected(calibration: int, test: int, coverage: float) -> tuple[float, float]:
    """Between what the share covered of `test` examples lies in 95 of 100 cases, [low, high].

    For continuous scores: the number covered is beta-binomial, with k = ceil((n + 1) coverage) and
    n + 1 - k as its parameters (Vovk 2012, section 2). Ties only add to it; "aps" has many where
    the most probable class is right more often than asked: then the set is that class.
    """
    rank = math.ceil((calibration + 1) * coverage - 1e-9)
    if rank > calibration:
        return 1.0, 1.0
    covered = scipy.stats.betabinom(test, rank, calibration + 1 - rank)
    low, high = covered.ppf([0.025, 0.975]) / test
    return float(low), float(high)
