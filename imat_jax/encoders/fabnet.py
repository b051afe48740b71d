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
        x = frames
        for conv in self.convs[:-1]:
            x = nnx.leaky_relu(conv(x), 0.2)  # [N, 128, 128, 32] … [N, 2, 2, 256]
        return jnp.squeeze(self.convs[-1](x), (1, 2))


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
