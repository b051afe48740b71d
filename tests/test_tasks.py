"""Tasks: losses against NumPy, constants to beat, which way a metric goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4))
def test_the_ordinal_loss_is_least_at_the_label(labels):
    label = np.asarray(labels, np.float32)
    task = tasks.make("sentiment", loss="ordinal")
    climbed = np.clip(label[:, None] + 3 - np.arange(6), 1e-6, 1 - 1e-6).astype(np.float32)
    outputs = np.log(climbed / (1 - climbed))
    np.testing.assert_allclose(task.decode(outputs), label, atol=1e-4)
    slope = jax.grad(lambda o: task.loss(o, label).sum())(jnp.asarray(outputs))
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_the_ordinal_constant_is_the_median():
    task = tasks.make("sentiment", loss="ordinal")
    out = tasks.trivial_outputs(task, np.asarray([-1.0, 0.6, 3.0], np.float32), 2)
    np.testing.assert_allclose(task.decode(out), [0.6, 0.6], atol=1e-6)
    zero = tasks.trivial_outputs(task, np.asarray([0.0], np.float32), 1)
    assert task.decode(zero) == 0  # neither positive nor negative
    assert tasks.describe(task, out[0])["values"]["sentiment"] == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss(gamma):
    outputs, label = RNG.randn(5, 4).astype("float32"), np.asarray([0, 3, 2, 2, 1])
    p = softmax(outputs)[np.arange(5), label]
    got = losses.cross_entropy(jnp.asarray(outputs), jnp.asarray(label), focal=gamma)
    np.testing.assert_allclose(got, -((1 - p) ** gamma) * np.log(p), rtol=1e-5)
    pairs, bits = RNG.randn(3, 8).astype("float32"), np.eye(4, dtype=np.float32)[:3]
    chances = softmax(pairs.reshape(3, 4, 2))
    q = np.where(bits > 0, chances[..., 1], chances[..., 0])
    got = losses.binary_pairs(jnp.asarray(pairs), jnp.asarray(bits), focal=gamma)
    np.testing.assert_allclose(got, -((1 - q) ** gamma * np.log(q)).sum(axis=1), rtol=1e-4)
    certain = jnp.asarray([[100.0, -100.0]])
    slope = jax.grad(lambda o: losses.cross_entropy(o, jnp.asarray([0]), focal=gamma).sum())
    assert np.isfinite(slope(certain)).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_balanced_classes_weigh_the_same_and_one_on_average(labels):
    label = np.asarray(labels)
    weights = tasks.balanced("multiclass", label, 4)
    assert weights[label].mean() == pytest.approx(1)
    sums = [weights[k] * (label == k).sum() for k in set(labels)]
    np.testing.assert_allclose(sums, sums[0])


def test_class_weights_scale_the_loss_of_an_example():
    label = np.asarray([0, 0, 0, 1])
    weights = tasks.balanced("multiclass", label, 2)
    plain = tasks.make("multiclass", ("a", "b"))
    weighed = tasks.make("multiclass", ("a", "b"), class_weights=weights)
    outputs = jnp.asarray(RNG.randn(4, 2).astype("float32"))
    expected = plain.loss(outputs, jnp.asarray(label)) * jnp.asarray([2 / 3, 2 / 3, 2 / 3, 2.0])
    np.testing.assert_allclose(weighed.loss(outputs, jnp.asarray(label)), expected, rtol=1e-6)
    emotions = np.asarray([[1, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    pairs = tasks.balanced("multilabel", emotions, 2)
    np.testing.assert_allclose(pairs, [[2, 2 / 3], [1, 1]])
    task = tasks.make("multilabel", ("a", "b"), class_weights=pairs)
    plain = tasks.make("multilabel", ("a",))
    alone = [plain.loss(outputs[:, k : k + 1], emotions[:, k : k + 1]) for k in (0, 1)]
    factors = np.where(emotions > 0, pairs[:, 1], pairs[:, 0]).astype(np.float32)
    expected = (factors * np.stack(alone, axis=1)).mean(axis=1)
    np.testing.assert_allclose(task.loss(outputs, emotions), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("multiclass", {"loss": "ordinal"}, "loss 'ordinal'"),
        ("sentiment", {"focal": 1.0}, "focal"),
        ("sentiment", {"label_smoothing": 0.1}, "label_smoothing"),
        ("multiclass", {"label_smoothing": 1.0}, "label_smoothing"),
        ("multiclass", {"focal": -1.0}, "focal"),
    ],
)
def test_losses_that_do_not_go_with_the_task(name, options, said):
    with pytest.raises(ValueError, match=said):
        tasks.make(name, ("a", "b"), **options)
