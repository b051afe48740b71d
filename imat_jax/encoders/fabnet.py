"""FAb-Net: one vector a face, from self-supervised learning on talking faces."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders import weights
from imat_jax.encoders.encoder import Encoder
from imat_jax.encoders.program import compiled

# Frames a program call. The first layers make 3 MB a frame: more frames would leave the cache.
BLOCK = 8
# XLA gives 2-D convolutions on CPU to YNNPACK; its own are 1.3 times as fast here.
ON_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


class FabNet(nnx.Module):
    """The encoder of FAb-Net (Wiles et al., BMVC 2018; `sse_ft` section 2.3), in inference.

    Every convolution but the first and the last is followed by a batch normalisation, which
    `convert.fabnet` folds into its weights. A frame's features depend on no other frame.

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


def encoder(path: str | os.PathLike) -> Encoder:
    """Face crops [N, 256, 256, 3] in uint8 -> [N, 256], N = 0 and thousands included.

    Args:
      path: `affectnet_4views.pth`, or another checkpoint of FAb-Net.

    Raises:
      DataError: no such file, or its parameters are not FAb-Net's.
    """
    from imat_jax import convert  # which imports this module

    if not pathlib.Path(path).is_file():
        raise DataError(
            f"{path}: no such file; download affectnet_4views.pth from the project page of FAb-Net "
            "(Wiles, Koepke, Zisserman; VGG, Oxford) and give its path"
        )
    saved = weights.named(path)
    try:
        model = convert.fabnet(saved)
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
    return Encoder("fabnet", modality, encode)
