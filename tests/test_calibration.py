"""Confidence, temperature and conformal sets: by hand, beside a slow oracle, and by simulation."""

import json
import math
import shutil

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from programs import run

from imat_jax import tasks
from imat_jax.analysis import calibration, confidence, conformal


def test_ece_by_hand():
    sure, right = np.array([0.95, 0.95, 0.55, 0.55, 0.75]), np.array([1, 1, 1, 0, 1])
    # Gaps .05 (two), .05 (two), .25 (one).
    assert confidence.ece(sure, right, bins=10) == pytest.approx((2 * 0.05 + 2 * 0.05 + 0.25) / 5)
    assert confidence.ece(sure, right, bins=1) == pytest.approx(abs(4 / 5 - sure.mean()))
    found = confidence.reliability(sure, right, bins=10)
    assert found["count"].tolist() == [0, 0, 0, 0, 0, 2, 0, 1, 0, 2]
    assert np.isnan(found["accuracy"][0]) and found["accuracy"][5] == 0.5
    # 1 and 0 belong to the last and the first bin, a border to the bin below it.
    borders = confidence.reliability(np.array([0, 0.5, 1.0]), np.ones(3), bins=2)
    assert borders["count"].tolist() == [2, 1]
    by_mass = confidence.reliability(np.linspace(0.1, 0.9, 12), np.ones(12), 4, "mass")
    assert by_mass["count"].tolist() == [3, 3, 3, 3]
    with pytest.raises(ValueError, match="binning is one of"):
        confidence.ece(sure, right, binning="other")


@given(
    st.integers(1, 60), st.integers(1, 20), st.sampled_from(confidence.BINNINGS),
    st.integers(0, 2**20), st.booleans(),
)  # fmt: skip
def test_ece_equals_a_slow_one(count, bins, binning, seed, ties):
    rng = np.random.default_rng(seed)
    sure = rng.random(count).round(1 if ties else 9)
    right = rng.random(count) < sure
    borders = confidence.edges(sure, bins, binning)
    total, members = 0.0, 0
    for i in range(bins):
        inside = (sure > borders[i]) & (sure <= borders[i + 1])
        if i == 0:
            inside |= sure == borders[0]
        members += inside.sum()
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - sure[inside].mean())
    assert members == count
    assert confidence.ece(sure, right, bins, binning) == pytest.approx(total / count)


