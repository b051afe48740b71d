"""Damage to batches, the scores under it, and the areas under the curves."""

import dataclasses
import json
import shutil
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run

from imat_jax import config as configs
from imat_jax import inference
from imat_jax.analysis import corruptions, robustness, runs
from imat_jax.cli import UsageError
from imat_jax.data.corpus import subsets
from imat_jax.models.imat import drop_modalities

DIMS = {"text": 3, "audio": 4, "vision": 2}
DEVIATIONS = {m: np.full(d, 2.0, np.float32) for m, d in DIMS.items()}
PARTS = {"frames": corruptions.lose_frames, "burst": corruptions.lose_burst}
LOSE = {name: jax.jit(lose) for name, lose in PARTS.items()}
corrupt = jax.jit(lambda batch, rows, how: corruptions.corrupt(batch, rows, how, DEVIATIONS))


def make_batch(lengths, padded, seed=0):
    """lengths [B, 3]; features are of the row, so that another order is the same rows."""
    lengths, batch = np.asarray(lengths), {}
    for i, (m, dim) in enumerate(DIMS.items()):
        rng = np.random.default_rng(seed + i)
        batch[f"{m}_mask"] = np.arange(padded)[None] < lengths[:, i : i + 1]
        batch[m] = rng.standard_normal((len(lengths), padded, dim)).astype(np.float32)
    return batch


@pytest.mark.parametrize("name", ["frames", "burst"])
@given(
    length=st.integers(0, 40), rate=st.floats(0, 0.95), more=st.floats(0, 0.95),
    seed=st.integers(0, 2**20),
)  # fmt: skip
def test_as_many_frames_are_lost_as_asked_and_more_at_higher_rates(name, length, rate, more, seed):
    mask = np.arange(40) < length
    chances = np.random.default_rng(seed).random(41 if name == "frames" else 2, np.float32)
    rates = np.asarray([rate, max(rate, more)], np.float32)
    left, less = (np.asarray(LOSE[name](mask, r, chances)) for r in rates)
    assert not (left & ~mask).any()
    lost = length - left.sum()
    # A share as a float32 may miss a whole number of frames by a hair.
    low, high = np.floor(rate * length - 1e-4), np.ceil(rate * length + 1e-4)
    assert min(low, max(length - 1, 0)) <= lost <= high
    assert left.sum() >= min(length, 1)
    assert not (less & ~left).any()
    if name == "burst" and lost:
        gone = np.flatnonzero(mask & ~left)
        assert gone[-1] - gone[0] + 1 == len(gone)


@pytest.mark.parametrize("name", ["frames", "burst"])
def test_rates_are_right_on_average_and_every_frame_is_as_likely(name):
    how = corruptions.condition(tuple(DIMS), **{name: 0.35})
    batch = make_batch([[10, 10, 10]] * 4000, 16)
    left = np.asarray(corrupt(batch, np.arange(4000, dtype=np.int32), how)["audio_mask"])
    share = 1 - left[:, :10].mean(axis=0)
    error = np.sqrt(0.35 * 0.65 / len(left))
    assert abs(share.mean() - 0.35) < 5 * error
    if name == "frames":
        assert np.abs(share - 0.35).max() < 5 * error
    else:  # a burst begins anywhere: the middle is hit more often, both ends alike
        assert share.argmax() in range(3, 7)
        np.testing.assert_allclose(share, share[::-1], atol=7 * error)


