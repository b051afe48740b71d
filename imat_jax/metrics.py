"""The metrics of multimodal emotion recognition, one function a task family.

Every function takes all N utterances of a split at once and returns a flat dict, name -> float.
F1, recall, correlation and concordance are not means over utterances, so a mean of batch values
is a different (and wrong) number; for the same reason nothing here takes a batch.

    sentiment       MOSI, MOSEI: one real score in [-3, 3]
    sims            CH-SIMS: one real score in [-1, 1]
    multiclass      MELD, IEMOCAP 4-way and 6-way, RAVDESS: one class of K
    multilabel      MOSEI emotions: K emotions, any number of them present
    binary_pairs    IEMOCAP as in MulT and SSE-FT: K separate yes/no questions
    dimensions      valence, arousal, dominance: K real scores

Names. "Weighted accuracy" (WA) is plain accuracy in the speech literature and balanced accuracy in
the MOSEI emotion literature. No key here is called so: `acc` is the fraction of right decisions,
`bacc` the unweighted mean of the recalls (UA in speech, "weighted accuracy" on MOSEI emotions).

    acc       1/N #{i : decision_i = true_i}
    F1_c      2 TP_c / (n_c + m_c)        n_c utterances truly of class c, m_c decided to be
    wf1       sum_c n_c / N  F1_c         weights are the true support
    macro_f1  mean of F1_c over the classes with n_c + m_c > 0 (as scikit-learn's macro average)
    bacc      mean of TP_c / n_c over the classes with n_c > 0; where the labels hold one class only
              it is that class's recall

A metric that the data does not define (no utterances, a constant under a correlation, one class
under an AUC) is nan, with an `UndefinedMetricWarning` that names it; never 0. A mean over emotions
or dimensions is nan when one of its terms is: a mean over fewer of them is another metric.

`weight` [N], everywhere optional, is 1 for an utterance and 0 for a padding row. Rows of weight 0
are dropped before anything else looks at them. A NaN or infinity in any other row is an error,
because every comparison with NaN is False and would count as an ordinary wrong (or right!) answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


class UndefinedMetricWarning(UserWarning):
    """A metric was set to nan because the data does not define it."""


# ---- Sentiment scores ----------------------------------------------------------------------------


def sentiment(
    label: ArrayLike, pred: ArrayLike, *, weight: ArrayLike | None = None
) -> dict[str, float]:
    """Sentiment regression on MOSI and MOSEI. `label`, `pred`: [N], the scale is [-3, 3].

    mae        1/N sum |pred - label|, pred not clipped
    corr       Pearson r
    acc7       fraction with round(clip(pred, -3, 3)) = round(clip(label, -3, 3)); ties go to the
               even integer (0.5 -> 0, 1.5 -> 2, 2.5 -> 2), as np.round and torch.round do
    acc5 acc3  the same, clipped to [-2, 2] and [-1, 1]
    acc2_has0  negative against non-negative over all N: (pred >= 0) = (label >= 0)
    acc2_non0  negative against positive over the label != 0: (pred > 0) = (label > 0)
    wf1_has0, wf1_non0
               weighted F1 of these two decisions
    wf1_has0_legacy_swapped, wf1_non0_legacy_swapped
               the same with label and decision exchanged, so weighted by the *predicted* support.
               F1_c is symmetric, so the difference is sum_c (m_c - n_c)/N F1_c. For comparison with
               numbers that were published so; not for new results.

    Tables that print "x/y" mean has0/non0. Code of record: MMSA `metricsTop.py` (has0 and non0,
    F1 with true support); MulT `eval_metrics.py`, MISA `solver.py`, MME2E `evaluate.py` (swapped
    F1). Mean absolute error, correlation, acc7 and acc5 agree in all of them.
    """
    label, pred = _read(label, pred, weight, "pred", "[N]", "[N]")
    y, p = label.astype(np.float64), pred.astype(np.float64)

    scores = {"mae": _mean(np.abs(p - y), "mae"), "corr": _pearson(y, p, "corr")}
    for limit, key in ((3, "acc7"), (2, "acc5"), (1, "acc3")):
        true, decision = (np.round(np.clip(x, -limit, limit)) for x in (y, p))
        scores[key] = _mean(true == decision, key)

    nonzero = y != 0
    for suffix, true, decision, empty in (
        ("has0", y >= 0, p >= 0, "no utterances"),
        ("non0", y[nonzero] > 0, p[nonzero] > 0, "no utterances with a non-zero label"),
    ):
        hits, n, m = _counts(true, decision, 2)
        keys = {f"acc2_{suffix}": "acc", f"wf1_{suffix}": "wf1"}
        scores |= _decision_scores((hits, n, m), keys, empty)
        scores |= _decision_scores((hits, m, n), {f"wf1_{suffix}_legacy_swapped": "wf1"}, empty)
    return scores


def sims(label: ArrayLike, pred: ArrayLike, *, weight: ArrayLike | None = None) -> dict[str, float]:
    """Sentiment regression on CH-SIMS. `label`, `pred`: [N], both clipped to [-1, 1] first.

    mae, corr  of the *clipped* values (unlike MOSI and MOSEI)
    acc2, wf1  two classes [-1, 0], (0, 1]: here zero is negative
    acc3       cut at -0.1, 0.1
    acc5       cut at -0.7, -0.1, 0.1, 0.7; a value on a cut belongs to the class below it

    Code of record: MMSA `metricsTop.py`, `__eval_sims_regression`.
    """
    label, pred = _read(label, pred, weight, "pred", "[N]", "[N]")
    y, p = (np.clip(x.astype(np.float64), -1, 1) for x in (label, pred))

    scores = {"mae": _mean(np.abs(p - y), "mae"), "corr": _pearson(y, p, "corr")}
    for cuts, keys in (
        ([0.0], {"acc2": "acc", "wf1": "wf1"}),
        ([-0.1, 0.1], {"acc3": "acc"}),
        ([-0.7, -0.1, 0.1, 0.7], {"acc5": "acc"}),
    ):
        # All cuts lie inside the clipping range, so unclipped values fall into the same classes.
        true, decision = (sum(_above(x, cut).astype(int) for cut in cuts) for x in (label, pred))
        scores |= _decision_scores(_counts(true, decision, len(cuts) + 1), keys)
    return scores


# ---- Emotion classes -----------------------------------------------------------------------------


def multiclass(
    label: ArrayLike,
    logits: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    weight: ArrayLike | None = None,
) -> dict[str, float]:
    """One class of K. `label`: [N] integers in 0…K-1; `logits`: [N, K], the largest one decides.

    acc       MELD "accuracy"; IEMOCAP "WA"
    bacc      IEMOCAP "UA": mean of the recalls over the classes that the labels hold
    wf1       the headline of MELD and of 6-way IEMOCAP
    macro_f1  mean of F1_c over the classes that are in the labels or among the decisions
    f1/NAME, recall/NAME
              with `class_names` (K of them). F1 is nan for a class neither true nor decided,
              recall for a class without a true utterance.

    Probabilities or votes do as well as logits: only their order counts, and equal largest ones go
    to the lowest class. Code of record: emotion2vec `iemocap_downstream/utils.py`.
    """
    label, logits = _read(label, logits, weight, "logits", "[N]", "[N, K]")
    num_classes = logits.shape[1]
    if num_classes < 2:
        raise ValueError(f"logits must have two classes or more, got shape {logits.shape}")
    names = [] if class_names is None else _names("class_names", class_names, num_classes)
    true, decision = _classes("label", label, num_classes), np.argmax(logits, axis=1)

    counts = hits, n, m = _counts(true, decision, num_classes)
    scores = _decision_scores(counts, {key: key for key in ("acc", "bacc", "wf1", "macro_f1")})
    for c, name in enumerate(names):
        f1, recall = f"f1/{name}", f"recall/{name}"
        neither = "no utterance is of this class or was taken for it"
        scores[f1] = _ratio(2 * hits[c], n[c] + m[c], f1, neither)
        scores[recall] = _ratio(hits[c], n[c], recall, "no utterance is of this class")
    return scores


def confusion(
    label: ArrayLike, decision: ArrayLike, num_classes: int, *, weight: ArrayLike | None = None
) -> np.ndarray:
    """Confusion counts [K, K], int: entry (i, j) counts the utterances of class i taken for j.

    `label`, `decision`: [N] integers in 0…K-1. No utterances give zeros: a count is always defined.
    """
    label, decision = _read(label, decision, weight, "decision", "[N]", "[N]")
    true = _classes("label", label, num_classes)
    decision = _classes("decision", decision, num_classes)
    cells = np.bincount(true * num_classes + decision, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def multilabel(
    label: ArrayLike,
    prob: ArrayLike,
    threshold: ArrayLike = 0.5,
    *,
    names: Sequence[str] | None = None,
    weight: ArrayLike | None = None,
) -> dict[str, float]:
    """K emotions, each present or absent. `label`: [N, K] intensities or bits; `prob`: [N, K].

    An emotion is present iff label > 0 (MOSEI intensities run from 0 to 3), and decided to be
    present iff prob > threshold; `threshold` is one number or [K]. Tune it on validation data only.

    Per emotion, over {absent, present}, as `KEY/NAME` (`KEY/0`, `KEY/1`, … without `names`), and
    as `KEY` the mean over the emotions:

    bacc      (TP N/P + TN) / 2N = (TPR + TNR) / 2, with P present and N absent: the "weighted
              accuracy" of Tong et al. 2017, MME2E and the MOSEI tables
    wf1       weighted F1; high even if no present emotion is ever found, so read it beside
    macro_f1  and
    auc       P(prob of a present one > prob of an absent one), ties one half (Mann-Whitney);
              needs both kinds
    acc       fraction right; its mean is the fraction of the N K bits that are right

    Over all emotions of an utterance together, T the set present and D the set decided:

    strict_acc     fraction with D = T; what scikit-learn calls subset accuracy
    subset_acc     fraction with D = T, or D not empty and inside T
    intersect_acc  fraction with D = T, or D and T sharing an emotion

    Code of record: MME2E `evaluate.py`. There the loop over emotions stops at the first wrong one,
    so its intersect accuracy depends on the order of the emotions; here it does not.
    """
    label, prob = _read(label, prob, weight, "prob", "[N, K]", "[N, K]")
    num_emotions = prob.shape[1]
    if np.any((prob < 0) | (prob > 1)):
        raise ValueError(f"prob (shape {prob.shape}) must be probabilities in [0, 1], not logits")
    names = _names("names", names, num_emotions)
    present, decided = label > 0, _above(prob, _threshold(threshold, num_emotions))

    keys = ("bacc", "wf1", "macro_f1", "acc")
    scores = _per_name(present, decided, keys, names)
    for k, name in enumerate(names):
        scores[f"auc/{name}"] = _auc(present[:, k], prob[:, k], f"auc/{name}")
    scores |= _means(scores, (*keys, "auc"), names)

    same = np.all(present == decided, axis=1)
    hit = np.any(present & decided, axis=1)
    false_alarm = np.any(decided & ~present, axis=1)
    scores["strict_acc"] = _mean(same, "strict_acc")
    scores["subset_acc"] = _mean(same | (hit & ~false_alarm), "subset_acc")
    scores["intersect_acc"] = _mean(same | hit, "intersect_acc")
    return scores


def binary_pairs(
    label: ArrayLike,
    logits: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    weight: ArrayLike | None = None,
) -> dict[str, float]:
    """K yes/no questions, a two-way softmax each. `label`: [N, K] bits; `logits`: [N, K, 2].

    logits[:, k, 1] speaks for "is emotion k"; a tie means no, as argmax has it. Per emotion as
    `KEY/NAME` (`KEY/0`, … without `names`), and as `KEY` the mean over the emotions:

    acc       fraction right; its mean is the right bits / (K N). Beware: on one-hot labels over
              four classes, "never present" already has a mean of 0.75.
    wf1       weighted F1 over {no, yes}
    bacc, macro_f1
              not in the papers; they show what the skewed classes hide

    Code of record: MulT `eval_iemocap` (`eval_metrics.py`) and SSE-FT, IEMOCAP.
    """
    label, logits = _read(label, logits, weight, "logits", "[N, K]", "[N, K, 2]")
    if logits.shape[2] != 2:
        raise ValueError(f"logits must have shape [N, K, 2], got {logits.shape}")
    names = _names("names", names, label.shape[1])
    true, decision = _classes("label", label, 2), np.argmax(logits, axis=2)

    keys = ("acc", "wf1", "bacc", "macro_f1")
    scores = _per_name(true, decision, keys, names)
    return scores | _means(scores, keys, names)


# ---- Emotion dimensions --------------------------------------------------------------------------


def ccc(label: ArrayLike, pred: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Concordance correlation coefficient (Lin 1989). `label`, `pred`: [N].

    2 cov / (var(label) + var(pred) + (mean(label) - mean(pred))^2), population moments (divided by
    N). Always |ccc| <= |corr|. Of a constant prediction it is 0; it is undefined only where label
    and pred are one and the same constant.
    """
    label, pred = _read(label, pred, weight, "pred", "[N]", "[N]")
    return _concordance(label.astype(np.float64), pred.astype(np.float64), "ccc")


