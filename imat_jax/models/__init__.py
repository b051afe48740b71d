"""Models with one signature: `model(batch, *, deterministic, rngs=None) -> (outputs, extras)`.

An extra called `loss` [B] float32 is added to the task's loss, example by example.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from imat_jax.models import backends
from imat_jax.models.early import Early
from imat_jax.models.imat import IMAT, SSEFT, directions
from imat_jax.models.late import Late
from imat_jax.models.lmf import LMF
from imat_jax.models.mbt import MBT
from imat_jax.models.misa import MISA
from imat_jax.models.mult import MulT
from imat_jax.models.selfmm import SelfMM
from imat_jax.models.tfn import TFN

CLASSES = {
    "imat": IMAT, "sseft": IMAT, "early": Early, "late": Late, "tfn": TFN, "lmf": LMF,
    "mult": MulT, "misa": MISA, "selfmm": SelfMM, "mbt": MBT,
}  # fmt: skip
MODELS = tuple(CLASSES)
LEAST = dict(width=0, head_width=0, encoder_layers=0, ima_layers=1, heads=1, ffn=1)


def make(
    config, dims: Mapping[str, int], outputs: int, rngs: nnx.Rngs, *, dtype, max_frames, device
) -> nnx.Module:
    """The model that `config` (the `model` part of a run's config) names.

    It gets the keys that its constructor has arguments for; `config.NAME` holds those that are for
    the model NAME alone.

    Args:
      dims: {modality: feature width} of the modalities to use.
      outputs: K, the task's.
      dtype: compute dtype, "float32" or "bfloat16".
      max_frames: {modality: frames}, what learned position tables must hold.
      device: one of those that will run it.

    Raises:
      ValueError: no such model, or a value that it cannot have.
    """
    if config.name not in MODELS:
        raise ValueError(f"model.name is one of {MODELS}, not {config.name!r}")
    made = CLASSES[config.name]
    _check(config)
    named = arguments(made)
    options = {k: v for k, v in config.items() if k in named} | dict(config.get(config.name, {}))
    options |= {k: v or None for k, v in options.items() if k in ("width", "head_width")}
    options["input_dropout"] = dict(options["input_dropout"])
    layers = dict.fromkeys(dims, config.encoder_layers)
    if config.name == "sseft":
        # What makes it the published system is not up to the config.
        options |= SSEFT | {"head_width": None}
    if made is IMAT:
        options["directions"] = directions(config.directions)
        if config.name == "sseft" or not config.text_encoder:
            layers["text"] = 0
        options["encoder_layers"] = layers
    if made is MBT:
        layers = dict.fromkeys(dims, config.mbt.fusion_layers)
    if "attention" in named:
        with_layers = [m for m in dims if layers[m]]
        options["attention"] = backends.choose(
            options.get("attention", "auto"),  # runs of before have no such key
            device,
            dtype=dtype,
            head_widths=[(options["width"] or dims[m]) // config.heads for m in with_layers],
            frames=max((max_frames[m] for m in with_layers), default=0),
            dropout=config.attention_dropout,
        )
    if "max_frames" in named:
        options["max_frames"] = max_frames
    return made(dims, outputs, dtype=jnp.dtype(dtype), rngs=rngs, **options)


def _check(config, part: str = "model") -> None:
    """Raises `ValueError` where a rate or a size of `config`, or of a part of it, cannot be."""
    for key, value in config.items():
        name = f"{part}.{key}"
        if hasattr(value, "items"):
            _check(value, name)
        elif "dropout" in name and not 0 <= value < 1:
            raise ValueError(f"{name} is a rate from 0 to below 1, not {value}")
        elif key in LEAST and value < LEAST[key]:
            raise ValueError(f"{name} is {LEAST[key]} or more, not {value}")


def arguments(made: type) -> set[str]:
    """The keyword arguments of a class's constructor, those that it hands on included."""
    return {
        name
        for part in made.__mro__
        if "__init__" in vars(part) and part is not nnx.Module
        for name, p in inspect.signature(part.__init__).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
