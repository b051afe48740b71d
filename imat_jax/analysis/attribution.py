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
from imat_jax.experiment import Experiment
from imat_jax.models.context import offsets as context_offsets


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
      context: {-1: weight of the utterance before it in its group}, …, mean of heads; of those that
        are there. None: the model has no context. In it, gradients are of the utterance's own
        frames, its neighbours as they are.
    """

    row: int
    outputs: np.ndarray
    answer: int
    attention: Mapping[str, np.ndarray]
    gradient: Mapping[str, np.ndarray]
    integrated: Mapping[str, np.ndarray]
    context: Mapping[int, float] | None = None


def make_step(experiment: Experiment, steps: int = 32) -> Callable:
    """`step(params, batch) -> (outputs, answer, weights, gradient, integrated)`, jitted.

    [B, K]; [B]; {"ima/text<-audio": [B, S], "context": [B, N]}, S with a learned CLS first;
    {m: [B, T]} twice. The batch has besides `explained` [B]: 1 for the rows whose answers are
    explained, by their own frames, else 0; none is another's neighbour.

    Args:
      steps: of the sum that stands for the integral, at the middles of equal parts.
    """
    task, statistics = experiment.task, experiment.dataset.metadata["statistics"]
    mean = {m: np.asarray(statistics[m]["mean"], np.float32) for m in experiment.dims}

    def step(params, batch):
        explained = batch["explained"]
        features = {m: batch[m].astype(jnp.float32) for m in experiment.dims if batch[m].ndim == 3}

        def total_odds(features, answer=None):
            outputs, extras = inference.forward(experiment, params, {**batch, **features})
            answer = targets.chosen(task, outputs) if answer is None else answer
            odds = jnp.take_along_axis(targets.odds(task, outputs), answer[:, None], axis=1)
            weights = {
                k: v.mean(axis=tuple(range(1, v.ndim - 1)))  # layers and heads
                for k, v in extras.items()
                if k == "context" or k.startswith("ima/")
            }
            return (explained * odds[:, 0]).sum(), (outputs, answer, weights)

        gradient, (outputs, answer, weights) = jax.grad(total_odds, has_aux=True)(features)
        away = {
            m: explained[:, None, None] * (x - mean[m][None, None]) for m, x in features.items()
        }

        def add(total, share):
            between = {m: features[m] - (1 - share) * away[m] for m in away}
            new, _ = jax.grad(total_odds, has_aux=True)(between, answer)
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
        before, _ = batches.around(members)
        places = {row: len(before) + i for i, row in enumerate(members.tolist()) if row in wanted}
        # With context an answer rests on other rows too: then one at a time is explained.
        for rows in [[r] for r in places] if experiment.config.model.context else [list(places)]:
            if not rows:
                continue
            batch = batches[number]
            explained = np.zeros(len(batch["weight"]), np.float32)
            explained[[places[r] for r in rows]] = 1
            placed = sharding.put(batch | {"explained": explained}, experiment.mesh)
            results = jax.device_get(step(params, placed))
            for row in rows:
                masks = {m: batch[f"{m}_mask"][places[row]] for m in experiment.dims}
                found.append(_one(row, places[row], masks, experiment, *results))
    return sorted(found, key=lambda one: one.row)


def _one(row, i, masks, experiment, outputs, answer, weights, *gradients) -> Attribution:
    attention, context = {}, None
    for name, values in weights.items():
        if name == "context":
            config = experiment.config.model
            offsets = context_offsets(config.context, config.bidirectional)
            context = {n: float(w) for n, w in zip(offsets, values[i], strict=True) if w}
            continue
        query, key = name.removeprefix("ima/").split("<-")
        if masks[query].any() and masks[key].any():
            own = values.shape[1] - len(masks[key])  # a learned CLS comes before the frames
            attention[f"{query}<-{key}"] = values[i, own:][masks[key]]
    real = [{m: v[i][masks[m]] for m, v in g.items() if masks[m].any()} for g in gradients]
    return Attribution(row, outputs[i], int(answer[i]), attention, *real, context)
