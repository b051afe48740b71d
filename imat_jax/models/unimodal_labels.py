"""Self-MM's generation of unimodal labels: pure functions of what the run remembers.

Yu et al., AAAI 2021, section 3.3. The train state has, for every utterance of the training split,
the features of its last visit and its labels so far; batches say which utterances they hold
(`index`). From the second epoch on,

    α = (D_neg - D_pos) / D_pos        how much nearer a feature is to the centre of the features
                                       of positive utterances than to that of negative ones
    y' = y α_m / (2 α) + (y + α_m - α) / 2, within ± H
    y_m <- (n - 1) / (n + 1) y_m + 2 / (n + 1) y'         in epoch n; before, y_m is y

where α without index is of the fused feature, y the label. As in the authors' code (thuiar/Self-MM
and thuiar/MMSA), distances are Euclidean, each modality's centres are of its own labels' signs, and
neutral utterances are in neither. A centre of no utterance moves no label, where theirs are NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

EPS = 1e-8
Memory = dict[str, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of a run's training split.

    Attributes:
      examples: N, of the split.
      batch_size: tells the epoch of a step.
      modalities: those that have labels of their own.
      width: H, of the features.
      limit: largest absolute label.
    """

    examples: int
    batch_size: int
    modalities: tuple[str, ...]
    width: int
    limit: float

    def empty(self) -> Memory:
        """{feature: {name: [N, H]}, label: {name: [N]}, known: {name: [N]}}, all zero.

        The names are `fusion` and the modalities; `known` is 1 where there is a feature.
        """
        names, n = ("fusion", *self.modalities), self.examples
        return {
            "feature": {m: jnp.zeros((n, self.width), jnp.float32) for m in names},
            "label": {m: jnp.zeros((n,), jnp.float32) for m in names},
            "known": {m: jnp.zeros((n,), jnp.float32) for m in names},
        }

    def epoch(self, step: jax.Array) -> jax.Array:
        """The epoch of a step, int32, the first is 1."""
        return 1 + step // -(-self.examples // self.batch_size)

    def recall(self, memory: Memory, batch: Mapping, step: jax.Array) -> dict[str, jax.Array]:
        """{`unimodal_label/text`: [B], …} of the utterances of a batch.

        Args:
          batch: `label` [B] or [B, 1], `index` [B] int32, below 0 for rows that are no utterance.
        """
        y, first = _label(batch), self.epoch(step) == 1
        labels = {m: memory["label"][m][batch["index"]] for m in self.modalities}
        return {f"unimodal_label/{m}": jnp.where(first, y, old) for m, old in labels.items()}

    def remember(
        self, memory: Memory, batch: Mapping, seen: Mapping[str, jax.Array], step: jax.Array
    ) -> Memory:
        """The memory after a batch.

        Args:
          batch: `label`, `index`, as in `recall`, and what that gave.
          seen: `feature/fusion`, `feature/text` … [B, H], `present/text` … [B] bool.
        """
        n = self.epoch(step).astype(jnp.float32)
        y = _label(batch)
        whole = jnp.ones(len(y), bool)
        alpha, usable = _relative_distance(memory, "fusion", seen["feature/fusion"])
        new = {"fusion": (seen["feature/fusion"], y, whole)}
        for m in self.modalities:
            feature, present = seen[f"feature/{m}"], seen[f"present/{m}"]
            own, centred = _relative_distance(memory, m, feature)
            guess = jnp.clip(generated(y, own, alpha), -self.limit, self.limit)
            old = batch[f"unimodal_label/{m}"]
            moved = (n - 1) / (n + 1) * old + 2 / (n + 1) * guess
            label = jnp.where(present & usable & centred & (n > 1), moved, old)
            new[m] = (feature, label, present)
        # Rows that are no utterance go past the end, where nothing is written.
        index = jnp.where(batch["index"] < 0, self.examples, batch["index"])
        after: Memory = {"feature": {}, "label": {}, "known": {}}
        for m, (feature, label, present) in new.items():
            there = jnp.where(present, index, self.examples)
            write = lambda old, i, x: old.at[i].set(x.astype(old.dtype), mode="drop")  # noqa: E731
            after["feature"][m] = write(memory["feature"][m], there, feature)
            after["known"][m] = write(memory["known"][m], there, jnp.ones_like(y))
            after["label"][m] = write(memory["label"][m], index, label)
        return after


def generated(y: jax.Array, own: jax.Array, fused: jax.Array) -> jax.Array:
    """The label that relative distances `own` of a modality and `fused` of all suggest; all [B]."""
    fused_or_eps = jnp.where(fused + EPS == 0, EPS, fused + EPS)
    return 0.5 * y * own / fused_or_eps + 0.5 * (y + own - fused)


def _relative_distance(
    memory: Memory, name: str, feature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(α [B], whether there are both centres)."""
    label, known = memory["label"][name], memory["known"][name]
    positive, negative = jnp.where(label > 0, known, 0), jnp.where(label < 0, known, 0)  # [N]
    distance = lambda rows: jnp.linalg.norm(  # noqa: E731
        feature.astype(jnp.float32) - _centre(memory["feature"][name], rows)[None], axis=1
    )
    near, far = distance(positive), distance(negative)
    return (far - near) / (near + EPS), (positive.sum() > 0) & (negative.sum() > 0)


def _centre(features: jax.Array, rows: jax.Array) -> jax.Array:
    return rows @ features / jnp.maximum(rows.sum(), 1)


def _label(batch: Mapping) -> jax.Array:
    return batch["label"].reshape(-1).astype(jnp.float32)
