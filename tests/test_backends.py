"""Attention backends: they agree with the plain form, and the choice among them."""

import contextlib
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

from configs import common
from imat_jax import experiment, sharding
from imat_jax.cli import UsageError
from imat_jax.models import backends
from imat_jax.models.attention import SelfAttention
from imat_jax.models.backends import attend, choose

CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
TURING = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability="7.5")
AMPERE = SimpleNamespace(platform="gpu", device_kind="NVIDIA A100", compute_capability="8.0")
HOPPER = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100", compute_capability="9.0")
AMD = SimpleNamespace(platform="gpu", device_kind="MI300X", compute_capability="gfx942")
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.04}


def arrays(frames, *, rows=4, heads=2, width=8, dtype="float32"):
    """q, k, v and a mask: all real, a prefix, not a prefix, none; large values in padding."""
    rng = np.random.RandomState(frames)
    mask = np.arange(frames) < np.array([frames, frames // 2, frames, 0])[:, None]
    mask[2, rng.permutation(frames)[: frames // 2]] = False
    mask = mask[:rows] if rows > 1 else mask[2:3]
    q, k, v = rng.randn(3, rows, heads, frames, width)
    k, v = (np.where(mask[:, None, :, None], x, 100 * x) for x in (k, v))
    return [jnp.asarray(x, dtype) for x in (q, k, v)], jnp.asarray(mask)


@functools.partial(jax.jit, static_argnames=("by", "mesh"))
def run(qkv, mask, *, by="plain", mesh=None):
    """(output, gradients); `by` is the name of a backend, or a function like `attend`."""
    by = functools.partial(attend, backend=by) if isinstance(by, str) else by

    def loss(qkv):
        with jax.sharding.use_abstract_mesh(mesh) if mesh else contextlib.nullcontext():
            out = by(*qkv, mask)
        wave = jnp.sin(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return (out.astype(jnp.float32) * wave).sum(), out

    grads, out = jax.grad(loss, has_aux=True)(qkv)
    return out, grads


def compare(qkv, mask, **by):
    """With the plain form in float32; and a row without a key is zero, gradients too."""
    with jax.numpy_dtype_promotion("standard"):  # JAX's own functions promote inside
        got = run(qkv, mask, **by)
    expected = run([x.astype(jnp.float32) for x in qkv], mask)
    tolerance = TOLERANCE[qkv[0].dtype.name]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == qkv[0].dtype
        # Gradients of q are as large as keys are, so all are read relative to the largest.
        size = max(1, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a.astype(jnp.float32) / size, b / size, atol=tolerance)
        empty = ~np.asarray(mask.any(axis=1))
        assert not np.asarray(a.astype(jnp.float32))[empty].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_xla(dtype):
    qkv, mask = arrays(11, dtype=dtype)
    compare(qkv, mask, by="xla")


def test_plain_in_bfloat16_under_strict_promotion():
    qkv, mask = arrays(11, dtype="bfloat16")
    out, grads = run(qkv, mask)
    assert {x.dtype.name for x in (out, *grads)} == {"bfloat16"}
    compare(qkv, mask, by="plain")


def test_by_length():
    """What is done around the cuDNN kernel, with another kernel in its place."""
    qkv, mask = arrays(11)

    def by(*qkv):
        out = backends._by_length(*qkv, "xla")
        return jnp.where(mask.any(axis=1)[:, None, None, None], out, 0)

    compare(qkv, mask, by=by)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("frames", "width"), [(11, 64), (300, 128)])
def test_cudnn(frames, width):
    qkv, mask = arrays(frames, width=width, dtype="bfloat16")
    compare(qkv, mask, by="cudnn")


# 11 frames are padded to one block of 128, 520 to five; over a mesh, 140 to one of 256.
@pytest.mark.parametrize(
    ("frames", "rows", "heads", "width", "dtype"),
    [
        (11, 4, 2, 64, "bfloat16"),
        (520, 1, 1, 256, "float32"),
    ],
)
def test_flash(frames, rows, heads, width, dtype):
    qkv, mask = arrays(frames, rows=rows, heads=heads, width=width, dtype=dtype)
    with pltpu.force_tpu_interpret_mode():
        compare(qkv, mask, by="flash")


def test_flash_compiles_for_tpus_up_to_what_needs_one():
    """Published sizes, over a mesh: what JAX hands to the TPU's own compiler can be made."""
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, model=2))
    for frames, width in ((936, 256), (301, 64)):
        x = jax.ShapeDtypeStruct((4, 4, frames, width), jnp.bfloat16)
        mask = jax.ShapeDtypeStruct((4, frames), bool)
        with jax.numpy_dtype_promotion("standard"):
            traced = run.trace([x, x, x], mask, by="flash", mesh=mesh.abstract_mesh)
            text = traced.lower(lowering_platforms=("tpu",)).as_text()
        assert text.count("stablehlo.custom_call @tpu_custom_call") == 3  # out, dk and dv, dq


def test_flash_over_a_mesh():
    mesh = sharding.make_mesh(dict(data=1, fsdp=2, model=2), jax.devices()[:4])
    qkv, mask = jax.device_put(arrays(140), sharding.replicated(mesh))
    with pltpu.force_tpu_interpret_mode():
        compare(qkv, mask, by="flash", mesh=mesh.abstract_mesh)


def test_only_plain_has_dropout():
    qkv, mask = arrays(5)
    words = jnp.asarray([3, 5], jnp.uint32)
    dropped = jax.jit(lambda: attend(*qkv, mask, dropout=0.5, keys=iter([words])))()
    assert jnp.abs(dropped - run(qkv, mask)[0]).max() > 0.1
    with pytest.raises(ValueError, match="'xla' has no dropout"):
        attend(*qkv, mask, dropout=0.5, keys=iter([words]), backend="xla")
    kept = run(qkv, mask, by=functools.partial(attend, dropout=0.5, backend="xla"))[0]
    np.testing.assert_allclose(kept, run(qkv, mask)[0], atol=1e-5)  # as in evaluation
    with pytest.raises(ValueError, match=r"attention is one of .* not 'quick'"):
        attend(*qkv, mask, backend="quick")


def test_self_attention_is_the_same_by_either():
    x = jnp.asarray(np.random.RandomState(0).randn(2, 7, 16), jnp.float32)
    mask = jnp.asarray(np.arange(7) < np.array([[7], [3]]))

    @functools.partial(jax.jit, static_argnums=0)
    def forward(by):
        return SelfAttention(16, 4, attention=by, rngs=nnx.Rngs(0))(x, mask)

    np.testing.assert_allclose(forward("plain"), forward("xla"), atol=1e-5)


@pytest.mark.parametrize(
    ("device", "options", "expected"),
    [
        (CPU, {}, "plain"),
        (CPU, dict(frames=4000), "plain"),
        (HOPPER, {}, "cudnn"),
        (HOPPER, dict(head_widths=[128, 256]), "cudnn"),
        (HOPPER, dict(head_widths=[]), "cudnn"),
        (HOPPER, dict(dtype="float32"), "plain"),
        (HOPPER, dict(dropout=0.1), "plain"),
        (HOPPER, dict(head_widths=[128, 512]), "plain"),
        (HOPPER, dict(head_widths=[20]), "plain"),
        (AMPERE, {}, "cudnn"),
        (AMPERE, dict(head_widths=[256]), "plain"),
        (TURING, {}, "plain"),
        (AMD, {}, "plain"),
        (TPU, {}, "plain"),
        (TPU, dict(frames=2000), "flash"),
        (TPU, dict(frames=2000, dtype="float32"), "flash"),
        (TPU, dict(frames=2000, head_widths=[192]), "plain"),
        (TPU, dict(frames=2000, dropout=0.1), "plain"),
    ],
)
def test_choice(device, options, expected):
    options = dict(dtype="bfloat16", head_widths=[64, 128], frames=1000, dropout=0.0) | options
    assert choose("auto", device, **options) == expected
    assert choose(expected, device, **options) == expected


@pytest.mark.parametrize(
    ("name", "device", "options", "message"),
    [
        ("quick", CPU, {}, '"auto" or one of .*plain'),
        ("xla", CPU, dict(dropout=0.1), "'xla' has no dropout .* attention_dropout=0"),
        ("cudnn", CPU, {}, "'cudnn' needs an NVIDIA GPU, Ampere or later, not 'cpu'"),
        ("cudnn", TURING, {}, "not 'Tesla T4'"),
        ("cudnn", AMD, {}, "not 'MI300X'"),
        ("cudnn", HOPPER, dict(dtype="float32"), "needs dtype=bfloat16, not float32"),
        ("cudnn", HOPPER, dict(dropout=0.1), "has no dropout"),
        ("cudnn", AMPERE, dict(head_widths=[64, 256]), "up to 128 that 8 divides, not 256"),
        ("flash", HOPPER, {}, "needs a TPU, not 'NVIDIA H100'"),
        ("flash", TPU, dict(head_widths=[192]), "that 128 divides, not 192"),
    ],
)
def test_a_backend_that_cannot_run_says_why(name, device, options, message):
    options = dict(dtype="bfloat16", head_widths=[64], frames=1000, dropout=0.0) | options
    with pytest.raises(ValueError, match=message):
        choose(name, device, **options)


@pytest.mark.parametrize("name", ["imat", "sseft"])
def test_the_config_s_choice_reaches_the_model(name):
    metadata = {
        "modalities": {"text": {"dim": 8}, "audio": {"dim": 16}},
        "task": "multiclass",
        "class_names": ["sad", "glad"],
        "statistics": None,
    }
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    config = common.get_config()
    config.model.name = name
    net = experiment.network(config, metadata, mesh)
    assert net.attention == "plain"
    config.model.attention = "xla"
    with pytest.raises(UsageError, match=r"config: model.attention 'xla' has no dropout"):
        experiment.network(config, metadata, mesh)
    config.model.attention_dropout = 0.0
    net = experiment.network(config, metadata, mesh)
    assert net.attention == "xla"
    model = nnx.merge(net.graphdef, net.abstract)
    (layer,) = model.encoders["audio"].layers
    assert layer.attention.attention == "xla"
