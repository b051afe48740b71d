"""Models with one signature: `model(batch, *, deterministic, rngs=None) -> (outputs, extras)`."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from imat_jax.models import backends
from imat_jax.models.imat import IMAT, SSEFT, directions

MODELS = ("imat", "sseft")


def make(
    config, dims: Mapping[str, int], outputs: int, rngs: nnx.Rngs, *, dtype, max_frames, device
):
    """The model that `config` (the `model` part of a run's config) names.

    Args:
      dims: {modality: feature width} of the modalities to use.
      outputs: K, the task's.
      dtype: compute dtype, "float32" or "bfloat16".
      max_frames: {modality: frames}, what learned position tables must hold.
      device: one of those that will run it.
    """
    if config.name not in MODELS:
        raise ValueError(f"model.name is one of {MODELS}, not {config.name!r}")
    options = {k: v for k, v in config.items() if k not in ("name", "features")}
    options |= {k: v or None for k, v in options.items() if k in ("width", "head_width")}
    options["input_dropout"] = dict(options["input_dropout"])
    layers = dict.fromkeys(dims, config.encoder_layers)
    options["directions"] = directions(config.directions)
    if config.name == "sseft":
        # What makes it the published system is not up to the config.
        options |= SSEFT | {"head_width": None}
    if not options.pop("text_encoder") or config.name == "sseft":
        layers["text"] = 0
    with_layers = [m for m in dims if layers[m]]
    options["attention"] = backends.choose(
        options.get("attention", "auto"),  # runs of before have no such key
        device,
        dtype=dtype,
        head_widths=[(options["width"] or dims[m]) // config.heads for m in with_layers],
        frames=max((max_frames[m] for m in with_layers), default=0),
        dropout=config.attention_dropout,
    )
    options["encoder_layers"] = layers
    return IMAT(dims, outputs, max_frames=max_frames, dtype=jnp.dtype(dtype), rngs=rngs, **options)
