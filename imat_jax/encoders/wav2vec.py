"""wav2vec 1.0: frames of speech at 100 Hz, from contrastive predictive coding."""

from __future__ import annotations

import ast
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders import weights
from imat_jax.encoders.encoder import SAMPLE_RATE, Encoder
from imat_jax.encoders.program import blocks, compiled
from imat_jax.encoders.state_dict import CONV1D, Source, filled, torch_name

URL = "https://dl.fbaipublicfiles.com/fairseq/wav2vec/wav2vec_large.pt"
LONGEST = 30  # seconds that are encoded in one piece
# Clips are padded to one of these lengths, in seconds, and those of one length go together.
LENGTHS = (*range(1, 11), 12, 14, 16, 20, 24, 28, 32)
TOGETHER = 16  # seconds of sound in one program call, unless one clip is longer

Layers = tuple[tuple[int, int, int], ...]  # (channels, kernel, stride) each


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a wav2vec checkpoint, and what fairseq takes where they are absent."""

    conv_feature_layers: Layers = ((512, 10, 5), (512, 8, 4), *[(512, 4, 2)] * 3)
    conv_aggregator_layers: Layers = ((512, 3, 1),) * 9
    no_conv_bias: bool = False
    agg_zero_pad: bool = False
    skip_connections_feat: bool = False
    skip_connections_agg: bool = False
    residual_scale: float = 0.5
    log_compression: bool = False
    activation: str = "relu"
    non_affine_group_norm: bool = False
    aggregator: str = "cnn"
    vq_type: str = "none"

    @classmethod
    def read(cls, options: Any) -> Options:
        """Of a checkpoint's `args`, a mapping or a namespace; other settings are ignored.

        Raises:
          ValueError: the model is another one: vq-wav2vec, a recurrent aggregator.
        """
        found = options if isinstance(options, Mapping) else getattr(options, "__dict__", None)
        if found is None:
            raise ValueError(f"the settings of a wav2vec are a mapping or a namespace: {options!r}")
        found = {f.name: found[f.name] for f in dataclasses.fields(cls) if f.name in found}
        for name in ("conv_feature_layers", "conv_aggregator_layers"):
            if name in found:
                found[name] = _layers(found[name])
        read = cls(**found)
        if (read.aggregator, read.vq_type) != ("cnn", "none"):
            raise ValueError(
                f"a wav2vec with aggregator {read.aggregator} and vq_type {read.vq_type}; only "
                "wav2vec 1.0 is read: cnn, none"
            )
        if read.activation not in ("relu", "gelu"):
            raise ValueError(f"wav2vec's activation is relu or gelu, not {read.activation}")
        if any(stride != 1 for _, _, stride in read.conv_aggregator_layers):
            raise ValueError("an aggregator with strides")
        return read


class Layer(nnx.Module):
    """Convolution over time without padding, GroupNorm with one group, activation."""

    def __init__(self, inputs, outputs, kernel, stride, activation, *, use_bias, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            inputs, outputs, (kernel,), stride, padding="VALID", use_bias=use_bias, rngs=rngs
        )
        self.scale = nnx.Param(jnp.ones((outputs,)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.activation = activation

    def __call__(self, x: jax.Array, frames: jax.Array) -> jax.Array:
        """x [B, T, C]; statistics are of the first `frames` [B] of the results -> [B, T', C']."""
        x = self.conv(x)
        real = (jnp.arange(x.shape[1])[None] < frames[:, None])[..., None]  # [B, T', 1]
        count = (jnp.maximum(frames, 1) * x.shape[2]).astype(x.dtype)[:, None, None]
        mean = jnp.where(real, x, 0).sum((1, 2), keepdims=True) / count
        variance = jnp.square(jnp.where(real, x - mean, 0)).sum((1, 2), keepdims=True) / count
        scale = self.scale[...][None, None] * jax.lax.rsqrt(variance + 1e-5)  # [B, 1, C']
        x = (x - mean) * scale + self.bias[...][None, None]
        return jax.nn.relu(x) if self.activation == "relu" else jax.nn.gelu(x, approximate=False)


class Wav2Vec(nnx.Module):
    """wav2vec (Schneider et al., Interspeech 2019; `sse_ft` section 2.2), in inference.

    `features` turns the waveform into z, one vector each 10 ms; `context` is causal and turns z
    into c. Make one with `from_state_dict`.
    """

    def __init__(self, options: Options, *, rngs: nnx.Rngs):
        kw = dict(activation=options.activation, rngs=rngs)
        self.options = options
        self.features, self.context, self.projections = nnx.List([]), nnx.List([]), nnx.List([])
        width = 1
        for channels, kernel, stride in options.conv_feature_layers:
            self.features.append(Layer(width, channels, kernel, stride, use_bias=False, **kw))
            width = channels
        for channels, kernel, stride in options.conv_aggregator_layers:
            self.context.append(Layer(width, channels, kernel, stride, use_bias=True, **kw))
            skip = nnx.data(None)  # a skip connection needs a projection where widths differ
            if options.skip_connections_agg and width != channels:
                skip = nnx.Conv(width, channels, (1,), use_bias=False, rngs=rngs)
            self.projections.append(skip)
            width = channels

    def __call__(
        self, wave: jax.Array, lengths: jax.Array | None = None, parity: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        """wave [B, L] at 16 kHz, in [-1, 1] -> (z [B, T, C], c [B, T, C']).

        T = `frames(L)`, 0 where L is shorter than the receptive field; of row b the first
        `frames(lengths[b])` are real.

        Args:
          wave: not normalised; padded at the end.
          lengths: [B] int, real samples of each row; None: all.
          parity: as published, every GroupNorm takes its mean and deviation over the whole row, so
            that features depend on how far it is padded. False: over real frames only, and a clip
            has the same features however it is padded.
        """
        options = self.options
        scale = math.sqrt(options.residual_scale)
        if lengths is None or parity:
            lengths = jnp.full(len(wave), wave.shape[1])
        x = wave[..., None]
        if not self.frames(wave.shape[1]):
            z, c = (layers[-1].conv.out_features for layers in (self.features, self.context))
            return jnp.zeros((len(wave), 0, z)), jnp.zeros((len(wave), 0, c))
        for layer, (_, kernel, stride) in zip(
            self.features, options.conv_feature_layers, strict=True
        ):
            before = x
            lengths = _count(lengths, kernel, stride)
            x = layer(x, lengths)  # [B, T, C]
            if options.skip_connections_feat and x.shape[2] == before.shape[2]:
                step = before.shape[1] // x.shape[1]
                x = (x + before[:, ::step][:, : x.shape[1]]) * scale
        if options.log_compression:
            x = jnp.log(jnp.abs(x) + 1)
        z = x
        mode = "constant" if options.agg_zero_pad else "edge"
        for layer, project in zip(self.context, self.projections, strict=True):
            before = x
            past = layer.conv.kernel_size[0] - 1
            x = layer(jnp.pad(x, ((0, 0), (past, 0), (0, 0)), mode=mode), lengths)
            if options.skip_connections_agg:
                x = (x + (before if project is None else project(before))) * scale
        return z, x

    def frames(self, samples: Any) -> Any:
        """Frames of as many samples, an int or an array of them."""
        for _, kernel, stride in self.options.conv_feature_layers:
            samples = _count(samples, kernel, stride)
        return np.maximum(samples, 0)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(stride for *_, stride in self.options.conv_feature_layers)

    @property
    def past(self) -> int:
        """Earlier frames of z that a frame of c sees."""
        return sum(kernel - 1 for _, kernel, _ in self.options.conv_aggregator_layers)


def from_state_dict(state_dict: Mapping[str, Any], options: Any) -> Wav2Vec:
    """wav2vec 1.0 (`sse_ft` section 2.2); the predictions of its training are left out.

    Args:
      state_dict: {name: array}, the checkpoint's `model`.
      options: the checkpoint's `args`, a mapping or a namespace; see `wav2vec.Options`.

    Raises:
      KeyError: parameters that the options need are missing; they are listed.
      ValueError: an array's shape does not fit the options, or the model is another one.
    """
    settings = Options.read(options)
    parts = {"features": "feature_extractor", "context": "feature_aggregator"}
    norms = {"features": 2, "context": 3}  # places in a layer's Sequential; convolutions: two less

    def source(path: tuple) -> Source:
        match path:
            case ("projections", i, "kernel"):
                return Source((f"feature_aggregator.residual_proj.{i}.weight",), CONV1D)
            case (part, i, "conv", leaf):
                name = f"{parts[part]}.conv_layers.{i}.{norms[part] - 2}.{torch_name(leaf)}"
                default = 0 if leaf == "bias" and settings.no_conv_bias else None
                return Source((name,), CONV1D if leaf == "kernel" else None, default)
            case (part, i, leaf):
                name = f"{parts[part]}.conv_layers.{i}.{norms[part]}.{torch_name(leaf)}"
                default = int(leaf == "scale") if settings.non_affine_group_norm else None
                return Source((name,), default=default)

    model = nnx.eval_shape(lambda: Wav2Vec(settings, rngs=nnx.Rngs(0)))
    return filled(model, state_dict, source, "a wav2vec 1.0")


def encoder(path: str | os.PathLike) -> Encoder:
    """Waveforms [L] at 16 kHz -> c [T, 512] at 100 Hz; T = 0 below 465 samples.

    Statistics are of real samples (`parity=False`): features do not depend on the batch. A clip of
    more than 30 s is encoded in equal pieces, each with what c sees of the piece before it and its
    own statistics; wav2vec was trained on pieces of 9.4 s.

    Args:
      path: `wav2vec_large.pt`, or another checkpoint of wav2vec 1.0.

    Raises:
      DataError: no such file, or its parameters are not wav2vec's.
    """
    if not pathlib.Path(path).is_file():
        raise DataError(f"{path}: no such file; download {URL} and give its path")
    saved = weights.named(path)
    if not all(isinstance(saved.get(part), Mapping) for part in ("args", "model")):
        raise DataError(
            f"{path}: a checkpoint of wav2vec 1.0 has its settings in `args` and its parameters in "
            f"`model`; this one holds {', '.join(map(str, saved))[:200]}"
        )
    try:
        model = from_state_dict(saved["model"], saved["args"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {error.args[0]}") from error
    program = compiled(model, lambda model, wave, lengths: model(wave, lengths, parity=False)[1])
    dim = model.context[-1].conv.out_features

    def encode(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        pieces = [(i, *cut) for i, wave in enumerate(inputs) for cut in _pieces(len(wave), model)]
        found: dict[int, np.ndarray] = {}
        padded = [_padded(stop - start) for _, start, stop, _ in pieces]
        for seconds in sorted(set(padded)):
            members = [p for p, s in enumerate(padded) if s == seconds]
            for rows in blocks(len(members), _together(seconds)):
                chosen, members = members[:rows], members[rows:]
                wave = np.zeros((rows, seconds * SAMPLE_RATE), np.float32)
                lengths = np.zeros(rows, np.int32)
                for row, p in enumerate(chosen):
                    i, start, stop, _ = pieces[p]
                    lengths[row] = stop - start
                    wave[row, : lengths[row]] = inputs[i][start:stop]
                frames = model.frames(lengths)
                for p, n, c in zip(chosen, frames, program(wave, lengths), strict=True):
                    found[p] = c[pieces[p][3] : n]
        clips = [[np.zeros((0, dim), np.float32)] for _ in inputs]
        for p, (i, *_) in enumerate(pieces):
            clips[i].append(found[p])
        return [np.concatenate(clip) for clip in clips]

    modality = Modality(
        dim, "wav2vec", weights.checkpoint(path), "c (context)", SAMPLE_RATE / model.hop
    )
    return Encoder(modality, encode)


def _pieces(samples: int, model: Wav2Vec) -> list[tuple[int, int, int]]:
    """(first sample, last + 1, frames to drop) of the equal pieces of a clip."""
    frames, hop = model.frames(samples), model.hop
    if not frames:
        return []
    most = LONGEST * SAMPLE_RATE // hop
    bounds = np.linspace(0, frames, -(-frames // most) + 1).astype(int)
    starts = np.maximum(bounds[:-1] - model.past, 0)
    return [
        (int(start * hop), int(samples - (frames - stop) * hop), int(first - start))
        for start, first, stop in zip(starts, bounds[:-1], bounds[1:], strict=True)
    ]


def _padded(samples: int) -> int:
    """Seconds that as many samples are padded to."""
    return next(seconds for seconds in LENGTHS if seconds * SAMPLE_RATE >= samples)


def _together(seconds: int) -> int:
    """Clips of such a length in one program call, a power of two."""
    return 1 << (max(TOGETHER // seconds, 1).bit_length() - 1)


def _count(length: Any, kernel: int, stride: int) -> Any:
    """Results of a convolution without padding; not above 0 where `length` is too short."""
    return (length - kernel) // stride + 1


def _layers(text: Any) -> Layers:
    """fairseq keeps layers as an expression, such as `[(512, 10, 5)] + [(512, 4, 2)] * 3`.

    Raises:
      ValueError: not lists of three whole numbers, added and multiplied.
    """

    def value(node: ast.expr) -> list:
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Mult(), ast.Constant(int(times))) if 0 < times < 100:
                return value(left) * times
        return list(ast.literal_eval(node))

    try:
        parsed = value(ast.parse(text, mode="eval").body) if isinstance(text, str) else text
        layers = tuple((int(c), int(k), int(s)) for c, k, s in parsed)
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"not a list of layers: {text!r}") from error
    if not layers or min(map(min, layers)) < 1:
        raise ValueError(f"not a list of layers: {text!r}")
    return layers
