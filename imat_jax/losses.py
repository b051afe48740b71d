"""Losses per example, [B] float32; weighting and averaging are the step's business."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax


def l1(outputs: jax.Array, label: jax.Array) -> jax.Array:
    """|p - y|, averaged over columns if there are any. outputs [B, K]; label [B] or [B, K]."""
    return jnp.abs(outputs - label.reshape(outputs.shape)).mean(axis=-1)


def mse(outputs: jax.Array, label: jax.Array) -> jax.Array:
    """(p - y)^2, shapes as `l1`."""
    return jnp.square(outputs - label.reshape(outputs.shape)).mean(axis=-1)


def ordinal(outputs: jax.Array, label: jax.Array, low: float = -3.0) -> jax.Array:
    """A scale climbed step by step: sigmoid cross-entropy, mean over the K steps.

    Output k says how much of the step from `low + k` to `low + k + 1` has been climbed (Frank and
    Hall 2001, with a share in place of a bit), so that low + sum sigmoid(outputs) is the label.
    outputs [B, K] logits; label [B] in [low, low + K].
    """
    steps = low + jnp.arange(outputs.shape[-1], dtype=outputs.dtype)
    climbed = jnp.clip(label.reshape(-1, 1) - steps[None], 0, 1)  # [B, K]
    return optax.sigmoid_binary_cross_entropy(outputs, climbed).mean(axis=-1)


def cross_entropy(
    outputs: jax.Array,
    label: jax.Array,
    smoothing: float = 0.0,
    focal: float = 0.0,
    class_weights: np.ndarray | None = None,
) -> jax.Array:
    """Softmax cross-entropy. outputs [B, K] logits; label [B] int.

    smoothing: this much of the target is spread evenly over all classes.
    focal: gamma of the factor (1 - p)^gamma, p the probability of the label (Lin et al. 2017,
      equation 4): what is already told well counts less.
    class_weights: [K], a factor for each class.
    """
    target = jax.nn.one_hot(label, outputs.shape[-1], dtype=outputs.dtype)
    loss = optax.softmax_cross_entropy(outputs, optax.smooth_labels(target, smoothing))
    if focal:
        loss *= _focus((jax.nn.softmax(outputs) * target).sum(axis=-1), focal)
    if class_weights is not None:
        loss *= jnp.asarray(class_weights, loss.dtype)[label]
    return loss


def binary_cross_entropy(
    outputs: jax.Array,
    label: jax.Array,
    focal: float = 0.0,
    class_weights: np.ndarray | None = None,
) -> jax.Array:
    """Sigmoid cross-entropy, mean over the K emotions; present where the intensity is above 0.

    outputs, label [B, K]; focal as in `cross_entropy`; class_weights [K, 2], of absence and
    presence.
    """
    present = label > 0
    loss = optax.sigmoid_binary_cross_entropy(outputs, present.astype(outputs.dtype))
    if focal:
        loss *= _focus(jax.nn.sigmoid(jnp.where(present, outputs, -outputs)), focal)
    if class_weights is not None:
        absence, presence = jnp.asarray(class_weights, loss.dtype).T[:, None]  # each [1, K]
        loss *= jnp.where(present, presence, absence)
    return loss.mean(axis=-1)


def binary_pairs(
    outputs: jax.Array,
    label: jax.Array,
    focal: float = 0.0,
    class_weights: np.ndarray | None = None,
) -> jax.Array:
    """K two-way softmaxes, summed over emotions (`sse_ft` section 4.1).

    outputs [B, 2 K], (absent, present) of each emotion; label [B, K], 0 or 1; focal and
    class_weights as in `binary_cross_entropy`, which is the same but for a factor of K: of two
    logits, only the difference counts.
    """
    pairs = outputs.reshape(len(outputs), -1, 2)
    present = pairs[..., 1] - pairs[..., 0]
    return binary_cross_entropy(present, label, focal, class_weights) * present.shape[-1]


def _focus(p: jax.Array, gamma: float) -> jax.Array:
    # Away from 1, where the power of a gamma below 1 has no finite slope.
    return (1 - jnp.minimum(p, 1 - 1e-6)) ** gamma
