"""The one number of a run's outputs that is explained: a class's odds, or a score.

Letters: N or B examples, K outputs, C answers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from imat_jax.tasks import LOW, Task, sigmoid

REGRESSIONS = ("sentiment", "dimensions")


def names(task: Task) -> tuple[str, ...]:
    """The answers: classes, emotions, dimensions, or "sentiment"."""
    return task.class_names or ("sentiment",)


def odds(task: Task, outputs: jax.Array) -> jax.Array:
    """[B, C]: log p / (1 - p) of each answer, which does not level off near 1; or the scores.

    outputs [B, K]. Jittable.
    """
    if task.name == "multiclass":
        own = jnp.eye(outputs.shape[1], dtype=bool)[None]
        others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, outputs[:, None, :]), axis=2)
        return outputs - others
    if task.name == "binary_pairs":
        pairs = outputs.reshape(len(outputs), -1, 2)
        return pairs[..., 1] - pairs[..., 0]
    if task.name == "sentiment" and outputs.shape[1] > 1:  # ordinal: `tasks.sentiment_of`
        return LOW + jax.nn.sigmoid(outputs).sum(axis=1, keepdims=True)
    return outputs


def chosen(task: Task, outputs: jax.Array) -> jax.Array:
    """[B] int32: the class that is predicted, the most probable emotion, or the first score."""
    if task.name in REGRESSIONS:
        return jnp.zeros(len(outputs), jnp.int32)
    return odds(task, outputs).argmax(axis=1).astype(jnp.int32)


def values(task: Task, outputs: np.ndarray) -> np.ndarray:
    """[N, C]: probabilities of classes, or of presence of emotions; of regressions the scores."""
    if task.name in REGRESSIONS:
        return task.decode(outputs).reshape(len(outputs), -1).astype(np.float64)
    return sigmoid(np.asarray(odds(task, jnp.asarray(outputs))))


def constant(task: Task, train_label: np.ndarray) -> np.ndarray:
    """[C]: `values` of the best answer that sees nothing: shares or medians of training labels."""
    if task.name == "multiclass":
        return np.bincount(train_label, minlength=len(names(task))) / len(train_label)
    label = train_label.reshape(len(train_label), -1)
    if task.name in REGRESSIONS:
        return np.median(label, axis=0).astype(np.float64)
    return (label > 0).mean(axis=0)
