"""Weighted metrics against metrics.py; tests and intervals against simulation and libraries."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from imat_jax import metrics, significance, tasks, weighted

NAMES = ("one", "two", "three")


def draw(task, count, rng):
    """Labels and outputs of `count` utterances, with ties, exact zeros and halves."""
    if task == "sentiment":
        label = rng.integers(-6, 7, count) / 2
        return label.astype(np.float32), rng.integers(-7, 8, (count, 1)).astype(np.float32) / 2
    if task == "multiclass":
        return rng.integers(3, size=count), rng.normal(size=(count, 3)).astype(np.float32)
    if task == "multilabel":
        label = rng.integers(2, size=(count, 3)) * rng.uniform(0.3, 3, (count, 3))
        return label.astype(np.float32), rng.integers(-3, 4, (count, 3)).astype(np.float32) / 2
    if task == "binary_pairs":
        return rng.integers(2, size=(count, 3)), rng.normal(size=(count, 6)).astype(np.float32)
    noise = rng.normal(size=(2, count, 3)).astype(np.float32)
    return noise[0] + 100, noise[0] + noise[1] + 100.5


@pytest.mark.parametrize("task", tasks.TASKS)
@settings(max_examples=20)
@given(seed=st.integers(0, 999), count=st.integers(3, 40))
def test_integer_weights_are_repeated_rows(task, seed, count):
    rng = np.random.default_rng(seed)
    label, outputs = draw(task, count, rng)
    threshold = 100.2 if task == "dimensions" else None
    made = tasks.make(task, () if task == "sentiment" else NAMES, threshold=threshold)
    score = weighted.scorer(task, label, outputs, made.class_names, threshold)
    repeats = np.stack([np.ones(count, int), *rng.integers(3, size=(3, count))])
    repeats[:, 0] = 1  # never none at all
    found = score(repeats.astype(float))
    for r, counts in enumerate(repeats):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", metrics.UndefinedMetricWarning)
            expected = made.score(np.repeat(label, counts, axis=0), outputs.repeat(counts, axis=0))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key][r], value, rtol=1e-9, atol=1e-9, err_msg=key)


def test_bootstrap_and_jackknife_weights():
    parts = list(significance.resample(100_000, 40, np.random.default_rng(0)))
    assert len(parts) > 1 and sum(map(len, parts)) == 40  # a part is a bounded piece of memory
    assert all((part.sum(axis=1) == 100_000).all() for part in parts)
    left_out = np.concatenate(list(significance.leave_one_out(5)))
    np.testing.assert_array_equal(left_out, 1 - np.eye(5))


def exchanged(task, label, one, other, key):
    """`difference` of `permutation_test`: the mean over seeds of runs one[s] against other[s]."""
    twice = np.concatenate([label, label])
    scorers = [
        weighted.scorer(task, twice, np.concatenate(pair), NAMES)
        for pair in zip(one, other, strict=True)
    ]

    def difference(swap):
        first, second = np.hstack([~swap, swap]), np.hstack([swap, ~swap])
        return np.mean(
            [s(first.astype(float))[key] - s(second.astype(float))[key] for s in scorers], axis=0
        )

    return difference


@pytest.mark.parametrize(
    ("task", "key"),
    [("sentiment", "mae"), ("sentiment", "corr"), ("multiclass", "acc"), ("multiclass", "wf1")],
)
def test_permutation_p_is_uniform_under_the_null(task, key):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        if task == "sentiment":
            label = rng.normal(size=40)
            signal = (label + rng.normal(size=40))[:, None]  # shared by models and seeds
        else:
            label = rng.integers(3, size=40)
            signal = np.eye(3)[label] + rng.normal(size=(40, 3))
        one, other = signal + rng.normal(size=(2, 2, *signal.shape))  # [seed, utterance, K] each
        difference = exchanged(task, label, one, other, key)
        found.append(significance.permutation_test(difference, 40, rng, count=99))
    # p is one of 0.01, 0.02, …: spread over the step below it, it is uniform. Differences of
    # decisions are often equal, and equal ones count as reached: there it may only be too large.
    spread = np.asarray(found) - rng.uniform(size=300) / 100
    sides = "two-sided" if task == "sentiment" else "greater"
    assert stats.kstest(spread, "uniform", alternative=sides).pvalue > 0.01
    for level in (0.05, 0.1, 0.2):
        rejected = int(np.sum(np.asarray(found) <= level))
        assert stats.binomtest(rejected, 300, level, alternative="greater").pvalue > 0.01


def test_permutation_agrees_with_scipy_and_finds_what_is_there():
    rng = np.random.default_rng(2)
    label = rng.integers(-6, 7, 12) / 2
    one, other = label + rng.normal(size=12), label + rng.normal(size=12) + 0.7
    difference = exchanged("sentiment", label, [one[:, None]], [other[:, None]], "corr")

    def by_scipy(x, y):
        return np.corrcoef(label, x)[0, 1] - np.corrcoef(label, y)[0, 1]

    exact = stats.permutation_test(
        (one, other), by_scipy, permutation_type="samples", n_resamples=5000
    ).pvalue  # all 2^12
    p = significance.permutation_test(difference, 12, rng, count=20_000)
    assert p == pytest.approx(exact, abs=0.015)

    label = rng.integers(3, size=200)
    right, guess = 3.0 * np.eye(3)[label], rng.normal(size=(200, 3))
    difference = exchanged("multiclass", label, [right], [guess], "wf1")
    p = significance.permutation_test(difference, 200, rng, 999)
    assert p == 1 / 1000


def test_permutation_of_whole_runs():
    assert significance.permutation_test_of_runs([0.8, 0.81, 0.82, 0.83, 0.84], [0.7] * 5) == (
        pytest.approx(2 / 252)
    )
    assert np.isnan(significance.permutation_test_of_runs([0.8], [0.7, 0.6]))


def test_bca_is_scipys():
    sample = np.random.default_rng(3).gamma(0.7, size=40)
    scipys = stats.bootstrap(
        (sample,), np.mean, n_resamples=3000, rng=np.random.default_rng(0), method="BCa"
    )
    jackknife = (sample.sum() - sample) / 39
    found = significance.bca(sample.mean(), scipys.bootstrap_distribution, jackknife)
    np.testing.assert_allclose(found, scipys.confidence_interval, rtol=1e-12)


@pytest.mark.parametrize("key", ["mae", "corr", "acc2_has0"])
def test_bootstrap_intervals_cover_the_truth(key):
    """Label x + e/2 and prediction x - e/2 of normal x, e; 95 % intervals of 400 samples of 100."""
    rng = np.random.default_rng(4)
    truth = {
        "mae": np.sqrt(2 / np.pi),
        "corr": (1 - 0.25) / (1 + 0.25),
        "acc2_has0": 0.5 + np.arcsin(0.6) / np.pi,  # orthant probability of correlation 0.6
    }[key]
    covered = 0
    for _ in range(400):
        x, e = rng.normal(size=(2, 100))
        score = weighted.scorer("sentiment", x + e / 2, (x - e / 2)[:, None])
        replicates = np.concatenate([score(w)[key] for w in significance.resample(100, 400, rng)])
        jackknife = np.concatenate([score(w)[key] for w in significance.leave_one_out(100)])
        low, high = significance.bca(score(np.ones((1, 100)))[key][0], replicates, jackknife)
        covered += low <= truth <= high
    # Nominal up to one point, by which BCa of 100 utterances is known to be off.
    assert stats.binomtest(covered, 400, 0.94, alternative="less").pvalue > 0.005
    assert stats.binomtest(covered, 400, 0.96, alternative="greater").pvalue > 0.005


def test_intervals_of_what_is_undefined_or_constant():
    nan = float("nan")
    assert np.isnan(significance.bca(nan, np.ones(9), np.ones(3))).all()
    assert significance.bca(1.0, np.array([1.0, nan, 1.0]), np.ones(3)) == (1.0, 1.0)


def test_holm_leaves_the_undefined_out_of_the_family():
    np.testing.assert_allclose(significance.holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])


def test_variance_split_finds_the_parts_and_their_error():
    rng = np.random.default_rng(5)
    seeds, units, deviation = 5, 400, (0.1, 1.0, 0.5)
    found, means = [], []
    for _ in range(300):
        of_run, of_unit = rng.normal(size=(seeds, 1)), rng.normal(size=units)
        rest = rng.normal(size=(seeds, units))
        x = deviation[0] * of_run + deviation[1] * of_unit + deviation[2] * rest
        found.append(significance.variance_split(x))
        means.append(x.mean())
    for name, expected in zip(("seed", "example", "rest"), deviation, strict=True):
        values = [getattr(split, name) for split in found]
        assert np.mean(values) == pytest.approx(expected**2, abs=4 * stats.sem(values))
    assert np.sqrt(np.mean([s.error**2 for s in found])) == pytest.approx(np.std(means), rel=0.15)


def test_pseudo_values_of_a_mean_are_its_terms():
    x = np.random.default_rng(6).normal(size=20)
    jackknife = (x.sum() - x) / 19
    np.testing.assert_allclose(significance.pseudo_values(x.mean(), jackknife), x)
    assert significance.variance_split(x[None]).error == pytest.approx(stats.sem(x))