def test_whole_modalities_are_lost_as_often_as_asked_but_never_all():
    batch, rows = make_batch([[2, 2, 2]] * 4000, 16), np.arange(4000, dtype=np.int32)

    def kept(**how):
        damaged = corrupt(batch, rows, corruptions.condition(tuple(DIMS), **how))
        return np.stack([np.asarray(damaged[f"{m}_mask"]).any(axis=1) for m in DIMS], axis=1)

    before = np.ones((4000, 3), bool)
    for rate in (0.0, 0.3, 0.9):
        left = kept(modalities=rate)
        assert left.any(axis=1).all() and not (left & ~before).any()
        # One of three stays where chance would have taken all.
        assert np.abs(left.mean(axis=0) - (1 - rate + rate**3 / 3)).max() < 5 * np.sqrt(0.25 / 4000)
        before = left
    only = kept(modalities=0.9, affected=["audio"])
    assert only[:, [0, 2]].all() and 0.88 < 1 - only[:, 1].mean() < 0.92
    two = kept(modalities=0.9, keep=["audio", "vision"])
    assert not two[:, 0].any() and two.any(axis=1).all()
    # At .9 a half of two, and none of one, is really lost.
    assert np.abs(1 - two[:, 1:].mean(axis=0) - (0.9 - 0.9**2 / 2)).max() < 5 * np.sqrt(0.25 / 4000)
    assert kept(modalities=0.9, keep=["text"])[:, 0].all()


HARD = corruptions.condition(tuple(DIMS), frames=0.3, burst=0.2, modalities=0.4, noise=0.5)


def real(batch, i):
    """Row i of a damaged batch without its padding: masks and what they let see."""
    found = {}
    for m in DIMS:
        mask = np.asarray(batch[f"{m}_mask"][i])
        found[m] = (np.flatnonzero(mask).tolist(), np.asarray(batch[m][i])[mask].tolist())
    return found


@settings(max_examples=8)
@given(
    st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=4, max_size=4),
    st.permutations([0, 1, 2, 3]),
)
def test_damage_depends_on_the_row_alone(lengths, order):
    """Not on the batch's size, order or padding, nor on the other modalities that are read."""
    rows = np.asarray([7, 0, 123, 5], np.int32)
    batch, order = make_batch(lengths, 8), np.asarray(order)
    whole = corrupt(batch, rows, HARD)
    turned = corrupt({k: v[order] for k, v in batch.items()}, rows[order], HARD)
    wider = {k: np.pad(v, ((0, 0), (0, 3)) + ((0, 0),) * (v.ndim - 2)) for k, v in batch.items()}
    wider = corrupt(wider, rows, HARD)
    for i in range(4):
        assert real(whole, i) == real(turned, order.tolist().index(i)) == real(wider, i)
    one = corrupt({k: v[:1] for k, v in batch.items()}, rows[:1], HARD)
    assert real(one, 0) == real(whole, 0)


def test_damage_to_a_modality_does_not_depend_on_which_others_are_read():
    batch, rows = make_batch([[5, 6, 3]] * 4, 8), np.arange(4, dtype=np.int32)
    one = {"audio": DEVIATIONS["audio"]}
    alone = jax.jit(lambda batch, how: corruptions.corrupt(batch, rows, how, one))(
        {k: batch[k] for k in ("audio", "audio_mask")},
        corruptions.condition(("audio",), frames=0.5, noise=1),
    )
    among = corrupt(batch, rows, corruptions.condition(tuple(DIMS), frames=0.5, noise=1))
    np.testing.assert_array_equal(alone["audio_mask"], among["audio_mask"])
    np.testing.assert_array_equal(alone["audio"], among["audio"])
    assert not np.array_equal(among["audio_mask"], batch["audio_mask"])


def test_no_damage_is_no_change_and_noise_has_the_deviation_asked():
    batch, rows = make_batch([[400] * 3] * 8, 400), np.arange(8, dtype=np.int32)
    same = corrupt(batch, rows, corruptions.condition(tuple(DIMS)))
    for key, value in batch.items():
        np.testing.assert_array_equal(same[key], value)
    noisy = corrupt(batch, rows, corruptions.condition(tuple(DIMS), affected=["audio"], noise=1.5))
    np.testing.assert_array_equal(noisy["text"], batch["text"])
    noise = np.asarray(noisy["audio"]) - batch["audio"]
    count, kurtosis = noise.size, ((noise / noise.std()) ** 4).mean()
    assert abs(kurtosis - 3) < 5 * np.sqrt(24 / count)  # as a normal distribution has it
    assert abs(noise.mean()) < 5 * 3 / np.sqrt(count)
    assert abs(noise.std() - 3) < 5 * 3 / np.sqrt(2 * count)  # 1.5 times a deviation of 2
    np.testing.assert_array_equal(noisy["audio_mask"], batch["audio_mask"])


