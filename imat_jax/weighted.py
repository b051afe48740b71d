"""Every metric of a task under weights on the utterances, many weightings at once.

Resampling asks for one metric of one run's outputs thousands of times, each time with the
utterances counted otherwise: a bootstrap sample counts some twice and some not at all, a
permutation of two models takes each utterance from one of them. All metrics but AUC are functions
of sums over utterances, so R weightings are a product of weights [R, N] with what is summed [N, F].
Weights of 1 give what `metrics.py` gives, and integer weights what it gives for repeated rows.

A weighting that leaves a metric undefined gives nan, without a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from imat_jax.tasks import sigmoid

Scorer = Callable[[np.ndarray], dict[str, np.ndarray]]


def scorer(
    task: str,
    label: np.ndarray,
    outputs: np.ndarray,
    class_names: Sequence[str] = (),
    threshold: float | None = None,
) -> Scorer:
    """A function of weights [R, N] that gives {metric: [R]}, the keys those of the task's score.

    Args:
      task, class_names, threshold: as for `tasks.make`.
      label: [N] or [N, K]; outputs: [N, K'], as in a run's `predictions`.

    Raises:
      ValueError: there is no such task.
    """
    names = tuple(class_names)
    if task == "sentiment":
        return _sentiment(label.astype(np.float64), outputs[:, 0])
    if task == "multiclass":
        return _multiclass(label.astype(int), outputs.argmax(axis=1), names)
    if task == "multilabel":
        return _multilabel(
            label > 0, sigmoid(outputs), 0.5 if threshold is None else threshold, names
        )
    if task == "binary_pairs":
        decided = outputs.reshape(len(outputs), -1, 2).argmax(axis=2) == 1
        return _per_name(label == 1, decided, ("acc", "wf1", "bacc", "macro_f1"), names)
    if task == "dimensions":
        return _dimensions(label, outputs, threshold, names)
    raise ValueError(f"no task is called {task!r}")


def _sentiment(y: np.ndarray, outputs: np.ndarray) -> Scorer:
    p = outputs.astype(np.float64)
    right = [
        np.round(np.clip(y, -limit, limit)) == np.round(np.clip(p, -limit, limit))
        for limit in (3, 2, 1)
    ]
    means = np.stack([np.abs(p - y), *right], axis=1)  # [N, 4]
    has0 = _indicators(y >= 0, p >= 0, 2)
    non0 = _indicators(y > 0, p > 0, 2) * (y != 0)[:, None]

    def score(w: np.ndarray) -> dict[str, np.ndarray]:
        values = _ratio(w @ means, w.sum(axis=1)[:, None])  # [R, 4]
        scores = dict(zip(("mae", "acc7", "acc5", "acc3"), values.T, strict=True))
        scores["corr"] = _corr(*_moments(w, y, p))
        for suffix, indicators in (("has0", has0), ("non0", non0)):
            hits, n, m = _counts(w, indicators)
            found = _decisions(hits, n, m)
            scores |= {f"acc2_{suffix}": found["acc"], f"wf1_{suffix}": found["wf1"]}
            scores[f"wf1_{suffix}_legacy_swapped"] = _decisions(hits, m, n)["wf1"]
        return scores

    return score


def _multiclass(label: np.ndarray, decided: np.ndarray, names: tuple[str, ...]) -> Scorer:
    indicators = _indicators(label, decided, len(names))

    def score(w: np.ndarray) -> dict[str, np.ndarray]:
        hits, n, m = _counts(w, indicators)
        scores = _decisions(hits, n, m)
        for c, name in enumerate(names):
            scores[f"f1/{name}"] = _ratio(2 * hits[:, c], n[:, c] + m[:, c])
            scores[f"recall/{name}"] = _ratio(hits[:, c], n[:, c])
        return scores

    return score


def _multilabel(
    present: np.ndarray, prob: np.ndarray, threshold: float, names: tuple[str, ...]
) -> Scorer:
    decided = prob > np.asarray(threshold).astype(prob.dtype)
    same = np.all(present == decided, axis=1)
    hit = np.any(present & decided, axis=1)
    inside = hit & ~np.any(decided & ~present, axis=1)
    sets = np.stack([same, same | inside, same | hit], axis=1).astype(np.float64)  # [N, 3]

    of_names = _per_name(present, decided, ("bacc", "wf1", "macro_f1", "acc"), names)

    def score(w: np.ndarray) -> dict[str, np.ndarray]:
        scores = of_names(w)
        for k, name in enumerate(names):
            scores[f"auc/{name}"] = _auc(w, present[:, k], prob[:, k])
        scores["auc"] = np.mean([scores[f"auc/{name}"] for name in names], axis=0)
        shares = _ratio(w @ sets, w.sum(axis=1)[:, None])
        return scores | dict(
            zip(("strict_acc", "subset_acc", "intersect_acc"), shares.T, strict=True)
        )

    return score


def _dimensions(
    label: np.ndarray, outputs: np.ndarray, threshold: float | None, names: tuple[str, ...]
) -> Scorer:
    y, p = label.astype(np.float64), outputs.astype(np.float64)

    def score(w: np.ndarray) -> dict[str, np.ndarray]:
        scores = {}
        for k, name in enumerate(names):
            moments = _moments(w, y[:, k], p[:, k])
            distance = w @ np.abs(p[:, k] - y[:, k])
            scores[f"mae/{name}"] = _ratio(distance, w.sum(axis=1))
            scores[f"corr/{name}"] = _corr(*moments)
            scores[f"ccc/{name}"] = _ccc(*moments)
        for key in ("ccc", "mae", "corr"):
            scores[key] = np.mean([scores[f"{key}/{name}"] for name in names], axis=0)
        return scores

    if threshold is None:
        return score
    high = [x > np.asarray(threshold).astype(x.dtype) for x in (label, outputs)]
    low_high = _per_name(*high, ("acc", "bacc", "macro_f1"), names)
    return lambda w: score(w) | low_high(w)


# ---- Definitions, as in metrics.py; w is [R, N] --------------------------------------------------


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _indicators(true: np.ndarray, decided: np.ndarray, classes: int) -> np.ndarray:
    """[N, 3C]: of each class, whether it is right, true, and decided."""
    c = np.arange(classes)
    true, decided = true.astype(int)[:, None] == c, decided.astype(int)[:, None] == c
    return np.concatenate([true & decided, true, decided], axis=1).astype(np.float64)


def _counts(w: np.ndarray, indicators: np.ndarray) -> list[np.ndarray]:
    """TP_c, n_c and m_c, each [R, C]."""
    return np.split(w @ indicators, 3, axis=1)


def _decisions(hits: np.ndarray, n: np.ndarray, m: np.ndarray) -> dict[str, np.ndarray]:
    seen, true, total = n + m > 0, n > 0, n.sum(axis=1)
    f1 = np.where(seen, _ratio(2 * hits, n + m), 0)
    recall = np.where(true, _ratio(hits, n), 0)
    # Without an utterance all four are undefined, though decisions may have been counted.
    defined = np.where(total > 0, 1, np.nan)
    return {
        "acc": _ratio(hits.sum(axis=1), total),
        "bacc": _ratio(recall.sum(axis=1), true.sum(axis=1)),
        "wf1": _ratio((n * f1).sum(axis=1), total),
        "macro_f1": _ratio(f1.sum(axis=1), seen.sum(axis=1)) * defined,
    }


def _per_name(
    true: np.ndarray, decided: np.ndarray, keys: Sequence[str], names: tuple[str, ...]
) -> Scorer:
    indicators = {n: _indicators(true[:, k], decided[:, k], 2) for k, n in enumerate(names)}

    def score(w: np.ndarray) -> dict[str, np.ndarray]:
        by_name = {name: _decisions(*_counts(w, x)) for name, x in indicators.items()}
        scores = {f"{key}/{name}": by_name[name][key] for name in names for key in keys}
        means = {key: np.mean([by_name[name][key] for name in names], axis=0) for key in keys}
        return scores | means

    return score


def _moments(w: np.ndarray, y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, ...]:
    """Variance of y, variance of p, covariance, difference of the means; each [R]."""
    # Moments do not depend on the origin; far from it, their sums cancel.
    shift = y.mean() - p.mean()
    y, p = y - y.mean(), p - p.mean()
    summed = np.stack([y, p, y * y, p * p, y * p], axis=1)
    ey, ep, eyy, epp, eyp = _ratio(w @ summed, w.sum(axis=1)[:, None]).T
    return eyy - ey**2, epp - ep**2, eyp - ey * ep, ey - ep + shift


def _corr(vy: np.ndarray, vp: np.ndarray, cov: np.ndarray, _: np.ndarray) -> np.ndarray:
    # What is left of the variance of a constant is rounding.
    constant = np.minimum(vy, vp) <= 1e-15 * np.maximum(vy, vp)
    r = _ratio(cov, np.sqrt(np.maximum(vy * vp, 0)))
    return np.where(constant, np.nan, np.clip(r, -1, 1))


def _ccc(vy: np.ndarray, vp: np.ndarray, cov: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return _ratio(2 * cov, vy + vp + shift**2)


def _auc(w: np.ndarray, present: np.ndarray, score: np.ndarray) -> np.ndarray:
    """P(score of a present one > score of an absent one), ties one half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)  # of equal scores
    w, present = w[:, order], present[order]
    there = np.add.reduceat(w * present, starts, axis=1)  # [R, different scores]
    absent = np.add.reduceat(w * ~present, starts, axis=1)
    below = np.cumsum(absent, axis=1) - absent / 2
    return _ratio((there * below).sum(axis=1), there.sum(axis=1) * absent.sum(axis=1))


def chunks(count: int, utterances: int) -> list[int]:
    """`count` weightings in parts of at most 16 MB of weights."""
    most = max(1, 2**21 // max(utterances, 1))
    return [min(most, count - start) for start in range(0, count, most)]


def stacked(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The scores of several parts of the weightings, as of one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
