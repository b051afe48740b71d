"""Losses per example, [B] float32; weighting and averaging are the step's business."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def l1(outputs: jax.Array, label: jax.Array) -> jax.Array:
    """|p - y|, averaged over columns if there are any. outputs [B, K]; label [B] or [B, K]."""
    return jnp.abs(outputs - label.reshape(outputs.shape)).mean(axis=-1)


def mse(outputs: jax.Array, label: jax.Array) -> jax.Array:
    """(p - y)^2, shapes as `l1`."""
    return jnp.square(outputs - label.reshape(outputs.shape)).mean(axis=-1)


def cross_entropy(outputs: jax.Array, label: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy. outputs [B, K] logits; label [B] int.

    smoothing: this much of the target is spread evenly over all classes.
    """
    target = jax.nn.one_hot(label, outputs.shape[-1], dtype=outputs.dtype)
    return optax.softmax_cross_entropy(outputs, optax.smooth_labels(target, smoothing))


def binary_cross_entropy(outputs: jax.Array, label: jax.Array) -> jax.Array:
    """Sigmoid cross-entropy, mean over the K emotions; present where the intensity is above 0.

    outputs, label [B, K].
    """
    present = (label > 0).astype(outputs.dtype)
    return optax.sigmoid_binary_cross_entropy(outputs, present).mean(axis=-1)


def binary_pairs(outputs: jax.Array, label: jax.Array) -> jax.Array:
    """K two-way softmaxes, summed over emotions (`sse_ft` section 4.1).

    outputs [B, 2 K], (absent, present) of each emotion; label [B, K], 0 or 1.
    """
    pairs = outputs.reshape(len(outputs), -1, 2)
    bits = label.astype(jnp.int32)
    return optax.softmax_cross_entropy_with_integer_labels(pairs, bits).sum(axis=-1)
