"""Utterances in the context of their neighbours: who is in which batch, who sees whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from test_sharding import small

from imat_jax import experiment, inference
from imat_jax.cli import UsageError
from imat_jax.data.corpus import DataError
from imat_jax.data.neighbours import Neighbours
from imat_jax.models.context import Context


def index_of(sizes, seed=0):
    """Groups of these sizes, shuffled."""
    group = np.repeat([f"video-{k}" for k in range(len(sizes))], sizes)
    order = np.concatenate([3 * np.arange(n) for n in sizes])
    mixed = np.random.RandomState(seed).permutation(len(group))
    ids = np.asarray([f"{g}/{o}" for g, o in zip(group, order, strict=True)])
    return {"id": ids[mixed], "group": group[mixed], "order": order[mixed]}


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.integers(1, 4),
    st.booleans(),
    st.integers(1, 6),
    st.sampled_from([None, 0, 1]),
)
def test_every_utterance_once_with_all_its_neighbours(sizes, count, both, room, seed):
    index = index_of(sizes)
    near = Neighbours.find(index, count, both)
    size = room + near.margin
    lengths = np.ones((len(index["id"]), 1), int)
    batches = near.plan(lengths, batch_size=size, buckets=[(1,)], seed=seed)
    assert sorted(np.concatenate([rows for _, rows in batches])) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // room)
    for _, rows in batches:
        left, right = near.around(rows)
        everyone = np.concatenate([left, rows, right])
        assert len(everyone) <= size
        group, order = index["group"][everyone], index["order"][everyone]
        for place in range(len(left), len(left) + len(rows)):
            mine = index["group"] == group[place]
            wanted = np.sort(index["order"][mine])
            at = np.searchsorted(wanted, order[place])
            before = wanted[max(at - count, 0) : at]
            after = wanted[at + 1 : at + 1 + count * both]
            around = order[max(place - len(before), 0) : place + 1 + len(after)]
            np.testing.assert_array_equal(around, [*before, order[place], *after])
            same = group[max(place - len(before), 0) : place + 1 + len(after)]
            assert (same == group[place]).all()


def test_the_order_changes_with_the_epoch_and_stays_within_groups():
    near = Neighbours.find(index_of([5, 5, 5]), 1, False)
    lengths = np.ones((15, 1), int)
    plans = [
        [rows.tolist() for _, rows in near.plan(lengths, batch_size=6, buckets=[(1,)], **kw)]
        for kw in ({"seed": 0}, {"seed": 0}, {"seed": 0, "epoch": 1}, {"seed": 1})
    ]
    assert plans[0] == plans[1] and plans[0] != plans[2] and plans[0] != plans[3]


def test_an_unknown_order_is_an_error():
    index = index_of([2, 2])
    with pytest.raises(DataError, match=r"order of the utterances.*1 of them.*model.context=0"):
        Neighbours.find(index | {"order": np.asarray([0, -1, 0, 1])}, 1, False)
    with pytest.raises(DataError, match="has the order 0 of another"):
        Neighbours.find(index | {"order": np.zeros(4, int)}, 1, False)


@pytest.mark.parametrize("both", [False, True])
def test_who_sees_whom(both):
    """Row i's result changes with row j's vector if j is a neighbour of i, else not in a bit."""
    layer = Context(
        8, 2, both, heads=2, ffn=8, norm="post", dropout=0.0, attention_dropout=0.0,
        kernel_init=nnx.initializers.lecun_normal(), rngs=nnx.Rngs(0),
        attention_init=nnx.initializers.lecun_normal(), dtype=jnp.float32, param_dtype=jnp.float32,
    )  # fmt: skip
    group = jnp.asarray([4, 4, 4, 4, 2, 2, -1, -1], jnp.int32)
    z = jax.random.normal(jax.random.key(0), (8, 8))
    forward = jax.jit(lambda z: layer(z, group))
    sees = np.stack([np.any(forward(z.at[j].add(1))[0] != forward(z)[0], axis=1) for j in range(8)])
    sees = sees.T  # [seer, seen]
    for i in range(8):
        for j in range(8):
            near = -2 <= j - i <= (2 if both else 0)
            wanted = i == j or (near and group[i] == group[j] and int(group[i]) >= 0)
            assert sees[i, j] == wanted, (i, j)
    _, weights = forward(z)
    np.testing.assert_allclose(weights.sum(axis=-1)[2], 1, rtol=1e-5)
    assert not weights[0].any() or both


def outputs_of(dataset, size, **model):
    changes = {f"model.{k}": v for k, v in model.items()} | {"modalities": "text"}
    config = small(dataset, batch_size=size, **changes)
    run = experiment.make(config)
    params = run.params(jax.random.key(0))
    split = run.split("test")
    return inference.outputs(inference.make_step(run), params, split, run)


@pytest.mark.parametrize("both", [False, True])
def test_how_batches_are_cut_changes_nothing(tiny_dataset, both):
    options = {"context": 3, "bidirectional": both}
    small_batches, large = (outputs_of(tiny_dataset, n, **options) for n in (8, 48))
    np.testing.assert_allclose(small_batches, large, atol=2e-6)
    alone = outputs_of(tiny_dataset, 8)
    assert np.abs(alone - large).max() > 1e-3


def test_context_that_does_not_fit(tiny_dataset):
    for changes, said in (
        ({"model.context": 40}, "takes 40 rows"),
        ({"model.context": -1}, "not negative"),
        ({"model.context": 2, "data.mixup": 0.4}, "not with data.mixup"),
        ({"model.context": 2, "accumulate": 2}, "accumulate"),
    ):
        config = small(tiny_dataset)
        config.update_from_flattened_dict(changes)
        with pytest.raises(UsageError, match=said):
            experiment.make(config)
