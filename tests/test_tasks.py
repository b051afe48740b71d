"""Tasks: losses against NumPy, constants to beat, which way a metric goes."""

import jax.numpy as jnp
import numpy as np
import pytest

from imat_jax import losses, optim, tasks
from imat_jax.metrics import UndefinedMetricWarning

RNG = np.random.RandomState(0)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_regression_losses():
    outputs, label = RNG.randn(6, 1).astype("float32"), RNG.randn(6).astype("float32")
    np.testing.assert_allclose(losses.l1(outputs, label), np.abs(outputs[:, 0] - label), rtol=1e-6)
    np.testing.assert_allclose(losses.mse(outputs, label), (outputs[:, 0] - label) ** 2, rtol=1e-6)
    wide = RNG.randn(6, 3).astype("float32")
    got = losses.l1(wide, wide + jnp.asarray([[1.0, 2.0, 6.0]]))
    np.testing.assert_allclose(got, np.full(6, 3.0), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy(smoothing):
    outputs, label = RNG.randn(5, 4).astype("float32"), np.asarray([0, 3, 2, 2, 1])
    target = np.eye(4)[label] * (1 - smoothing) + smoothing / 4
    expected = -(target * np.log(softmax(outputs))).sum(axis=1)
    got = losses.cross_entropy(jnp.asarray(outputs), jnp.asarray(label), smoothing)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_binary_cross_entropy_is_presence_above_zero():
    outputs = RNG.randn(4, 6).astype("float32")
    label = np.asarray([0.0, 0.33, 1, 3, 0, 0], np.float32) * np.ones((4, 1), np.float32)
    p = 1 / (1 + np.exp(-outputs))
    expected = -np.where(label > 0, np.log(p), np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(losses.binary_cross_entropy(outputs, label), expected, rtol=1e-5)


def test_binary_pairs_sum_over_emotions():
    outputs, label = RNG.randn(3, 8).astype("float32"), np.eye(4, dtype=np.float32)[:3]
    chances = softmax(outputs.reshape(3, 4, 2))
    picked = np.where(label > 0, chances[..., 1], chances[..., 0])
    expected = -np.log(picked).sum(axis=1)
    np.testing.assert_allclose(losses.binary_pairs(outputs, label), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "classes", "outputs", "label"),
    [
        ("sentiment", (), 1, RNG.uniform(-3, 3, 40).astype("float32")),
        ("multiclass", ("a", "b", "c"), 3, np.arange(40) % 3),
        ("multilabel", ("a", "b"), 2, RNG.randint(0, 3, (40, 2)).astype("float32")),
        ("binary_pairs", ("a", "b"), 4, RNG.randint(0, 2, (40, 2)).astype("float32")),
        ("dimensions", ("valence", "arousal"), 2, RNG.uniform(1, 5, (40, 2)).astype("float32")),
    ],
)
def test_every_task_scores_its_headline(name, classes, outputs, label):
    task = tasks.make(name, classes)
    assert task.outputs == outputs
    out = RNG.randn(40, outputs).astype("float32")
    assert np.isfinite(task.score(label, out)[task.headline])
    loss = task.loss(jnp.asarray(out), jnp.asarray(label))
    assert loss.shape == (40,) and loss.dtype == jnp.float32
    assert len(task.decode(out)) == 40
    assert tasks.trivial_outputs(task, label, 7).shape == (7, outputs)


def test_trivial_answers():
    majority = tasks.make("multiclass", ("a", "b"))
    out = tasks.trivial_outputs(majority, np.asarray([0, 1, 1]), 4)
    assert majority.score(np.asarray([1, 1, 0, 1]), out)["acc"] == 0.75
    median = tasks.make("sentiment")
    out = tasks.trivial_outputs(median, np.asarray([0.0, 1.0, 3.0], np.float32), 2)
    with pytest.warns(UndefinedMetricWarning, match="corr"):
        assert median.score(np.asarray([1.0, 2.0], np.float32), out)["mae"] == 0.5


def test_degrees_of_dimensions_are_scored_where_a_midpoint_is_given():
    label = np.asarray([[1.0], [4.0], [5.0], [2.0]], np.float32)
    plain = tasks.make("dimensions", ("valence",)).score(label, label)
    assert plain["ccc"] == pytest.approx(1) and "acc/valence" not in plain
    degrees = tasks.make("dimensions", ("valence",), threshold=3.0).score(label, label)
    assert degrees["acc/valence"] == 1


@pytest.mark.parametrize(
    ("args", "kw", "message"),
    [
        (("sentimental",), {}, "task is one of"),
        (("multiclass",), {}, "needs class_names"),
        (("multiclass", ("a",)), {"loss": "mse"}, "does not go with"),
        (("sentiment",), {"loss": "huber"}, "does not go with"),
    ],
)
def test_wrong_tasks(args, kw, message):
    with pytest.raises(ValueError, match=message):
        tasks.make(*args, **kw)


def test_direction_of_metrics():
    assert tasks.higher_is_better("acc2_has0") and tasks.higher_is_better("ccc/valence")
    assert not tasks.higher_is_better("mae/valence") and not tasks.higher_is_better("loss")


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_schedules(name):
    from configs import common

    config = common.get_config().optim
    config.schedule = name
    rate = optim.schedule(config, 100)
    assert rate(0) == 0 and float(rate(10)) == pytest.approx(config.lr)
    assert float(rate(100)) == pytest.approx(config.lr if name == "constant" else 0, abs=1e-9)


def test_only_kernels_decay():
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "cls": jnp.ones(2)}
    assert optim.kernels(params) == {"dense": {"kernel": True, "bias": False}, "cls": False}