def dimensions(
    label: ArrayLike,
    pred: ArrayLike,
    names: Sequence[str] = ("valence", "arousal", "dominance"),
    threshold: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
) -> dict[str, float]:
    """Real-valued emotion dimensions. `label`, `pred`: [N, K], K = len(names).

    Per dimension as `KEY/NAME`, and as `KEY` the mean over the dimensions:

    ccc mae corr        see `ccc` and `sentiment`; nothing is clipped
    acc bacc macro_f1   with `threshold` (one number or [K]): low against high, where
                        high = value > threshold, for label and pred alike. A rating exactly on the
                        threshold, for which the midpoint of the scale is usual, is low.
    """
    label, pred = _read(label, pred, weight, "pred", "[N, K]", "[N, K]")
    names = _names("names", names, label.shape[1])
    cut = None if threshold is None else _threshold(threshold, len(names))
    y, p = label.astype(np.float64), pred.astype(np.float64)

    keys = ("ccc", "mae", "corr")
    scores = {}
    for k, name in enumerate(names):
        scores[f"ccc/{name}"] = _concordance(y[:, k], p[:, k], f"ccc/{name}")
        scores[f"mae/{name}"] = _mean(np.abs(p[:, k] - y[:, k]), f"mae/{name}")
        scores[f"corr/{name}"] = _pearson(y[:, k], p[:, k], f"corr/{name}")
    if cut is not None:
        low_high = ("acc", "bacc", "macro_f1")
        scores |= _per_name(_above(label, cut), _above(pred, cut), low_high, names)
        keys += low_high
    return scores | _means(scores, keys, names)


