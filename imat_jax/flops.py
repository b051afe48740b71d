"""Floating-point operations of a model on utterances of given lengths: of real frames only."""

from __future__ import annotations

import itertools
import math

import jax
import numpy as np
from flax import nnx

from imat_jax.encoders.bert import Bert
from imat_jax.models.encoder import Encoder
from imat_jax.models.imat import IMAT
from imat_jax.models.mbt import MBT
from imat_jax.models.misa import MISA
from imat_jax.models.mult import MulT
from imat_jax.models.summary import SummaryFusion
from imat_jax.tuning import Tuned


def forward(model: nnx.Module, lengths: np.ndarray) -> np.ndarray:
    """Operations of one forward pass, [N] float64; a training step takes three times as many.

    Matrix products only, two operations a multiply-add. What padding costs is not work done: it is
    left out, and so is a modality that an utterance does not have.

    Args:
      model: any of `models.MODELS`, with parameters or their shapes (`nnx.eval_shape`).
      lengths: [N, M] frames of the utterances in each of the model's modalities.
    """
    lengths = np.asarray(lengths, np.float64)
    if isinstance(model, Tuned):
        text = lengths[:, model.fusion.modalities.index("text")]
        return forward(model.fusion, lengths) + _bert(model.bert, text)
    frames = dict(zip(model.modalities, lengths.T, strict=True))
    products = next((f for kind, f in PRODUCTS.items() if isinstance(model, kind)), _early)
    return 2 * (np.zeros(len(lengths)) + products(model, frames))


def _imat(model: IMAT, frames: dict[str, np.ndarray]) -> np.ndarray:
    total, length = _kernels(model.head), {}
    for m, t in frames.items():
        operations, length[m] = _encoder(model.encoders[m], t)
        total = total + operations
    for m, n in model.pairs:
        query, key = model.encoders[m].width, model.encoders[n].width
        both = (frames[m] > 0) * (frames[n] > 0)
        for layer in model.stacks[f"{m}_from_{n}"].layers:
            heads = layer.attention.key.kernel.shape[1]
            per_query = 2 * query**2 + 2 * query * key + 2 * query * _inner(layer)
            total = total + both * (per_query + 2 * heads * key * length[n])
    if model.context is not None:
        width, layer = model.context.distance.shape[1], model.context.layer
        heads, near = layer.attention.key.kernel.shape[1], len(model.context.offsets)
        total = total + 4 * width**2 + 2 * width * _inner(layer) + 2 * heads * width * near
    return total


def _early(model: nnx.Module, frames: dict[str, np.ndarray]) -> float:
    return _kernels(model.head)


def _summaries(model: SummaryFusion, frames: dict[str, np.ndarray]) -> np.ndarray:
    """All but the encoders is used once an utterance."""
    return _kernels(model) - _kernels(model.encoders) + _encoders(model, frames)


def _misa(model: MISA, frames: dict[str, np.ndarray]) -> np.ndarray:
    present = sum((t > 0).astype(np.float64) for t in frames.values())
    width = model.shared.in_features
    layers = 4 * width**2 * present  # to a common space, shared, own, decoded
    tokens = 2 * present
    return (
        _encoders(model, frames) + layers + _attention(model.layer, width, tokens)
        + _kernels(model.head)
    )  # fmt: skip


def _mbt(model: MBT, frames: dict[str, np.ndarray]) -> np.ndarray:
    tokens, width = model.bottleneck.shape
    total = 0.0
    for m, t in frames.items():
        operations, length = _encoder(model.encoders[m], t)
        both = length + tokens * (t > 0)
        fusion = sum(_attention(layer[m], width, both) for layer in model.layers)
        total = total + operations + fusion + _kernels(model.out[m]) * (t > 0)
    return total


def _mult(model: MulT, frames: dict[str, np.ndarray]) -> np.ndarray:
    total = _kernels(model.block) + _kernels(model.out)
    for m, t in frames.items():
        total = total + t * (_kernels(model.project[m]) if m in model.project else 0)
    crossed = [(model.cross[f"{m}_from_{n}"], frames[m], frames[n]) for m, n in model.pairs]
    alone = [(model.memory[m], frames[m], frames[m]) for m in model.targets]
    for stack, t, s in itertools.chain(crossed, alone):
        width = stack.width
        for layer in stack.layers:
            there = (t > 0) * (s > 0)
            dense = t * 2 * width * (width + _inner(layer)) + there * s * 2 * width**2
            total = total + dense + 2 * t * s * width
    return total


PRODUCTS = {IMAT: _imat, MISA: _misa, SummaryFusion: _summaries, MBT: _mbt, MulT: _mult}


def _encoders(model: SummaryFusion, frames: dict[str, np.ndarray]) -> np.ndarray:
    total = 0.0
    for m, t in frames.items():
        encoder = model.encoders[m]
        there = (t > 0).astype(np.float64)
        has_layers = isinstance(encoder, Encoder)
        total = total + (_encoder(encoder, t)[0] if has_layers else there * _kernels(encoder))
    return total


def _encoder(encoder: Encoder, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(multiply-adds, length of the stream) of utterances of `t` frames."""
    there, width = (t > 0).astype(np.float64), encoder.width
    length = (t + (encoder.cls is not None or encoder.summarize is not None)) * there
    total = np.zeros(len(t))
    if encoder.project is not None:
        total += t * encoder.features * width
    if encoder.summarize is not None:
        total += there * 2 * encoder.features * width
    for layer in encoder.layers:
        total += _attention(layer, width, length)
    return total, length


def _attention(layer: nnx.Module, width: int, length: np.ndarray) -> np.ndarray:
    """Multiply-adds of a self-attention layer on streams of these lengths."""
    return length * (4 * width**2 + 2 * width * _inner(layer)) + 2 * length**2 * width


def _bert(model: Bert, tokens: np.ndarray) -> np.ndarray:
    config = model.config
    width = config.hidden_size
    per_token = 4 * width**2 + 2 * width * config.intermediate_size + 2 * tokens * width
    return 2 * config.num_hidden_layers * tokens * per_token


def _kernels(module: nnx.Module) -> float:
    """Multiply-adds of all weights, each used once."""
    return float(
        sum(
            math.prod(x.shape)
            for path, x in jax.tree.leaves_with_path(nnx.state(module, nnx.Param))
            if "kernel" in jax.tree_util.keystr(path)
        )
    )


def _inner(layer) -> int:
    return layer.ffn.inner.kernel.shape[1]
