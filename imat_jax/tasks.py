"""What is predicted: label space, loss, decoding, metrics, and the metric that decides."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from imat_jax import losses, metrics

TASKS = ("sentiment", "multiclass", "multilabel", "binary_pairs", "dimensions")
LOWER_IS_BETTER = ("mae", "loss")
LOW, STEPS = -3, 6  # of the scale of sentiment, for the ordinal loss


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, made by `make`.

    Attributes:
      name, class_names: as in the dataset's metadata.
      outputs: K, how many numbers the model gives.
      headline: the metric that selects a checkpoint unless the config names another.
      loss: (outputs [B, K], label) -> [B].
      score: (label, outputs) of a whole split, NumPy -> {metric: value}, keys of `metrics`.
      decode: outputs [N, K] -> what a person reads: scores, class indices, probabilities.
    """

    name: str
    class_names: tuple[str, ...]
    outputs: int
    headline: str
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    decode: Callable[[np.ndarray], np.ndarray]


def higher_is_better(metric: str) -> bool:
    return metric.partition("/")[0] not in LOWER_IS_BETTER


def make(
    name: str,
    class_names: Sequence[str] = (),
    *,
    loss: str | None = None,
    label_smoothing: float = 0.0,
    focal: float = 0.0,
    class_weights: np.ndarray | None = None,
    threshold: float | None = None,
) -> Task:
    """The task called `name`.

    - `sentiment`: a real score in [-3, 3]; loss L1 (or "mse", or "ordinal": six outputs, each one
      step of the scale). Headline `mae`.
    - `multiclass`: one of K classes; cross-entropy. Headline `acc`.
    - `multilabel`: K emotions, each present or not (intensity above 0); sigmoid cross-entropy.
      Headline `bacc`; decisions at `threshold` (0.5).
    - `binary_pairs`: K emotions, a two-way softmax each, as SSE-FT treats IEMOCAP. Headline `acc`.
    - `dimensions`: real-valued dimensions such as valence, arousal, dominance; L1 or "mse".
      Headline `ccc`; low and high degrees are scored too where `threshold`, the midpoint of the
      scale, is given.

    Args:
      loss: "l1" or "mse", for the two regressions only; "ordinal", for sentiment only.
      label_smoothing: of `multiclass` only. focal: gamma of the focal loss, of classes only.
      class_weights: factors on the loss of an example, [K]; of `multilabel` and `binary_pairs`
        [K, 2], absent and present. `balanced` makes them.

    Raises:
      ValueError: they do not go together.
    """
    names, count = tuple(class_names), len(class_names)
    if name not in TASKS:
        raise ValueError(f"task is one of {TASKS}, not {name!r}")
    fitting = {"sentiment": ("l1", "mse", "ordinal"), "dimensions": ("l1", "mse")}
    if loss and loss not in fitting.get(name, ()):
        raise ValueError(f"loss {loss!r} does not go with the task {name!r}")
    if label_smoothing and name != "multiclass":
        raise ValueError(f"label_smoothing does not go with the task {name!r}")
    if (focal or class_weights is not None) and name in fitting:
        raise ValueError(f"focal and class_weights do not go with the task {name!r}")
    if not 0 <= label_smoothing < 1 or focal < 0:
        raise ValueError(
            f"label_smoothing {label_smoothing} is not in [0, 1), or focal {focal} below 0"
        )
    imbalance = dict(focal=focal, class_weights=class_weights)
    if name != "sentiment" and not count:
        raise ValueError(f"the task {name!r} needs class_names")
    distance = losses.mse if loss == "mse" else losses.l1
    if loss == "ordinal":
        return Task(
            name, names, STEPS, "mae", functools.partial(losses.ordinal, low=LOW),
            score=lambda y, o: metrics.sentiment(y, sentiment_of(o)), decode=sentiment_of,
        )  # fmt: skip
    if name == "sentiment":
        return Task(
            name, names, 1, "mae", distance,
            score=lambda y, o: metrics.sentiment(y, sentiment_of(o)),
            decode=sentiment_of,
        )  # fmt: skip
    if name == "multiclass":
        return Task(
            name, names, count, "acc",
            functools.partial(losses.cross_entropy, smoothing=label_smoothing, **imbalance),
            score=functools.partial(metrics.multiclass, class_names=names),
            decode=lambda o: o.argmax(axis=1),
        )  # fmt: skip
    if name == "multilabel":
        return Task(
            name, names, count, "bacc",
            functools.partial(losses.binary_cross_entropy, **imbalance),
            score=lambda y, o: metrics.multilabel(
                y, sigmoid(o), threshold=0.5 if threshold is None else threshold, names=names
            ),
            decode=sigmoid,
        )  # fmt: skip
    if name == "binary_pairs":
        return Task(
            name, names, 2 * count, "acc",
            functools.partial(losses.binary_pairs, **imbalance),
            score=lambda y, o: metrics.binary_pairs(y, o.reshape(len(o), -1, 2), names=names),
            decode=lambda o: o.reshape(len(o), -1, 2).argmax(axis=-1),
        )  # fmt: skip
    return Task(
        name, names, count, "ccc", distance,
        score=functools.partial(metrics.dimensions, names=names, threshold=threshold),
        decode=lambda o: o,
    )  # fmt: skip