# ---- Definitions ---------------------------------------------------------------------------------
# `name`, the key of the returned value, and `empty`, the reason where N = 0, are for the warning.


def _undefined(name: str, reason: str) -> float:
    warnings.warn(f"{name} is undefined: {reason}", UndefinedMetricWarning, stacklevel=4)
    return float("nan")


def _ratio(part: float, whole: float, name: str, reason: str) -> float:
    return float(part / whole) if whole else _undefined(name, reason)


def _mean(values: np.ndarray, name: str) -> float:
    return _ratio(values.sum(), values.size, name, "no utterances")


def _centred(x: np.ndarray) -> np.ndarray:
    # The mean of N equal numbers can be off by a rounding. Measured from the first one, a constant
    # array is exactly 0 and is known as constant.
    x = x - x[0]
    return x - x.mean()


def _pearson(y: np.ndarray, p: np.ndarray, name: str) -> float:
    if not y.size:
        return _undefined(name, "no utterances")
    dy, dp = _centred(y), _centred(p)
    if not (dy.any() and dp.any()):
        constant = "pred" if dy.any() else "label"
        return _undefined(name, f"{constant} is constant over the {y.size} utterances")
    r = (dy / np.linalg.norm(dy)) @ (dp / np.linalg.norm(dp))
    return float(np.clip(r, -1, 1))  # rounding can leave 1 + 2e-16


