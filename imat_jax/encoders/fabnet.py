"""FAb-Net: one vector a face, from self-supervised learning on talking faces."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders import weights
from imat_jax.encoders.encoder import Encoder
from imat_jax.encoders.program import compiled
from imat_jax.encoders.state_dict import CONV2D, Source, filled, require, torch_name

# Frames a program call. The first layers make 3 MB a frame: more frames would leave the cache.
BLOCK = 8
# XLA gives 2-D convolutions on CPU to YNNPACK; its own are 1.3 times as fast here.
ON_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


class FabNet(nnx.Module):
    """The encoder of FAb-Net (Wiles et al., BMVC 2018; `sse_ft` section 2.3), in inference.

    Every convolution but the first and the last is followed by a batch normalisation, which
    `from_state_dict` folds into its weights. A frame's features depend on no other frame.

    Args:
      channels: of the picture, and of each convolution's output.
    """

    def __init__(
        self, channels: Sequence[int] = (3, 32, 64, 128, 256, 256, 256, 256, 256), *, rngs: nnx.Rngs
    ):
        self.convs = nnx.List(
            [
                nnx.Conv(inputs, outputs, (4, 4), strides=2, padding=1, rngs=rngs)
                for inputs, outputs in itertools.pairwise(channels)
            ]
        )

    def __call__(self, frames: jax.Array) -> jax.Array:
        """frames [N, 256, 256, 3], RGB, float32 in [0, 1] -> [N, 256]."""
        x = _of_few_channels(self.convs[0], frames)
        for conv in self.convs[1:]:
            x = conv(nnx.leaky_relu(x, 0.2))  # [N, 64, 64, 64] … [N, 1, 1, 256]
        return jnp.squeeze(x, (1, 2))


def _of_few_channels(conv: nnx.Conv, x: jax.Array) -> jax.Array:
    """`conv(x)`, x [N, H, W, C], where C is small.

    A square of 2 x 2 pixels is one pixel of 4 C channels to a convolution of half the width, which
    fills the processor's registers better.
    """
    n, h, w, c = x.shape
    squares = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    squares = squares.reshape(n, h // 2 + 1, 2, w // 2 + 1, 2, c).transpose(0, 1, 3, 2, 4, 5)
    kernel = conv.kernel[...].reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5)
    x = jax.lax.conv_general_dilated(
        squares.reshape(n, h // 2 + 1, w // 2 + 1, 4 * c),
        kernel.reshape(2, 2, 4 * c, -1),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return x + conv.bias[...][None, None, None]


def from_state_dict(state_dict: Mapping[str, Any]) -> FabNet:
    """FAb-Net's encoder with its batch normalisations folded in (`sse_ft` section 2.3).

    Args:
      state_dict: {name: array}, names `encoder.0.weight` and so on behind any prefix, or the whole
        published file, which has them in `state_dict_model`.

    Raises:
      KeyError: parameters are missing; they are listed.
      ValueError: an array's shape does not fit; it is named.
    """
    state_dict = state_dict.get("state_dict_model", state_dict)
    arrays = {re.sub(r"^.*\bencoder\.", "encoder.", name): a for name, a in state_dict.items()}
    convs = [f"encoder.{i}" for i in (0, 2, 5, 8, 11, 14, 17, 20)]
    norms = [f"encoder.{i}" for i in (3, 6, 9, 12, 15, 18)]  # of all but the first and the last
    leaves = ("weight", "bias", "running_mean", "running_var")
    names = [f"{conv}.{leaf}" for conv in convs for leaf in leaves[:2]]
    names += [f"{norm}.{leaf}" for norm in norms for leaf in leaves]
    require(arrays, names, "a FAb-Net")
    arrays = {name: np.asarray(arrays[name], np.float64) for name in names}
    for conv, norm in zip(convs[1:-1], norms, strict=True):
        weight, bias, mean, variance = (arrays[f"{norm}.{leaf}"] for leaf in leaves)
        scale = weight / np.sqrt(variance + 1e-5)
        arrays[f"{conv}.weight"] = arrays[f"{conv}.weight"] * scale[:, None, None, None]
        arrays[f"{conv}.bias"] = (arrays[f"{conv}.bias"] - mean) * scale + bias
    shapes = [arrays[f"{conv}.weight"].shape for conv in convs]
    channels = [shapes[0][1], *(shape[0] for shape in shapes)]
    model = nnx.eval_shape(lambda: FabNet(channels, rngs=nnx.Rngs(0)))

    def source(path: tuple) -> Source:
        _, layer, leaf = path
        axes = CONV2D if leaf == "kernel" else None
        return Source((f"{convs[layer]}.{torch_name(leaf)}",), axes)

    return filled(model, arrays, source, "a FAb-Net")


def encoder(path: str | os.PathLike) -> Encoder:
    """Face crops [N, 256, 256, 3] in uint8 -> [N, 256], N = 0 and thousands included.

    Args:
      path: `affectnet_4views.pth`, or another checkpoint of FAb-Net.

    Raises:
      DataError: no such file, or its parameters are not FAb-Net's.
    """
    if not pathlib.Path(path).is_file():
        raise DataError(
            f"{path}: no such file; download affectnet_4views.pth from the project page of FAb-Net "
            "(Wiles, Koepke, Zisserman; VGG, Oxford) and give its path"
        )
    saved = weights.named(path)
    try:
        model = from_state_dict(saved)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {error.args[0]}") from error
    program = compiled(model, lambda model, x: model(x.astype(jnp.float32) / 255), ON_CPU)
    dim = model.convs[-1].out_features

    def encode_one(crops: np.ndarray) -> np.ndarray:
        features = np.zeros((len(crops), dim), np.float32)
        for start in range(0, len(crops), BLOCK):
            block = crops[start : start + BLOCK]
            padded = np.zeros((BLOCK, *block.shape[1:]), np.uint8)
            padded[: len(block)] = block
            features[start : start + BLOCK] = program(padded)[: len(block)]
        return features

    def encode(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [encode_one(crops) for crops in inputs]

    modality = Modality(dim, "fabnet", weights.checkpoint(path), "encoder")
    return Encoder(modality, encode)
