"""The plan: every example once, the same batches everywhere, seeking equals replaying."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imat_jax.data.plan import assign, fit_buckets, padding, plan


@st.composite
def corpora(draw):
    """Lengths [N, M] of up to 3 modalities, some of them missing, and a way to batch them."""
    count, modalities = draw(st.integers(1, 120)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**16))
    lengths = np.random.RandomState(seed).randint(0, 60, (count, modalities))
    return lengths, draw(st.integers(1, 5)), draw(st.integers(1, 40))


@given(corpora(), st.one_of(st.none(), st.integers(0, 9)), st.integers(0, 5))
def test_every_example_exactly_once_in_the_fewest_batches(corpus, seed, epoch):
    lengths, num_buckets, batch_size = corpus
    buckets = fit_buckets(lengths, num_buckets)
    batches = plan(lengths, batch_size=batch_size, buckets=buckets, seed=seed, epoch=epoch)
    indices = np.concatenate([rows for _, rows in batches])
    assert sorted(indices) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sum(len(rows) < batch_size for _, rows in batches) <= 1
    for shape, rows in batches:
        assert shape in buckets
        assert (lengths[rows] <= shape).all()


@given(corpora())
def test_buckets_form_a_chain_that_holds_everything(corpus):
    lengths, num_buckets, _ = corpus
    buckets = fit_buckets(lengths, num_buckets)
    assert 1 <= len(buckets) <= num_buckets
    for small, large in itertools.pairwise(buckets):
        assert all(a <= b for a, b in zip(small, large, strict=True)) and small != large
    assert (lengths <= np.asarray(buckets[-1])).all()
    assert min(min(shape) for shape in buckets) >= 1


@given(corpora())
def test_more_buckets_never_pad_more(corpus):
    lengths = corpus[0]

    def padded(num_buckets):
        buckets = np.asarray(fit_buckets(lengths, num_buckets))
        return buckets[assign(lengths, buckets)].sum()

    assert padded(4) <= padded(2) <= padded(1)


def test_buckets_are_optimal_on_a_case_that_can_be_enumerated():
    lengths = np.asarray([[1], [2], [3], [20], [21], [60]])
    got = fit_buckets(lengths, 3, multiple=1)
    costs = {}
    for cuts in itertools.combinations(range(1, 6), 2):
        shapes = [int(lengths[end - 1, 0]) for end in (*cuts, 6)]
        spans = np.diff([0, *cuts, 6])
        costs[tuple(shapes)] = int(spans @ shapes)
    assert tuple(s for (s,) in got) == min(costs, key=costs.get) == (3, 21, 60)


def test_the_order_depends_on_seed_and_epoch_only():
    lengths = np.random.RandomState(0).randint(1, 50, (64, 2))
    buckets = fit_buckets(lengths, 3)

    def order(seed, epoch):
        batches = plan(lengths, batch_size=8, buckets=buckets, seed=seed, epoch=epoch)
        return [rows.tolist() for _, rows in batches]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(None, 0) == order(None, 1)


def test_the_order_of_this_seed_never_changes():
    # A run that is resumed with a newer NumPy must go on with the same batches.
    lengths = np.arange(1, 11)[:, None]
    batches = plan(lengths, batch_size=4, buckets=[(10,)], seed=7, epoch=3)
    got = [rows.tolist() for _, rows in batches]
    assert got == [[9, 0], [8, 3, 5, 2], [7, 4, 1, 6]]


def test_an_example_that_fits_no_bucket_is_an_error():
    with pytest.raises(ValueError, match="largest bucket"):
        plan(np.asarray([[9]]), batch_size=1, buckets=[(8,)], seed=0)


def test_padding_is_the_share_of_real_frames():
    lengths = np.asarray([[1, 4], [2, 8]])
    batches = plan(lengths, batch_size=2, buckets=[(2, 8)], seed=None)
    np.testing.assert_allclose(padding(lengths, batches), [3 / 4, 12 / 16])