def balanced(name: str, train_label: np.ndarray, classes: int) -> np.ndarray:
    """Class weights that make up for unequal counts: 1 on average over the training examples.

    Args:
      train_label: [N], or [N, K] of emotions, each of which is weighed by itself.

    Returns:
      [K] of `multiclass`, N / (K n_k), 0 for a class without examples; else [K, 2].

    Raises:
      ValueError: a regression has no classes.
    """
    if name == "multiclass":
        counts = np.bincount(train_label, minlength=classes)
    elif name in ("multilabel", "binary_pairs"):
        present = (train_label > 0).sum(axis=0)
        counts = np.stack([len(train_label) - present, present], axis=-1)  # [K, 2]
    else:
        raise ValueError(f"class_weights do not go with the task {name!r}")
    there = (counts > 0).sum(axis=-1, keepdims=True)
    return np.where(counts > 0, len(train_label) / (there * np.maximum(counts, 1)), 0.0)


def trivial_outputs(task: Task, train_label: np.ndarray, rows: int) -> np.ndarray:
    """Outputs [rows, K] of the best constant answer on the training labels: the row to beat.

    The median for L1 regressions, the most frequent class, the share of presence of each emotion.
    """
    if task.name in ("sentiment", "dimensions"):
        constant = np.median(train_label.reshape(len(train_label), -1), axis=0)
        if task.outputs == STEPS and task.name == "sentiment":  # ordinal
            climbed = np.clip(constant.astype(np.float64) - LOW - np.arange(STEPS), 0, 1)
            with np.errstate(divide="ignore"):
                odds = np.log(climbed) - np.log1p(-climbed)
            constant = np.clip(odds, -50, 50)  # whose sigmoids are 0 and 1, so that a 0 stays 0
    elif task.name == "multiclass":
        constant = np.bincount(train_label, minlength=task.outputs).astype(float)
    elif task.name == "multilabel":
        share = np.clip((train_label > 0).mean(axis=0), 1e-6, 1 - 1e-6)
        constant = np.log(share / (1 - share))
    else:
        present = train_label.mean(axis=0)
        constant = np.stack([1 - present, present], axis=-1).ravel()
    return np.tile(np.asarray(constant, np.float32), (rows, 1))


def sentiment_of(outputs: np.ndarray) -> np.ndarray:
    """The score [N] that outputs [N, 1], or the ordinal loss's [N, STEPS], say."""
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return (LOW + sigmoid(outputs).sum(axis=1)).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x.astype(np.float64)))  # no overflow on either side


def describe(task: Task, outputs: np.ndarray) -> dict:
    """One example's outputs [K] for a reader: {"values": {name: number}}, of classes a "label" too.

    The values are probabilities of classes or of the presence of emotions, else scores.
    """
    x = outputs.astype(np.float64)
    if task.name in ("multiclass", "binary_pairs"):
        pairs = x.reshape(-1, 2) if task.name == "binary_pairs" else x[None]
        share = np.exp(pairs - pairs.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        values = share[:, 1] if task.name == "binary_pairs" else share[0]
    else:
        values = task.decode(outputs[None]).reshape(-1)
    names = task.class_names or ("sentiment",)
    described = {"values": dict(zip(names, map(float, values), strict=True))}
    if task.name == "multiclass":
        described["label"] = names[int(values.argmax())]
    return described
