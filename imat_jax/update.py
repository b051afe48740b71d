"""The train state and one update of it: pure functions of a network, an optimiser and a batch.

The state is a plain dict, {params, opt_state, step, rng} and, with a moving average, ema. Its
arrays lie as `sharding.RULES` say. Of Self-MM it has `memory` too, what the labels of single
modalities are generated from; that is whole on every device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from imat_jax import sharding, tuning
from imat_jax.cli import UsageError
from imat_jax.data.statistics import standardize
from imat_jax.experiment import Experiment, Network
from imat_jax.mixup import mixup
from imat_jax.models.selfmm import SelfMM
from imat_jax.models.unimodal_labels import Labels

State = dict[str, Any]


def make_initial(net: Network, tx: optax.GradientTransformation) -> Callable[[int], State]:
    """`initial(seed)`: the state before the first update, made where it will live."""

    # The seed is an argument, so that all seeds share one compiled program.
    def make(key: jax.Array) -> State:
        return _around(net, tx, net.params(jax.random.fold_in(key, 0)), key)

    where = jax.tree.map(lambda x: x.sharding, like(net, tx))
    jitted = jax.jit(make, out_shardings=where)

    def initial(seed: int) -> State:
        state = jitted(jax.random.key(seed))
        return tuning.pretrained(state, net.text) if net.text else state

    return initial


def like(net: Network, tx: optax.GradientTransformation) -> State:
    """Shapes, dtypes and placement of the state's arrays."""
    shapes = jax.eval_shape(functools.partial(_around, net, tx), net.abstract, jax.random.key(0))
    memory = shapes.pop("memory", None)
    placed = sharding.placed(shapes, net.mesh, net.config.mesh.fsdp_min)
    if memory:
        whole = sharding.replicated(net.mesh)
        at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)  # noqa: E731
        placed["memory"] = jax.tree.map(at, memory)
    return placed


def _around(
    net: Network, tx: optax.GradientTransformation, params: nnx.State, key: jax.Array
) -> State:
    state = {
        "params": params,
        "opt_state": tx.init(params),
        "step": jnp.zeros((), jnp.int32),
        "rng": jax.random.key_data(jax.random.fold_in(key, 1)),
    }
    if net.config.optim.ema:
        state["ema"] = params
    if labels := _labels(net):
        state["memory"] = labels.empty()
    return state


def _labels(net: Network) -> Labels | None:
    """Self-MM's generation of labels, or None of another model."""
    model = nnx.merge(net.graphdef, net.abstract)  # shapes only
    model = model.fusion if net.text else model
    if not isinstance(model, SelfMM):
        return None
    if net.config.data.mixup:
        raise UsageError("model.name=selfmm: a mixture has no label of its own; leave data.mixup 0")
    size = net.config.batch_size
    # Without a dataset, in a dry run, nobody knows how many there are.
    examples = len(net.dataset.index("train")["label"]) if isinstance(net, Experiment) else size
    return Labels(examples, size, model.modalities, model.head_width, model.label_range)


def make_update(net: Network, tx: optax.GradientTransformation) -> Callable:
    """`update(state, batch) -> (state, {"loss", "grad_norm"})`, jitted, the old state donated.

    The loss is the weighted mean over the batch of the task's and what the model adds to it (the
    extra `loss`). `config.accumulate` microbatches go through the
    model one after the other; their losses and gradients are summed, each divided by the weight of
    the whole batch, so that the update is that of the whole batch whatever its padding. The
    randomness of step s is `fold_in(rng, s)`.
    """
    config = net.config
    alpha, count = config.data.mixup, config.accumulate
    labels = _labels(net)

    def loss_fn(params, batch, total, key):
        outputs, extras = net.apply(params, batch, deterministic=False, rngs=nnx.Rngs(dropout=key))
        loss = net.task.loss(outputs, batch["label"])  # [B]
        if alpha:
            other = net.task.loss(outputs, batch["other_label"])
            loss = batch["share"] * loss + (1 - batch["share"]) * other
        if "loss" in extras:
            loss += extras["loss"]
        seen = {k: v for k, v in extras.items() if k.startswith(("feature/", "present/"))}
        return (loss * batch["weight"]).sum() / total, seen if labels else {}

    def loss_and_gradients(params, batch, key):
        total = jnp.maximum(batch["weight"].sum(), 1)
        gradients = jax.value_and_grad(loss_fn, has_aux=True)
        if count == 1:
            return gradients(params, batch, total, key)

        def add(sums, part):
            i, rows = part
            (loss, seen), grads = gradients(params, rows, total, jax.random.fold_in(key, 2 + i))
            return jax.tree.map(jnp.add, sums, (loss, grads)), seen

        zeros = jax.tree.map(jnp.zeros_like, (total, params))
        parts = jnp.arange(count), microbatches(batch, count, net.mesh)
        (loss, grads), seen = jax.lax.scan(add, zeros, parts)
        return (loss, jax.tree.map(together, seen)), grads

    def update(state, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state["rng"]), state["step"])
        if net.statistics:
            batch = standardize(batch, net.statistics)
        if alpha:
            batch, share, partner = mixup(batch, jax.random.fold_in(key, 1), alpha)
            batch = batch | {"share": share, "other_label": batch["label"][partner]}
        if labels:
            batch = batch | labels.recall(state["memory"], batch, state["step"])
        (loss, seen), grads = loss_and_gradients(state["params"], batch, key)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        if net.text:
            updates = tuning.scaled(updates, config.tune.lr_scale)
        params = optax.apply_updates(state["params"], updates)
        if "ema" in state:
            # A short memory at first, or the initial weights would stay in the average.
            step = state["step"].astype(jnp.float32)
            decay = jnp.minimum(config.optim.ema, (1 + step) / (10 + step))
            state = state | {"ema": optax.incremental_update(params, state["ema"], 1 - decay)}
        if labels:
            memory = labels.remember(state["memory"], batch, seen, state["step"])
            state = state | {"memory": memory}
        state = state | {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        return state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

    where = jax.tree.map(lambda x: x.sharding, like(net, tx))
    return jax.jit(update, donate_argnums=0, out_shardings=(where, sharding.replicated(net.mesh)))


def microbatches(batch: dict[str, jax.Array], count: int, mesh) -> dict[str, jax.Array]:
    """[B, …] -> [count, B / count, …]; every device keeps its own rows, so that nothing moves."""
    where = NamedSharding(mesh, P(None, *sharding.BATCH))

    def split(x):
        x = x.reshape(len(x) // count, count, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, where)

    return {name: split(x) for name, x in batch.items()}


def together(x: jax.Array) -> jax.Array:
    """The inverse of `microbatches`: [count, B / count, …] -> [B, …], in the batch's order."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