def test_a_subset_is_what_modality_dropout_in_training_leaves():
    lengths = np.random.default_rng(0).integers(1, 6, (64, 3))
    batch, rows = make_batch(lengths, 6), np.arange(64, dtype=np.int32)
    masks = {m: jnp.asarray(batch[f"{m}_mask"]) for m in DIMS}
    trained = drop_modalities(masks, 0.5, jax.random.bits(jax.random.key(3), (2,), jnp.uint32))
    there = np.stack([np.asarray(trained[m]).any(axis=1) for m in DIMS], axis=1)
    seen = set()
    for subset in subsets(tuple(DIMS)):
        damaged = corrupt(batch, rows, corruptions.condition(tuple(DIMS), keep=subset))
        same = (there == np.isin(tuple(DIMS), subset)).all(axis=1)
        seen |= {subset} if same.any() else set()
        for m in DIMS:
            np.testing.assert_array_equal(damaged[f"{m}_mask"][same], trained[m][same])
    assert len(seen) == 7


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=10), st.floats(-2, 2))
def test_areas_under_curves(values, shift):
    levels = [0.1 * i for i in range(len(values))]
    assert robustness.mean_height(levels, [shift] * len(levels)) == pytest.approx(shift)
    assert min(values) - 1e-9 <= robustness.mean_height(levels, values) <= max(values) + 1e-9
    # A curve beside its own copy, wherever that begins, is neither better nor worse.
    moved = [v + shift for v in values]
    assert robustness.effective(levels, values, moved, "acc") == pytest.approx(0, abs=1e-9)


def test_effective_robustness_by_hand():
    levels, steady, steep = [0, 0.5, 1], [0.8, 0.8, 0.8], [0.9, 0.7, 0.5]
    # Beside the steep curve moved to begin at .8 (.8, .6, .4): (0 + .2) / 4 + (.2 + .4) / 4.
    assert robustness.effective(levels, steady, steep, "acc") == pytest.approx(0.2)
    assert robustness.effective(levels, steep, steady, "acc") == pytest.approx(-0.2)
    assert robustness.effective(levels, steep, steady, "mae") == pytest.approx(0.2)
    assert robustness.mean_height(levels, steep) == pytest.approx(0.7)


@pytest.fixture(scope="module")
def opened(finished):
    return runs.open_run(finished[0])


def test_a_run_is_scored_with_less(opened, finished):
    experiment, params = opened
    experiment = dataclasses.replace(experiment, buckets=experiment.buckets[-1:])
    here = tuple(experiment.dims)
    conditions = [corruptions.condition(here, keep=s) for s in subsets(here)]
    conditions += [corruptions.condition(here, frames=r, noise=r) for r in (0.3, 0.6)]
    step = robustness.make_step(experiment)
    found, left = robustness.outputs(experiment, params, "test", conditions, step)
    clean = inference.outputs(
        inference.make_step(experiment), params, experiment.split("test"), experiment
    )
    np.testing.assert_allclose(found[2], clean, rtol=1e-5, atol=1e-6)  # all modalities
    lengths = experiment.split("test").lengths
    np.testing.assert_array_equal(left[2], lengths)
    np.testing.assert_array_equal(left[0], lengths * [1, 0])
    assert (left[4] <= left[3]).all() and (left[3] < lengths).any()
    assert step._cache_size() == 1  # not one a condition
    # Other batches, the same numbers: also those of random damage.
    experiment.config.batch_size = 24
    try:
        again, frames = robustness.outputs(experiment, params, "test", conditions[-1:])
    finally:
        experiment.config.batch_size = 16
    np.testing.assert_array_equal(frames[0], left[-1])
    np.testing.assert_allclose(again[0], found[-1], rtol=1e-4, atol=1e-5)


