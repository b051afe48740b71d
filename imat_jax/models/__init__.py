"""Models with one signature: `model(batch, *, deterministic, rngs=None) -> (outputs, extras)`."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from imat_jax.models.imat import IMAT, SSEFT

MODELS = ("imat", "sseft")


def make(config, dims: Mapping[str, int], outputs: int, rngs: nnx.Rngs, *, dtype, max_frames):
    """The model that `config` (the `model` part of a run's config) names.

    Args:
      dims: {modality: feature width} of the modalities to use.
      outputs: K, the task's.
      dtype: compute dtype, "float32" or "bfloat16".
      max_frames: {modality: frames}, what learned position tables must hold.
    """
    if config.name not in MODELS:
        raise ValueError(f"model.name is one of {MODELS}, not {config.name!r}")
    options = {k: v for k, v in config.items() if k not in ("name", "features")}
    options |= {k: v or None for k, v in options.items() if k in ("width", "head_width")}
    options["input_dropout"] = dict(options["input_dropout"])
    if config.name == "sseft":
        # What makes it the published system is not up to the config.
        encoder_layers = {
            "text": 0,
            "audio": config.encoder_layers,
            "vision": config.encoder_layers,
        }
        options |= SSEFT | {"encoder_layers": encoder_layers, "head_width": None}
    return IMAT(dims, outputs, max_frames=max_frames, dtype=jnp.dtype(dtype), rngs=rngs, **options)
