"""Our statistics against statsmodels', which takes long to import."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables as contingency
from statsmodels.stats import multitest, power
from test_significance import exchanged

from imat_jax import significance


def test_permutation_of_accuracies_is_the_exact_mcnemar_test():
    rng = np.random.default_rng(1)
    label = rng.integers(3, size=300)
    one = rng.normal(size=(300, 3)) + 1.2 * np.eye(3)[label]
    other = one + 0.5 * rng.normal(size=(300, 3))
    a, b = (x.argmax(axis=1) == label for x in (one, other))
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    exact = contingency.mcnemar(table, exact=True).pvalue
    p = significance.permutation_test(
        exchanged("multiclass", label, [one], [other], "acc"), 300, rng, count=20_000
    )
    assert 0.001 < exact < 0.9
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p):
    np.testing.assert_allclose(
        significance.holm(p), multitest.multipletests(p, method="holm")[1], rtol=1e-12
    )


def test_minimum_detectable_difference_is_statsmodels():
    expected = power.NormalIndPower(ddof=0).solve_power(
        effect_size=None, nobs1=686, alpha=0.05, power=0.8, ratio=0
    )
    assert significance.minimum_detectable(0.4, 686) == pytest.approx(0.4 * expected, rel=1e-5)