def test_the_program_prints_and_writes(finished, tmp_path):
    workdir = finished[0]
    twin = shutil.copytree(workdir, tmp_path / "twins" / "0")
    done = run(
        "robustness", f"--workdir={workdir},{twin.parent}", f"--output={tmp_path / 'out'}",
        "--noise=0,1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "robustness.json").read_text())
    results = json.loads((workdir / "results.json").read_text())
    first, twins = found["table"].values()
    assert list(found["table"]) == [str(workdir), str(twin.parent)]
    assert first["subsets"]["text+audio"] == [pytest.approx(results["test"]["acc"])]
    assert twins["subsets"] == first["subsets"]
    assert found["facts"]["constant"] == results["trivial"]["test"]["acc"]
    for kind in corruptions.KINDS:
        curve = twins["curves"][kind]
        assert curve["scores"][0][0] == pytest.approx(results["test"]["acc"])
        assert curve["effective"] == [0]  # the first row is the baseline, and the same run
        assert curve["lost"] == sorted(curve["lost"]) and curve["lost"][0] == 0
    assert first["curves"]["frames"]["lost"][5] == pytest.approx(0.5, abs=0.02)
    for name in ("curves", "subsets"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "best possible" in done.stdout and "+0.000" in done.stdout
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--noise=1,2"], "take 0 and then rising levels"),
        (["--metric=mae"], "--metric=mae: there are acc"),
        (["--affected=vision"], "has text+audio"),
        (["--baseline=other"], "--baseline=other is none of"),
        (["--split=dev"], "no split 'dev'"),
    ],
)
def test_mistakes_are_one_line(finished, flags, message):
    done = run("robustness", f"--workdir={finished[0]}", *flags)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("said", ["0,inf", "0,nan", "nan,1", "0,1,nan", "0,x", "0", "0,1,1"])
def test_levels_of_noise_are_finite_and_rise(said):
    with pytest.raises(UsageError, match=rf"--noise={said}: take 0 and then rising levels"):
        robustness._levels(said.split(","))


def test_a_metric_is_checked_before_anything_is_scored(opened):
    experiment, _ = opened
    assert robustness._facts(experiment, "test", "acc")["ceiling"]["text+audio"] > 0.5
    # What is best possible of an accuracy is not of another metric.
    facts = robustness._facts(experiment, "test", "bacc")
    assert facts["ceiling"] == {} and facts["constant"] == 0.25
    for metric in ("mae", "recall/0"):
        with pytest.raises(UsageError, match=f"--metric={metric}: there are acc"):
            robustness._facts(experiment, "test", metric)


def test_facts_of_folds_are_of_all_folds():
    one = {"protocol": "p", "split": "test", "metric": "acc", "ceiling": {"text": 0.5}}
    folds = [one | {"examples": 10, "constant": 0.2}, one | {"examples": 30, "constant": 0.3}]
    found = robustness.joined(folds)
    assert found == one | {"examples": 40, "constant": pytest.approx(0.25), "sets": 2}
    assert robustness.joined(folds[:1]) == folds[0] | {"sets": 1}
    other = folds[1] | {"ceiling": {"text": 0.6}}
    assert robustness.joined([folds[0], other])["ceiling"] == {}
    table = {"run": {"subsets": {"text": [0.4]}, "curves": dict.fromkeys(corruptions.KINDS)}}
    curve = {"levels": [0, 1], "lost": [0, 0], "scores": [[0.4, 0.2]], "relative": [0.3]}
    table["run"]["curves"] = dict.fromkeys(corruptions.KINDS, curve)
    said = robustness.text(table, found)
    assert "40 utterances of 2 sets" in said and "(lost" not in said
    assert "10 utterances\n" in robustness.text(table, robustness.joined(folds[:1]))


def test_folds_of_a_protocol_make_one_row(opened):
    experiment, _ = opened
    names = []
    for protocol in ("ravdess-8way-6fold/fold1", "ravdess-8way-6fold/fold2", "meld-7way"):
        metadata = experiment.dataset.metadata | {"protocol": protocol}
        dataset = types.SimpleNamespace(metadata=metadata, index=experiment.dataset.index)
        one = dataclasses.replace(experiment, dataset=dataset)
        names.append(robustness._facts(one, "test", None)["protocol"])
    assert names == ["ravdess-8way-6fold", "ravdess-8way-6fold", "meld-7way"]


