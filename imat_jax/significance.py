"""What a difference is worth: intervals, tests, corrections. docs/reports.md has the formulas.

A model is scored by a function of weights on N units (`weighted.py`); a unit is an utterance, or
all utterances of a speaker or video. Several seeds of a model are scored under the same weights
and averaged, so that all of it is about the mean over seeds. Pure NumPy and SciPy; random numbers
come from the generator that is passed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from imat_jax.weighted import chunks


def resample(units: int, count: int, rng: np.random.Generator):
    """Weights [part, units] of `count` bootstrap samples: how often each unit was drawn."""
    for part in chunks(count, units):
        drawn = rng.integers(units, size=(part, units)) + units * np.arange(part)[:, None]
        yield np.bincount(drawn.ravel(), minlength=part * units).reshape(part, units).astype(float)


def leave_one_out(units: int):
    """Weights [part, units], a row a unit that is left out."""
    first = 0
    for part in chunks(units, units):
        weights = np.ones((part, units))
        weights[np.arange(part), first + np.arange(part)] = 0
        first += part
        yield weights


def bca(
    estimate: float, replicates: np.ndarray, jackknife: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987).

    Args:
      estimate: of all units, each once.
      replicates: [R] of bootstrap samples; undefined ones (nan) are left out.
      jackknife: [N], each unit left out once.

    Returns (low, high): of one value, twice it; nan where nothing is defined.
    """
    replicates = replicates[~np.isnan(replicates)]
    jackknife = jackknife[~np.isnan(jackknife)]
    if np.isnan(estimate) or not replicates.size:
        return float("nan"), float("nan")
    # Metrics of decisions take few values, so that many replicates equal the estimate.
    below = (np.mean(replicates < estimate) + np.mean(replicates <= estimate)) / 2
    below = np.clip(below, 1 / (2 * replicates.size), 1 - 1 / (2 * replicates.size))
    z0 = stats.norm.ppf(below)
    away = jackknife.mean() - jackknife if jackknife.size else np.zeros(1)
    spread = np.sum(away**2)
    acceleration = np.sum(away**3) / (6 * spread**1.5) if spread > 0 else 0.0
    z = z0 + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    shares = stats.norm.cdf(z0 + z / (1 - acceleration * z))
    low, high = np.quantile(replicates, shares)
    return float(low), float(high)


def permutation_test(
    difference: Callable[[np.ndarray], np.ndarray],
    units: int,
    rng: np.random.Generator,
    count: int = 9999,
) -> float:
    """p of the paired permutation test of two models on the same units, two-sided.

    Null hypothesis: for each unit, what the one model answers and what the other does could as
    well be exchanged. So for each unit, with chance 1/2, the answers of the two are (all seeds
    together), and p is the share of `count` random exchanges, and the one observed, whose
    difference is at least as large as the observed one (Phipson and Smyth 2010; never 0).

    Args:
      difference: of exchanged [part, units] bool, 1 where the two are exchanged, -> [part].
    """
    observed = abs(difference(np.zeros((1, units), bool))[0])
    if np.isnan(observed):
        return float("nan")
    reached = 1
    for part in chunks(count, 2 * units):
        found = np.abs(difference(rng.integers(2, size=(part, units)).astype(bool)))
        # Sums in another order differ in the last bits: what is equal is to count as equal.
        reached += int(np.sum(found >= observed - 1e-9 * max(observed, 1e-6)))
    return reached / (count + 1)


def permutation_test_of_runs(one: Sequence[float], other: Sequence[float]) -> float:
    """p of the exact permutation test that exchanges whole runs; never below 2/(S+S' choose S).

    Nan where a model has one run, which says nothing of how much runs differ.
    """
    if min(len(one), len(other)) < 2:
        return float("nan")
    return float(
        stats.permutation_test(
            (np.asarray(one), np.asarray(other)),
            lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
            vectorized=True,
            n_resamples=99_999,
            rng=np.random.default_rng(0),
        ).pvalue
    )


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's (1979) adjusted p-values of a family of tests, in the order given; nan stays nan.

    The j-th smallest of m is multiplied by m - j + 1, and none is smaller than one before it.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int(np.sum(~np.isnan(p)))]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return adjusted


@dataclasses.dataclass(frozen=True)
class Split:
    """Where the variance of one utterance's score in one run comes from.

    Attributes:
      seed: of runs, the same for all units; example: of units, the same in all runs; rest: of a
        unit in a run, beyond both.
      error: standard error of the mean over S runs and N units, with other units and other seeds:
        sqrt(seed/S + example/N + rest/SN).
      seed_share: the share of error^2 that more units would not remove, seed/S.
    """

    seed: float
    example: float
    rest: float
    error: float
    seed_share: float


def variance_split(x: np.ndarray) -> Split:
    """Two-way random effects without replication, x [S seeds, N units] (Searle et al. 1992, ch. 4).

    A negative estimate is set to 0. One seed: `seed` and `rest` are nan, and `error` is of units.
    """
    runs, units = x.shape
    if units < 2:
        return Split(*[float("nan")] * 5)
    if runs < 2:
        example = float(np.var(x[0], ddof=1))
        return Split(float("nan"), example, float("nan"), float(np.sqrt(example / units)), 0.0)
    of_run, of_unit, mean = x.mean(axis=1), x.mean(axis=0), x.mean()
    rest = np.sum((x - of_run[:, None] - of_unit + mean) ** 2) / ((runs - 1) * (units - 1))
    seed = max(0.0, float(np.var(of_run, ddof=1) - rest / units))
    example = max(0.0, float(np.var(of_unit, ddof=1) - rest / runs))
    squared = seed / runs + example / units + rest / (runs * units)
    share = seed / runs / squared if squared > 0 else 0.0
    return Split(seed, example, float(rest), float(np.sqrt(squared)), float(share))


def pseudo_values(estimate: float, jackknife: np.ndarray) -> np.ndarray:
    """Each unit's part [N] of a metric: N t - (N-1) t_without_i (Tukey); of a mean, its terms."""
    units = len(jackknife)
    return units * estimate - (units - 1) * jackknife


def minimum_detectable(
    deviation: float, units: int, level: float = 0.05, power: float = 0.8
) -> float:
    """The true difference that a paired two-sided test at `level` finds with chance `power`.

    (z_{1-level/2} + z_power) deviation / sqrt(units), where `deviation` is that of the units'
    differences between the two models (Cohen 1988, normal approximation).
    """
    return float((stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)) * deviation / units**0.5)
