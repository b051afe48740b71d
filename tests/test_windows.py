"""A clip through a trained network: windows, padding, attention."""

import jax
import ml_collections
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import common
from imat_jax import experiment, sharding, spans, tasks, windows

METADATA = {
    "modalities": {"text": {"dim": 3}, "audio": {"dim": 4}, "vision": {"dim": 5}},
    "task": "multiclass",
    "class_names": ["sad", "glad"],
    "statistics": {m: {"mean": [1.0] * d, "std": [2.0] * d}
                   for m, d in (("text", 3), ("audio", 4), ("vision", 5))},
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    config = common.get_config()
    config.model.update(width=8, heads=2, ffn=16, head_width=8)
    config.data.max_frames.update(text=20, audio=40, vision=20)
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    net = experiment.network(config, METADATA, mesh)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield net, windows.make_reader(net, net.params(jax.random.key(0)), "float32")


def example(rng, **lengths):
    lengths = {"text": 5, "audio": 20, "vision": 7} | lengths
    return {
        m: rng.standard_normal((n, METADATA["modalities"][m]["dim"])).astype(np.float32)
        for m, n in lengths.items()
    }


def test_a_reading_does_not_depend_on_what_else_is_read(network):
    _, read = network
    rng = np.random.default_rng(0)
    one, long = example(rng), example(rng, audio=33)
    [alone] = read([one])
    together = read([long, one, one])
    for reading in together[1:]:
        np.testing.assert_allclose(reading.outputs, alone.outputs, atol=1e-5)
        for pair, weights in alone.attention.items():
            np.testing.assert_allclose(reading.attention[pair], weights, atol=1e-5)
    assert np.abs(together[0].outputs - alone.outputs).max() > 1e-4


def test_attention_is_over_the_real_frames_of_pairs_that_are_there(network):
    _, read = network
    rng = np.random.default_rng(0)
    [whole] = read([example(rng)])
    assert set(whole.attention) == {
        f"{a}<-{b}" for a in METADATA["modalities"] for b in METADATA["modalities"] if a != b
    }
    for pair, weights in whole.attention.items():
        assert len(weights) == {"text": 5, "audio": 20, "vision": 7}[pair.partition("<-")[2]]
        assert 0 < weights.sum() < 1  # the rest is on the learned CLS
    [deaf] = read([example(rng, audio=0)])
    assert set(deaf.attention) == {"text<-vision", "vision<-text"}


def test_longer_clips_are_read_up_to_the_configs_limit(network):
    _, read = network
    long = example(np.random.default_rng(0), audio=60)
    [a], [b] = read([long]), read([long | {"audio": long["audio"][:40]}])
    np.testing.assert_array_equal(a.outputs, b.outputs)
    assert a.frames == {"text": 5, "audio": 40, "vision": 7}


@given(st.floats(0.05, 100), st.floats(0.1, 10), st.floats(0.1, 10))
def test_windows_cover_the_clip_and_stay_in_it(duration, length, hop):
    found = spans.cover(duration, length, hop)
    assert found[0][0] == 0 and all(a < b <= duration and b - a <= length + 1e-9 for a, b in found)
    assert np.allclose(np.diff([a for a, _ in found]), hop)
    assert found[-1][1] == duration or hop > length
    assert all(b < duration for _, b in found[:-1])


def test_a_short_clip_is_one_window():
    assert spans.cover(2.0, 3.0, 1.0) == [(0.0, 2.0)]
    assert spans.cover(4.5, 3.0, 1.0) == [(0.0, 3.0), (1.0, 4.0), (2.0, 4.5)]


@pytest.mark.parametrize(
    ("name", "outputs", "values"),
    [
        ("multiclass", [0.0, np.log(3)], [0.25, 0.75]),
        ("multilabel", [0.0, np.log(3)], [0.5, 0.75]),
        ("binary_pairs", [0.0, np.log(3), 0.0, 0.0], [0.75, 0.5]),
        ("dimensions", [2.0, 3.0], [2.0, 3.0]),
    ],
)
def test_predictions_in_words(name, outputs, values):
    task = tasks.make(name, ["sad", "glad"])
    found = tasks.describe(task, np.float32(outputs))
    assert list(found["values"]) == ["sad", "glad"]
    np.testing.assert_allclose(list(found["values"].values()), values, rtol=1e-6)
    assert found.get("label") == ("glad" if name == "multiclass" else None)


def test_a_sentiment_is_a_number():
    found = tasks.describe(tasks.make("sentiment"), np.float32([-1.5]))
    assert found == {"values": {"sentiment": -1.5}}


def test_a_config_that_asks_for_what_the_run_does_not_have_is_an_error(network):
    config = ml_collections.ConfigDict(network[0].config.to_dict())
    config.modalities = "text+smell"
    with pytest.raises(ValueError, match="smell"):
        experiment.network(config, METADATA, network[0].mesh)
