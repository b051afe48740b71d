"""Which frames an output rests on: attention of the IMA stacks, gradients times input.

Attention says where a summary looked, not what that did to the output; and the frames that it is
over have passed self-attention, so each also holds something of its neighbours. Gradient times
input (Shrikumar et al. 2016) says what would change if a frame were a little more average; where a
network is sure, that says little, and its sign may mislead. Integrated gradients (Sundararajan et
al. 2017) add up what changes all the way from average frames to these. docs/explanations.md says
how often each finds the frames that matter, where that is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imat_jax import inference, sharding
from imat_jax.analysis import targets
from imat_jax.cli import UsageError
from imat_jax.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Of one utterance; frames are those that were read, in order.

    Attributes:
      row: in the split.
      outputs: [K].
      answer: which of `targets.names` is explained.
      attention: {"text<-audio": [frames of audio]}: how the query modality's summary spreads over
        the frames of the other, mean of layers and heads; only of pairs of which both are there. A
        learned summary of the other modality may have a share too, so they add up to 1 or less.
      gradient: {modality: [frames]}: sum over features of d odds / d x times (x - training mean),
        in units of the explained log-odds or score; not of token ids.
      integrated: the same with the gradient's mean along the straight line from the training mean:
        over all modalities, it adds up to the odds less those of mean frames.
    """

    row: int
    outputs: np.ndarray
    answer: int
    attention: Mapping[str, np.ndarray]
    gradient: Mapping[str, np.ndarray]
    integrated: Mapping[str, np.ndarray]


def make_step(experiment: Experiment, steps: int = 32) -> Callable:
    """`step(params, batch) -> (outputs, answer, attention, gradient, integrated)`, jitted.

    [B, K]; [B]; {pair: [B, S]}, S with a learned CLS first; {m: [B, T]} twice.

    Args:
      steps: of the sum that stands for the integral, at the middles of equal parts.

    Raises:
      UsageError: the model has context, so that an answer rests on other utterances too.
    """
    if experiment.config.model.context:
        raise UsageError("explain is for models that see one utterance; this one has model.context")
    task, statistics = experiment.task, experiment.dataset.metadata["statistics"]
    mean = {m: np.asarray(statistics[m]["mean"], np.float32) for m in experiment.dims}

    def step(params, batch):
        features = {m: batch[m].astype(jnp.float32) for m in experiment.dims if batch[m].ndim == 3}

        def explained(features, answer=None):
            outputs, extras = inference.forward(experiment, params, {**batch, **features})
            answer = targets.chosen(task, outputs) if answer is None else answer
            odds = jnp.take_along_axis(targets.odds(task, outputs), answer[:, None], axis=1)
            weights = {
                k.removeprefix("ima/"): v.mean(axis=(1, 2))
                for k, v in extras.items()
                if k.startswith("ima/")
            }
            return odds.sum(), (outputs, answer, weights)  # no example's odds depend on another's

        gradient, (outputs, answer, weights) = jax.grad(explained, has_aux=True)(features)
        away = {m: x - mean[m][None, None] for m, x in features.items()}

        def add(total, share):
            between = {m: mean[m][None, None] + share * away[m] for m in away}
            new, _ = jax.grad(explained, has_aux=True)(between, answer)
            return jax.tree.map(jnp.add, total, new), None

        shares = (np.arange(steps, dtype=np.float32) + np.float32(0.5)) / np.float32(steps)
        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, features), shares)
        per_frame = lambda g, x: (g * x).sum(axis=2)  # noqa: E731
        integrated = jax.tree.map(lambda g, x: per_frame(g, x) / steps, total, away)
        return outputs, answer, weights, jax.tree.map(per_frame, gradient, away), integrated

    return jax.jit(step, out_shardings=sharding.replicated(experiment.mesh))


def attribute(
    experiment: Experiment, params: Any, split: str, rows: Iterable[int] | None = None
) -> list[Attribution]:
    """Of the examples `rows` of a split (None: all), in the order of the split."""
    step, batches = make_step(experiment), experiment.split(split)
    wanted = set(range(len(batches.lengths)) if rows is None else rows)
    found = []
    for number, (_, members) in enumerate(batches.plan(0)):
        if wanted.isdisjoint(members.tolist()):
            continue
        batch = batches[number]
        results = jax.device_get(step(params, sharding.put(batch, experiment.mesh)))
        for i, row in enumerate(members.tolist()):
            if row in wanted:
                masks = {m: batch[f"{m}_mask"][i] for m in experiment.dims}
                found.append(_one(row, i, masks, *results))
    return sorted(found, key=lambda one: one.row)


def _one(row, i, masks, outputs, answer, weights, *gradients) -> Attribution:
    attention = {}
    for pair, values in weights.items():
        query, key = pair.split("<-")
        if masks[query].any() and masks[key].any():
            own = values.shape[1] - len(masks[key])  # a learned CLS comes before the frames
            attention[pair] = values[i, own:][masks[key]]
    real = [{m: v[i][masks[m]] for m, v in g.items() if masks[m].any()} for g in gradients]
    return Attribution(row, outputs[i], int(answer[i]), attention, *real)
