"""Floating-point operations of a model on utterances of given lengths: of real frames only."""

from __future__ import annotations

import numpy as np

from imat_jax.encoders.bert import Bert
from imat_jax.models.imat import IMAT
from imat_jax.tuning import Tuned


def forward(model: IMAT | Tuned, lengths: np.ndarray) -> np.ndarray:
    """Operations of one forward pass, [N] float64; a training step takes three times as many.

    Matrix products only, two operations a multiply-add. What padding costs is not work done: it is
    left out, and so is a modality that an utterance does not have.

    Args:
      model: with parameters, or their shapes (`nnx.eval_shape`).
      lengths: [N, M] frames of the utterances in each of the model's modalities.
    """
    lengths = np.asarray(lengths, np.float64)
    if isinstance(model, Tuned):
        text = lengths[:, model.fusion.modalities.index("text")]
        return forward(model.fusion, lengths) + _bert(model.bert, text)
    total = np.zeros(len(lengths))
    frames, present = {}, {}
    for m, t in zip(model.modalities, lengths.T, strict=True):
        encoder, there = model.encoders[m], (t > 0).astype(np.float64)
        length = (t + (encoder.cls is not None or encoder.summarize is not None)) * there
        width = encoder.width
        frames[m], present[m] = length, there
        if encoder.project is not None:
            total += t * encoder.features * width
        if encoder.summarize is not None:
            total += there * 2 * encoder.features * width
        for layer in encoder.layers:
            total += length * (4 * width**2 + 2 * width * _inner(layer)) + 2 * length**2 * width
    for m, n in model.pairs:
        query, key = model.encoders[m].width, model.encoders[n].width
        both = present[m] * present[n]
        for layer in model.stacks[f"{m}_from_{n}"].layers:
            heads = layer.attention.key.kernel.shape[1]
            per_query = 2 * query**2 + 2 * query * key + 2 * query * _inner(layer)
            total += both * (per_query + 2 * heads * key * frames[n])
    if model.context is not None:
        width, layer = model.context.distance.shape[1], model.context.layer
        heads, near = layer.attention.key.kernel.shape[1], len(model.context.offsets)
        total += 4 * width**2 + 2 * width * _inner(layer) + 2 * heads * width * near
    for dense in (model.head.dense, model.head.out):
        total += np.prod(dense.kernel.shape)
    return 2 * total


def _bert(model: Bert, tokens: np.ndarray) -> np.ndarray:
    config = model.config
    width = config.hidden_size
    per_token = 4 * width**2 + 2 * width * config.intermediate_size + 2 * tokens * width
    return 2 * config.num_hidden_layers * tokens * per_token


def _inner(layer) -> int:
    return layer.ffn.inner.kernel.shape[1]
