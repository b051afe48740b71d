"""The optimiser and its schedule from a config."""

from __future__ import annotations

import jax
import optax

from imat_jax.cli import UsageError

SCHEDULES = ("constant", "linear", "cosine")


def schedule(config, total_steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, or down to 0 at `total_steps`.

    Args:
      config: `lr`, `schedule`, `warmup` (share of the steps).

    Raises:
      UsageError: there is no such schedule.
    """
    warmup = round(config.warmup * total_steps)
    rest = max(total_steps - warmup, 1)
    decays = {
        "constant": lambda: optax.constant_schedule(config.lr),
        "linear": lambda: optax.linear_schedule(config.lr, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(config.lr, rest),
    }
    if config.schedule not in decays:
        raise UsageError(f"optim.schedule is one of {SCHEDULES}, not {config.schedule!r}")
    decay = decays[config.schedule]()
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, config.lr, warmup), decay], [warmup])


def make(config, total_steps: int) -> optax.GradientTransformation:
    """AdamW with clipping by global norm.

    Args:
      config: `lr`, `schedule`, `warmup`, `b1`, `b2`, `eps`, `weight_decay`, `decay` ("kernels" or
        "all", the latter as published: biases, LayerNorms and embeddings too), `clip` (0: none).

    Raises:
      UsageError: there is no such schedule or decay.
    """
    if config.decay not in ("kernels", "all"):
        raise UsageError(f'optim.decay is "kernels" or "all", not {config.decay!r}')
    steps = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    adamw = optax.adamw(
        schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=kernels if config.decay == "kernels" else None,
    )
    return optax.chain(*steps, adamw)


def kernels(params):
    """True for the weights of dense layers, False for biases, norms, CLS and positions."""
    return jax.tree.map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path), params)
