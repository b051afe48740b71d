"""Baselines in the training step: all learn, on any mesh the same; what Self-MM remembers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from test_baselines import ROWS, made, make_batch, run

from configs import baselines
from imat_jax import experiment, models, sharding, update
from imat_jax.checkpoint import Checkpoints
from imat_jax.cli import UsageError
from imat_jax.data import builder, loader
from imat_jax.data.dataset import Dataset
from imat_jax.data.sources import synthetic

NAMES = [name for name in models.MODELS if name not in ("imat", "sseft")]
TX = optax.sgd(0.05)


@pytest.fixture(scope="module")
def scores(shared) -> Dataset:
    """The embedded corpus with a score for a label, which all models take."""

    def make(folder):
        corpus = synthetic.corpus({"train": 48, "valid": 8})
        value = dict(zip(synthetic.CLASS_NAMES, (-2.0, 0.0, -0.5, 1.5), strict=True))
        scored = [
            dataclasses.replace(u, label=value[u.annotations["category"]])
            for u in corpus.utterances
        ]
        corpus = dataclasses.replace(corpus, utterances=scored, task="sentiment", class_names=())
        builder.build(corpus, folder / "scores", progress=False)

    return Dataset.open(shared("scores", make) / "scores")


@pytest.fixture(autouse=True)
def promotion(library_promotion):
    """Optax promotes inside."""


def small(dataset, name, **changes):
    config = baselines.get_config(f"model={name},modalities=text+audio")
    config.dataset = str(dataset.path)
    config.update_from_flattened_dict(
        {"model.width": 8, "model.heads": 2, "model.ffn": 8, "model.head_width": 8,
         "model.modality_dropout": 0.1, "model.mult.layers": 1, "model.mult.memory_layers": 1,
         "model.tfn.tensor_width": 3, "mesh.fsdp_min": 64, "data.buckets": 1, "batch_size": 20}
        | changes
    )  # fmt: skip
    return config


def on_one_device(run):
    mesh = sharding.make_mesh(dict(data=1, fsdp=1, model=1), jax.devices()[:1])
    net = experiment.network(run.config, run.dataset.metadata, mesh)
    return dataclasses.replace(run, **vars(net))


def placed(state, run):
    """A copy of `state` as it lies in `run`."""
    put = lambda x, like: jax.device_put(np.array(x), like.sharding)  # noqa: E731
    return jax.tree.map(put, state, update.like(run, TX))


def updated(run, state, steps, first=0):
    """(losses, state) after some updates; an epoch is three."""
    step = update.make_update(run, TX)
    split = run.split("train", seed=0, steps=first + steps)
    losses = []
    for batch in loader.read(split, start=first):
        state, values = step(state, sharding.put(batch, run.mesh))
        losses.append(float(values["loss"]))
    return losses, state


def assert_close(one, other):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)  # noqa: E731
    jax.tree.map(close, jax.device_get(one), jax.device_get(other))


@pytest.mark.parametrize("name", NAMES)
def test_a_mesh_learns_what_one_device_learns(scores, name):
    """Dropout and all; of Self-MM into the second epoch, where labels are generated."""
    mesh = {f"mesh.{axis}": 2 for axis in sharding.AXES}
    run = experiment.make(small(scores, name, **mesh))
    one = on_one_device(run)
    state = update.make_initial(run, TX)(0)
    start = jax.device_get(state)
    losses, state = updated(run, state, 5)
    expected, alone = updated(one, placed(start, one), 5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len(set(losses)) == 5 and np.isfinite(losses).all()
    assert_close(state["params"], alone["params"])
    if name == "selfmm":
        assert_close(state["memory"], alone["memory"])
        labels = jax.device_get(state["memory"]["label"])
        assert np.abs(labels["text"] - labels["fusion"]).max() > 0.1  # they were moved
        for array in jax.tree.leaves(state["memory"]):
            assert array.sharding.is_fully_replicated


def test_self_mm_resumes_bit_by_bit_and_accumulates(scores, tmp_path):
    off = dict.fromkeys(("dropout", "attention_dropout", "modality_dropout"), 0.0)
    off = {f"model.{k}": v for k, v in off.items()}
    whole, parts = (
        on_one_device(experiment.make(small(scores, "selfmm", batch_size=16, accumulate=n, **off)))
        for n in (1, 2)
    )
    start = jax.device_get(update.make_initial(whole, TX)(0))
    losses, state = updated(whole, placed(start, whole), 4)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, state)
    more, state = updated(whole, state, 2, first=4)
    checkpoints.wait()
    restored = checkpoints.restore(update.like(whole, TX))
    again, resumed = updated(whole, restored, 2, first=4)
    checkpoints.close()
    assert more == again
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (state, resumed)))
    in_parts, accumulated = updated(parts, placed(start, parts), 6)
    np.testing.assert_allclose(in_parts, losses + more, rtol=1e-5)
    assert_close(accumulated["memory"], state["memory"])


def test_self_mm_has_no_mixtures(scores):
    with pytest.raises(UsageError, match=r"selfmm: a mixture has no label"):
        run = experiment.make(small(scores, "selfmm", **{"data.mixup": 0.4, "batch_size": 24}))
        update.make_update(run, TX)


def test_self_mm_on_classes_is_an_error(tiny_dataset):
    with pytest.raises(UsageError, match=r"config: selfmm is for the task sentiment"):
        experiment.make(small(tiny_dataset, "selfmm", batch_size=24))


STEPS = 400


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_a_few_utterances_learned_by_heart(name, library_promotion):
    graphdef, params = made(name)
    batch = make_batch()
    target = jnp.asarray(np.random.RandomState(5).randn(ROWS, 1), jnp.float32)

    tx = optax.adam(0.005)

    @jax.jit
    def step(params, state, key):
        def loss(params):
            model, rngs = nnx.merge(graphdef, params), nnx.Rngs(dropout=key)
            outputs, extras = model(batch, deterministic=False, rngs=rngs)
            extra = extras["loss"].mean() if "loss" in extras else jnp.float32(0)
            return jnp.square(outputs[:, :1] - target).mean() + 0.01 * extra

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state)
        return value, grads, optax.apply_updates(params, updates), state

    state = tx.init(params)
    value, grads, *_ = step(params, state, jax.random.key(0))
    for path, g in jax.tree.leaves_with_path(grads):
        assert np.isfinite(g).all() and np.abs(g).max() > 0, path
    assert step(params, state, jax.random.key(0))[0] == value
    assert abs(step(params, state, jax.random.key(1))[0] - value) > 1e-5
    error = lambda p: np.abs(run(graphdef, p, batch)[0][:, :1] - target).mean()  # noqa: E731
    before = error(params)
    for i in range(STEPS):
        _, _, params, state = step(params, state, jax.random.key(i))
    assert error(params) < 0.3 * before, (before, error(params))