def test_a_set_of_utterances_counts_once_whatever_its_features(opened):
    experiment, _ = opened
    dataset = experiment.dataset

    class Other:
        def __init__(self, **columns):
            self.columns = columns

        def index(self, split):
            return dataset.index(split) | self.columns

    asked = robustness._asked(experiment, "test")

    def of(**columns):
        return robustness._asked(dataclasses.replace(experiment, dataset=Other(**columns)), "test")

    assert of() == of(text_length=np.zeros(50, int)) == asked
    index = dataset.index("test")
    assert asked not in (of(label=index["label"][::-1]), of(id=index["id"][::-1]))
    assert robustness._asked(experiment, "valid") != asked


def test_what_was_really_lost_stands_under_the_levels():
    def row(subsets, lost):
        curve = {"levels": [0, 0.9], "lost": lost, "scores": [[0.5, 0.4]], "relative": [0.45]}
        curves = {k: curve if k == "modalities" else curve | {"lost": [0, 0]}
                  for k in corruptions.KINDS}  # fmt: skip
        return {"subsets": {s: [0.5] for s in subsets}, "curves": curves}

    facts = {"metric": "acc", "split": "test", "examples": 9, "sets": 1, "constant": 0.1}
    two = ["text", "audio", "text+audio"]
    table = {"a": row(two, [0, 0.49]), "b": row(two, [0, 0.5]), "c": row(["text"], [0, 0])}
    lines = robustness.text(table, facts | {"ceiling": {}}).splitlines()
    lost = [line for line in lines if line.startswith("(lost")]
    assert [line.split(")") for line in lost] == [
        ["(lost, 1 modality", "     0.000   0.000"],
        ["(lost, 2 modalities", "   0.000   0.495"],
    ]
    # In the columns of the levels.
    assert {len(line) for line in lost} == {lines[lines.index(lost[0]) - 4].index("0.9") + 3}


def test_cells():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert robustness.cell([0.5]) == "0.500" and robustness.cell(None) == "–"
        assert robustness.cell([0.1, 0.3], "+") == "+0.200 ± 0.141"


def test_a_row_is_of_finished_runs_of_one_configuration(finished, tmp_path, capsys):
    shutil.copytree(finished[0], tmp_path / "0")
    shutil.copytree(finished[0], tmp_path / "1")
    (tmp_path / "1" / "results.json").unlink()
    assert robustness._row(tmp_path) == [tmp_path / "0"]
    assert f"left out: {tmp_path / '1'}" in capsys.readouterr().err
    other = json.loads((finished[0] / "config.json").read_text())
    shutil.copytree(finished[0], tmp_path / "2")
    with pytest.raises(UsageError, match=r"/2 has the seed and the dataset of .*/0, .*count twice"):
        robustness._row(tmp_path)
    for key, said in (("seed", None), ("batch_size", "batch_size: 16 -> 99")):
        shutil.copytree(finished[0], tmp_path / "2", dirs_exist_ok=True)
        (tmp_path / "2" / "config.json").write_text(json.dumps(other | {key: 99}))
        if said is None:
            assert len(robustness._row(tmp_path)) == 2
            continue
        with pytest.raises(UsageError, match=said):
            robustness._row(tmp_path)


def test_another_dataset_is_not_taken_for_the_runs_own(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"dataset": "0123456789abcdef"}))
    with pytest.raises(UsageError, match=r"not the dataset that .* fingerprint was 0123456789ab "):
        runs.open_run(run)


def test_a_run_of_before_lacks_keys_that_came_later(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    config = configs.load(run).to_dict()
    old = json.loads((run / "config.json").read_text())
    for key in configs.LATER:
        *parts, last = key.split(".")
        node = old
        for part in parts:
            node = node[part]
        del node[last]
    (run / "config.json").write_text(json.dumps(old))
    assert configs.load(run).to_dict() == config