def draw(logits, rng):
    """Labels that are distributed as the logits say."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_of_calibrated_logits_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20000, 4))
    label = draw(logits, rng)
    found = confidence.fit_temperature(logits * temperature, label)
    assert found == pytest.approx(temperature, rel=0.03)
    prob = confidence.probabilities(logits * temperature, found)
    top, right = prob.max(axis=1), prob.argmax(axis=1) == label
    # What is left is what chance leaves a calibrated classifier.
    chance = confidence.ece_by_chance(top)
    assert confidence.ece(top, right) < 2 * chance < 0.02
    for other in (0.9, 1.1):
        worse = confidence.nll(logits * temperature, label, found * other)
        assert confidence.nll(logits * temperature, label, found) < worse


def test_nll_brier_and_a_classifier_that_is_always_right():
    logits, label = np.array([[0.0, 0.0], [0.0, math.log(3)]]), np.array([0, 1])
    assert confidence.nll(logits, label) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    prob = confidence.probabilities(logits)
    assert confidence.brier(prob, label) == pytest.approx((0.5 + 2 * 0.25**2) / 2)
    always = confidence.fit_temperature(np.array([[3.0, 0.0], [0.0, 3.0]]), label)
    assert 1 / confidence.LARGEST <= always < 0.1
    assert np.isfinite(confidence.nll(np.array([[1e4, -1e4]]), np.array([1])))


@pytest.mark.parametrize(
    ("count", "coverage", "rank"),
    [(9, 0.9, 9), (8, 0.9, None), (19, 0.95, 19), (9, 0.7, 7), (10, 0.7, 8), (99, 0.95, 95)],
)
def test_the_quantile_counts_the_example_to_come(count, coverage, rank):
    scores = np.random.default_rng(0).permutation(count) + 1.0
    assert conformal.quantile(scores, coverage) == (math.inf if rank is None else rank)


def test_conformal_scores_by_hand():
    prob = np.array([[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(conformal.class_scores(prob, "lac"), [[0.5, 0.7, 0.8]])
    np.testing.assert_allclose(conformal.class_scores(prob, "aps"), [[0.0, 0.5, 0.8]])
    assert conformal.sets(prob, 0.75, "lac").tolist() == [[True, True, False]]
    assert conformal.sets(prob, 0.4, "lac").tolist() == [[False, False, False]]
    assert conformal.sets(prob, 0.6, "aps").tolist() == [[True, True, False]]
    assert conformal.sets(prob, 0.4, "aps").tolist() == [[True, False, False]]  # never empty
    assert conformal.sets(prob, math.inf, "aps").all()
    with pytest.raises(ValueError, match="scores are one of"):
        conformal.class_scores(prob, "raps")


def bounds(coverage, draws):
    """4 deviations around `coverage` of so many independent draws."""
    return 4 * math.sqrt(coverage * (1 - coverage) / draws)


@pytest.mark.parametrize("kind", conformal.SCORES)
@pytest.mark.parametrize("coverage", [0.6, 0.9])
def test_sets_cover_as_often_as_asked_whatever_the_model(kind, coverage):
    """Fresh calibration examples and one fresh test example each time; a model that is wrong."""
    rng, draws, n = np.random.default_rng(1), 3000, 25
    truth = rng.standard_normal((draws, n + 1, 4))
    label = (truth + rng.gumbel(size=truth.shape)).argmax(axis=2)
    claimed = 3 * truth + rng.standard_normal(truth.shape)  # too sure, and noisy
    prob = scipy.special.softmax(claimed, axis=2)
    hits = []
    for p, y in zip(prob, label, strict=True):
        limit = conformal.threshold(p[:n], y[:n], coverage, kind)
        hits.append(conformal.sets(p[n:], limit, kind)[0, y[n]])
    assert np.mean(hits) >= coverage - bounds(coverage, draws)
    right = np.mean(prob[:, n].argmax(axis=1) == label[:, n])
    if kind == "lac" or right < coverage:  # hardly a tie: no more than one example's worth more
        exact = math.ceil((n + 1) * coverage - 1e-9) / (n + 1)
        assert abs(np.mean(hits) - exact) < bounds(coverage, draws)


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_cover_as_often_as_asked(coverage):
    rng, draws, n = np.random.default_rng(2), 4000, 30
    label = rng.standard_t(3, (draws, n + 1))
    pred = 0.3 * label + rng.standard_normal(label.shape)
    radius = [conformal.radius(y[:n], p[:n], coverage) for y, p in zip(label, pred, strict=True)]
    hits = np.abs(label[:, n] - pred[:, n]) <= radius
    exact = math.ceil((n + 1) * coverage - 1e-9) / (n + 1)
    assert exact >= coverage and abs(hits.mean() - exact) < bounds(exact, draws)


def test_how_far_coverage_on_a_test_split_may_be_off():
    rng, n, test = np.random.default_rng(3), 40, 60
    scores = rng.random((4000, n + test))
    limits = np.array([conformal.quantile(one, 0.8) for one in scores[:, :n]])
    reached = (scores[:, n:] <= limits[:, None]).mean(axis=1)
    low, high = conformal.expected(n, test, 0.8)
    inside = ((reached >= low) & (reached <= high)).mean()
    assert 0.94 <= inside <= 0.98  # at least .95, as it is discrete
    assert conformal.expected(8, 10, 0.9) == (1, 1)


def test_questions_of_every_task():
    rng = np.random.default_rng(0)
    task = tasks.make("multilabel", ["joy", "fear"])
    outputs, label = rng.standard_normal((5, 2)), rng.integers(0, 4, (5, 2)) / 3
    asked = calibration.questions(task, label, outputs)
    assert list(asked) == ["joy", "fear"]
    present = confidence.probabilities(asked["fear"][0])[:, 1]
    np.testing.assert_allclose(present, tasks.sigmoid(outputs[:, 1]))
    assert asked["fear"][1].tolist() == (label[:, 1] > 0).tolist()
    task = tasks.make("binary_pairs", ["joy", "fear"])
    outputs = rng.standard_normal((5, 4))
    asked = calibration.questions(task, rng.integers(0, 2, (5, 2)), outputs)
    np.testing.assert_array_equal(asked["fear"][0], outputs[:, 2:])
    task = tasks.make("dimensions", ["valence", "arousal"])
    asked = calibration.questions(task, outputs[:, :2], outputs[:, 2:])
    np.testing.assert_array_equal(asked["arousal"], [outputs[:, 3], outputs[:, 1]])


def test_scores_get_intervals_whose_coverage_is_verified():
    rng = np.random.default_rng(0)
    label = rng.standard_normal(900)
    pred = label + rng.standard_normal(900)
    found = calibration.of_scores((pred[:400], label[:400]), (pred[400:], label[400:]), [0.5, 0.9])
    for one in found["conformal"]:
        assert one["expected_low"] <= one["reached"] <= one["expected_high"]
        assert one["radius"] == pytest.approx(
            scipy.stats.norm.ppf((1 + one["coverage"]) / 2), rel=0.2
        )
    few = calibration.of_scores((pred[:5], label[:5]), (pred[5:], label[5:]), [0.9])
    assert few["conformal"][0]["radius"] is None and few["conformal"][0]["reached"] == 1


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def test_the_program_writes_what_it_prints(workdir):
    done = run("calibrate", f"--workdir={workdir}", "--coverage=0.5,0.8", "--sets=aps", "--bins=5")
    assert done.returncode == 0, done.stderr
    found = json.loads((workdir / "calibration.json").read_text())
    one = found["questions"]["class"]
    with np.load(workdir / "predictions" / "test.npz") as saved:
        label, outputs = saved["label"], saved["outputs"]
    assert one["before"]["nll"] == pytest.approx(confidence.nll(outputs, label))
    assert one["before"]["acc"] == one["after"]["acc"] == (outputs.argmax(axis=1) == label).mean()
    assert sum(one["after"]["diagram"]["count"]) == len(label)
    assert [c["coverage"] for c in one["conformal"]] == [0.5, 0.8]
    for c in one["conformal"]:
        assert c["calibrated_on"] == 40 and c["verified_on"] == 50 and c["mean_size"] >= 1
        assert sum(c["sizes"].values()) == pytest.approx(1)
    assert f"temperature {one['temperature']:.3f}" in done.stdout
    assert (workdir / "plots" / "calibration-test.png").read_bytes().startswith(b"\x89PNG")
    assert not list(workdir.rglob("*partial*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split=valid"], "verify on another"),
        (["--coverage=90"], "take numbers between 0 and 1"),
        (["--split=other"], "--split=valid,other` makes it"),
    ],
)
def test_mistakes_are_one_line(finished, flags, message):
    done = run("calibrate", f"--workdir={finished[0]}", *flags)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