def _concordance(y: np.ndarray, p: np.ndarray, name: str) -> float:
    if not y.size:
        return _undefined(name, "no utterances")
    dy, dp = _centred(y), _centred(p)
    spread = np.mean(dy**2) + np.mean(dp**2) + np.mean(y - p) ** 2
    return _ratio(2 * np.mean(dy * dp), spread, name, "label and pred are the same constant")


def _counts(true: np.ndarray, decision: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """TP_c, n_c (truly of class c) and m_c (decided to be), each [K], of class numbers or bool."""
    true, decision = true.astype(int), decision.astype(int)
    rows = true[true == decision], true, decision
    return [np.bincount(row, minlength=num_classes) for row in rows]


def _decision_scores(
    counts: Sequence[np.ndarray], keys: dict[str, str], empty: str = "no utterances"
) -> dict[str, float]:
    """The formulas at the top of this file. `keys` maps a name to return to a key of `by_key`."""
    hits, n, m = counts
    if not n.any():
        return {name: _undefined(name, empty) for name in keys}
    seen, true = n + m > 0, n > 0
    f1 = 2 * hits[seen] / (n + m)[seen]
    by_key = {
        "acc": hits.sum() / n.sum(),
        "bacc": np.mean(hits[true] / n[true]),
        "wf1": n[seen] @ f1 / n.sum(),
        "macro_f1": np.mean(f1),
    }
    return {name: float(by_key[key]) for name, key in keys.items()}


def _per_name(
    true: np.ndarray, decision: np.ndarray, keys: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """The two-class scores of every column of `true` and `decision`, [N, K], as KEY/NAME."""
    scores = {}
    for k, name in enumerate(names):
        counts = _counts(true[:, k], decision[:, k], 2)
        scores |= _decision_scores(counts, {f"{key}/{name}": key for key in keys})
    return scores


def _auc(present: np.ndarray, score: np.ndarray, name: str) -> float:
    """Mann-Whitney: AUC = (R - P(P+1)/2) / (P N), R the sum of the ranks of the P present ones."""
    num_present = int(present.sum())
    num_absent = present.size - num_present
    if not (num_present and num_absent):
        return _undefined(
            name, "the labels hold one class only" if present.size else "no utterances"
        )
    _, place, count = np.unique(score.astype(np.float64), return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # equal scores share the mean of their ranks
    above = rank[place][present].sum() - num_present * (num_present + 1) / 2
    return float(above / (num_present * num_absent))


def _means(scores: dict[str, float], keys: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """{KEY: mean over names of KEY/NAME}; nan if one of them is."""
    means = {}
    for key in keys:
        values = [scores[f"{key}/{name}"] for name in names]
        missing = [name for name, value in zip(names, values, strict=True) if np.isnan(value)]
        reason = f"it is undefined for {', '.join(missing)}"
        means[key] = _undefined(key, reason) if missing else float(np.mean(values))
    return means


# ---- Inputs --------------------------------------------------------------------------------------


def _numbers(name: str, value: ArrayLike) -> np.ndarray:
    """`value` as an array of its own floating dtype; integers and bool as float64."""
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":  # to NumPy, bfloat16 is "V"
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def _require_finite(name: str, array: np.ndarray) -> None:
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise ValueError(f"{name} (shape {array.shape}) holds {bad} non-finite values")


def _read(
    label: ArrayLike, output: ArrayLike, weight: ArrayLike | None, name: str, *layouts: str
) -> tuple[np.ndarray, np.ndarray]:
    """Label and model output, checked, without the rows of weight 0; layouts such as "[N, K]".

    No shape is broadcast: [N] against [N, 1] would compare every label with every prediction.
    """
    label, output = _numbers("label", label), _numbers(name, output)
    right_ndim = (label.ndim, output.ndim) == tuple(text.count(",") + 1 for text in layouts)
    if not right_ndim or output.shape[: label.ndim] != label.shape:
        raise ValueError(
            f"label and {name} must have shapes {layouts[0]} and {layouts[1]}, "
            f"got {label.shape} and {output.shape}"
        )
    if weight is not None:
        weight = _numbers("weight", weight)
        if weight.shape != label.shape[:1]:
            raise ValueError(f"weight must have shape {label.shape[:1]}, got {weight.shape}")
        if not np.isin(weight, (0, 1)).all():
            raise ValueError(f"weight (shape {weight.shape}) must be 0 or 1 everywhere")
        label, output = label[weight == 1], output[weight == 1]
    _require_finite("label", label)
    _require_finite(name, output)
    return label, output


def _classes(name: str, array: np.ndarray, num_classes: int) -> np.ndarray:
    if np.any((array < 0) | (array >= num_classes) | (array != np.floor(array))):
        bounds = f"from 0 to {num_classes - 1}"
        raise ValueError(f"{name} (shape {array.shape}) must hold integers {bounds}")
    return array.astype(int)


def _names(name: str, names: Sequence[str] | None, count: int) -> list[str]:
    names = [str(x) for x in (range(count) if names is None else names)]
    if not names or len(names) != count or len(set(names)) != count:
        raise ValueError(f"{name} must be {count} different names, at least one, got {names}")
    return names


def _threshold(value: ArrayLike, count: int) -> np.ndarray:
    value = _numbers("threshold", value)
    _require_finite("threshold", value)
    if value.shape not in ((), (count,)):
        raise ValueError(f"threshold must be one number or of shape ({count},), got {value.shape}")
    return value


def _above(values: np.ndarray, cut: ArrayLike) -> np.ndarray:
    """values > cut, with the cut rounded to the dtype of the values.

    In float32, 0.1 is a little more than the 0.1 of float64. Compared in float64, a prediction that
    lies on the cut would be above it; the reference code compares in float32, where it is not.
    """
    return values > np.asarray(cut).astype(values.dtype)
