"""How states lie on a mesh, and that no mesh and no accumulation changes what is learned."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from configs import common
from imat_jax import experiment, optim, sharding, update
from imat_jax.cli import UsageError
from imat_jax.data import loader

ONE = dict(data=1, fsdp=1, model=1)


@pytest.mark.parametrize(
    ("name", "shape", "mesh", "expected"),
    [
        ("encoders/text/layers/0/ffn/inner/kernel", (64, 128), dict(model=4), P(None, "model")),
        ("opt_state/1/mu/x/ffn/outer/kernel", (128, 64), dict(model=4, fsdp=2), P("model", "fsdp")),
        ("x/attention/qkv/kernel", (64, 3, 4, 16), dict(model=2), P(None, None, "model", None)),
        ("x/attention/out/kernel", (4, 16, 64), dict(fsdp=8), P(None, None, "fsdp")),
        ("head/dense/kernel", (576, 64), dict(fsdp=8, model=2), P("fsdp", None)),
        ("head/dense/bias", (8,), dict(fsdp=8), P(None)),  # too small
        ("encoders/audio/table", (937, 512), dict(fsdp=4), P(None, "fsdp")),
        ("opt_state/1/0/count", (), dict(fsdp=8), P()),
    ],
)  # fmt: skip
def test_rules(name, shape, mesh, expected):
    assert sharding.spec(name, shape, ONE | mesh, 64) == expected


@given(
    st.lists(st.sampled_from([1, 2, 3, 4, 8, 12, 64]), min_size=1, max_size=3),
    st.sampled_from([1, 2, 4, 8]),
)
def test_a_large_array_is_split_over_fsdp_or_refused(shape, ways):
    """Whatever the shape, each device holds its share, or the error says what does not divide."""
    shape = tuple(shape)
    try:
        spec = sharding.spec("x", shape, ONE | dict(fsdp=ways), 1)
    except UsageError as error:
        assert all(n % ways for n in shape) and f"mesh.fsdp={ways}" in str(error)
        return
    held = [n // ways if axis else n for n, axis in zip(shape, spec, strict=True)]
    assert np.prod(held) * ways == np.prod(shape)


def test_what_does_not_divide_is_named():
    with pytest.raises(UsageError, match=r"mesh.model=3 does not divide the 4 of axis 2 of .*qkv"):
        sharding.spec("x/attention/qkv/kernel", (64, 3, 4, 16), ONE | dict(model=3), 1)


def small(dataset, **changes):
    config = common.get_config()
    config.dataset, config.modalities = str(dataset.path), "text+audio"
    config.update_from_flattened_dict(
        {"model.width": 16, "model.heads": 4, "model.ffn": 16, "model.head_width": 16,
         "data.buckets": 1, "batch_size": 40, "steps": 3, "mesh.fsdp_min": 64,
         "model.dropout": 0.0, "model.attention_dropout": 0.0,
         "optim.schedule": "constant", "optim.warmup": 0.0} | changes
    )  # fmt: skip
    return config


def trained(config):
    """(losses, parameters) of three updates; the last batch of an epoch is short."""
    run = experiment.make(config)
    tx = optim.make(config.optim, config.steps)
    state, step = update.make_initial(run, tx)(config.seed), update.make_update(run, tx)
    losses = []
    split = run.split("train", seed=0, steps=3)
    assert sum(split[i]["weight"].sum() for i in range(3)) == 96
    for batch in loader.read(split):
        state, values = step(state, sharding.put(batch, run.mesh))
        losses.append(float(values["loss"]))
    return losses, jax.device_get(state["params"]), state


@pytest.fixture(scope="module")
def expected(tiny_dataset):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return trained(small(tiny_dataset))[:2]


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 1, 4), (2, 2, 2)], ids=str)
def test_any_mesh_learns_the_same(expected, tiny_dataset, library_promotion, mesh):
    changes = {f"mesh.{axis}": n for axis, n in zip(sharding.AXES, mesh, strict=True)}
    losses, params, state = trained(small(tiny_dataset, **changes))
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)  # noqa: E731
    jax.tree.map(close, params, expected[1])
    for path, array in jax.tree.leaves_with_path(state):
        if "kernel" in jax.tree_util.keystr(path) and array.size >= 64:
            whole = array.addressable_shards[0].data.size
            assert whole * mesh[1] <= array.size, path  # optimiser state as well as parameters


def test_accumulation_is_the_large_batch(expected, tiny_dataset, library_promotion):
    """Sums over microbatches, not means of means: the last batch has 16 of 40 rows."""
    losses, params, _ = trained(small(tiny_dataset, accumulate=5))
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)  # noqa: E731
    jax.tree.map(close, params, expected[1])


def test_a_batch_that_does_not_divide_is_an_error(tiny_dataset):
    with pytest.raises(UsageError, match=r"batch_size 40 .* 8 devices .* in 3 microbatches"):
        experiment.make(small(tiny_dataset, accumulate=3))


def test_my_rows_are_all_in_one_process():
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, model=2))
    np.testing.assert_array_equal(sharding.my_rows(mesh, 12), np.arange(12))
