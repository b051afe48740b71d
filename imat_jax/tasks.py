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
    threshold: float | None = None,
) -> Task:
    """The task called `name`.

    - `sentiment`: a real score in [-3, 3]; loss L1 (or "mse"). Headline `mae`.
    - `multiclass`: one of K classes; cross-entropy. Headline `acc`.
    - `multilabel`: K emotions, each present or not (intensity above 0); sigmoid cross-entropy.
      Headline `bacc`; decisions at `threshold` (0.5).
    - `binary_pairs`: K emotions, a two-way softmax each, as SSE-FT treats IEMOCAP. Headline `acc`.
    - `dimensions`: real-valued dimensions such as valence, arousal, dominance; L1 or "mse".
      Headline `ccc`; low and high degrees are scored too where `threshold`, the midpoint of the
      scale, is given.

    Args:
      loss: "l1" or "mse", for the two regressions only.
    """
    names, count = tuple(class_names), len(class_names)
    if name not in TASKS:
        raise ValueError(f"task is one of {TASKS}, not {name!r}")
    if loss not in (None, "l1", "mse") or (loss and name not in ("sentiment", "dimensions")):
        raise ValueError(f"loss {loss!r} does not go with the task {name!r}")
    if name != "sentiment" and not count:
        raise ValueError(f"the task {name!r} needs class_names")
    distance = losses.mse if loss == "mse" else losses.l1
    if name == "sentiment":
        return Task(
            name, names, 1, "mae", distance,
            score=lambda y, o: metrics.sentiment(y, o[:, 0]),
            decode=lambda o: o[:, 0],
        )  # fmt: skip
    if name == "multiclass":
        return Task(
            name, names, count, "acc",
            functools.partial(losses.cross_entropy, smoothing=label_smoothing),
            score=functools.partial(metrics.multiclass, class_names=names),
            decode=lambda o: o.argmax(axis=1),
        )  # fmt: skip
    if name == "multilabel":
        return Task(
            name, names, count, "bacc", losses.binary_cross_entropy,
            score=lambda y, o: metrics.multilabel(
                y, sigmoid(o), threshold=0.5 if threshold is None else threshold, names=names
            ),
            decode=sigmoid,
        )  # fmt: skip
    if name == "binary_pairs":
        return Task(
            name, names, 2 * count, "acc", losses.binary_pairs,
            score=lambda y, o: metrics.binary_pairs(y, o.reshape(len(o), -1, 2), names=names),
            decode=lambda o: o.reshape(len(o), -1, 2).argmax(axis=-1),
        )  # fmt: skip
    return Task(
        name, names, count, "ccc", distance,
        score=functools.partial(metrics.dimensions, names=names, threshold=threshold),
        decode=lambda o: o,
    )  # fmt: skip


def trivial_outputs(task: Task, train_label: np.ndarray, rows: int) -> np.ndarray:
    """Outputs [rows, K] of the best constant answer on the training labels: the row to beat.

    The median for L1 regressions, the most frequent class, the share of presence of each emotion.
    """
    if task.name in ("sentiment", "dimensions"):
        constant = np.median(train_label.reshape(len(train_label), -1), axis=0)
    elif task.name == "multiclass":
        constant = np.bincount(train_label, minlength=task.outputs).astype(float)
    elif task.name == "multilabel":
        share = np.clip((train_label > 0).mean(axis=0), 1e-6, 1 - 1e-6)
        constant = np.log(share / (1 - share))
    else:
        present = train_label.mean(axis=0)
        constant = np.stack([1 - present, present], axis=-1).ravel()
    return np.tile(np.asarray(constant, np.float32), (rows, 1))


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
