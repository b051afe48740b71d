"""How sure a classifier is, and how sure it should be: ECE, NLL, temperature.

Pure functions of logits [N, C] and labels [N] int. Confidence is the largest probability.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.special

BINNINGS = ("width", "mass")
LARGEST = 100.0  # temperatures are sought in [1 / LARGEST, LARGEST]


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax(logits / temperature), [N, C] float64."""
    return scipy.special.softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def nll(logits: np.ndarray, label: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    log_prob = scipy.special.log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-log_prob[np.arange(len(label)), label].mean())


def brier(prob: np.ndarray, label: np.ndarray) -> float:
    """Mean over examples of the squared distance to the one-hot label, in [0, 2] (Brier 1950)."""
    return float(((prob - np.eye(prob.shape[1])[label]) ** 2).sum(axis=1).mean())


def edges(confidence: np.ndarray, bins: int, binning: str) -> np.ndarray:
    """[bins + 1] borders of bins of equal width on [0, 1], or of equal numbers of examples.

    Raises:
      ValueError: another binning.
    """
    if binning == "width":
        return np.linspace(0, 1, bins + 1)
    if binning == "mass":
        return np.quantile(confidence, np.linspace(0, 1, bins + 1))
    raise ValueError(f"binning is one of {BINNINGS}, not {binning!r}")


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15, binning: str = "width"
) -> dict[str, np.ndarray]:
    """{"count", "confidence", "accuracy"}, [bins] each: examples of a bin and their means.

    A bin holds what lies above its lower border, up to and with its upper one (Guo et al. 2017,
    section 2); the first holds its lower border too. Means of an empty bin are nan.
    """
    borders = edges(confidence, bins, binning)
    place = np.clip(np.searchsorted(borders, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    total = {
        "confidence": np.bincount(place, weights=confidence, minlength=bins),
        "accuracy": np.bincount(place, weights=np.asarray(correct, float), minlength=bins),
    }
    with np.errstate(invalid="ignore"):
        return {"count": count} | {name: values / count for name, values in total.items()}


def ece(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15, binning: str = "width"
) -> float:
    """Expected calibration error: mean over examples of |accuracy - confidence| of their bin.

    Naeini et al. 2015; Guo et al. 2017, equation 3.
    """
    found = reliability(confidence, correct, bins, binning)
    gaps = np.abs(found["accuracy"] - found["confidence"])
    return float(np.nansum(found["count"] * gaps) / len(confidence))


def ece_by_chance(
    confidence: np.ndarray, bins: int = 15, binning: str = "width", draws: int = 200, seed: int = 0
) -> float:
    """The ECE that these confidences would show if they were exactly right; never 0 for finite N.

    Mean over `draws` of outcomes that are right with the probability that the confidence says.
    """
    random = np.random.default_rng(seed)
    outcomes = random.random((draws, len(confidence))) < confidence
    return float(np.mean([ece(confidence, one, bins, binning) for one in outcomes]))


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The T that minimises the NLL of softmax(logits / T) (Guo et al. 2017, section 4.2).

    Between 1/100 and 100. The NLL is convex in 1 / T, so a bounded search over log T finds the one
    minimum; a classifier that is right on all of these examples has none, and gets a T near 0.
    """
    bound = np.log(LARGEST)
    found = scipy.optimize.minimize_scalar(
        lambda t: nll(logits, label, np.exp(t)), bounds=(-bound, bound), method="bounded",
        options={"xatol": 1e-6},
    )  # fmt: skip
    return float(np.exp(found.x))
