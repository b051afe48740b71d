"""Baselines: one signature, masks, gradients, the equations of their papers, MulT's weights."""

import ast
import functools
import inspect
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_arrays import GOLDEN_NAME, draw, load_golden, mult_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import baselines
from imat_jax import convert, flops, models
from imat_jax.models import misa, mult
from imat_jax.models.lmf import low_rank_fusion
from imat_jax.models.selfmm import unimodal_loss
from imat_jax.models.tfn import outer_product
from imat_jax.models.unimodal_labels import Labels, generated

DIMS = {"text": 6, "audio": 5, "vision": 4}
ALONE = {"audio": 5}
NAMES = [name for name in models.MODELS if name not in ("imat", "sseft")]
ROWS = 6


def config(model, **changes):
    c = baselines.get_config(f"model={model}").model
    c.update({"width": 8, "heads": 2, "ffn": 8, "head_width": 8})
    rates = ("dropout", "attention_dropout", "head_dropout", "modality_dropout")
    c.update(dict.fromkeys(rates, 0.02))
    c.mult.update({"layers": 1, "memory_layers": 1, "embed_dropout": 0.02})
    c.tfn.tensor_width = 3
    c.update_from_flattened_dict(changes)
    return c


def make(model, dims=DIMS, dtype="float32", **changes):
    return models.make(
        config(model, **changes), dims, 1 if model == "selfmm" else 3, nnx.Rngs(0), dtype=dtype,
        max_frames=dict.fromkeys(dims, 16), device=jax.devices()[0],
    )  # fmt: skip


def made(model, *args, **changes):
    """(graphdef, parameters) of a small model; drawn by NumPy, for compiling `make` takes long."""
    rng = np.random.RandomState(0)

    def drawn(path, p):
        x = rng.randn(*p.shape) * 0.1
        path = jax.tree_util.keystr(path)
        x = x * 10 / np.sqrt(p.shape[-2]) if "kernel" in path and len(p.shape) > 1 else x
        return jnp.asarray(x + 1 if "scale" in path else x, p.dtype)

    shaped = nnx.eval_shape(lambda: make(model, *args, **changes))
    graphdef, shapes = nnx.split(shaped)
    return graphdef, jax.tree.map_with_path(drawn, shapes)


def make_batch(dims=DIMS, seed=0):
    rng = np.random.RandomState(seed)
    batch = {}
    for m, frames in zip(DIMS, (4, 7, 5), strict=True):
        if m in dims:
            lengths = rng.randint(1, frames, ROWS)  # at least one frame of padding
            batch[m] = jnp.asarray(rng.randn(ROWS, frames, DIMS[m]), jnp.float32)
            batch[f"{m}_mask"] = jnp.asarray(np.arange(frames) < lengths[:, None])
    batch["label"] = jnp.asarray(rng.randn(ROWS), jnp.float32)
    own = {f"unimodal_label/{m}": jnp.asarray(rng.randn(ROWS), jnp.float32) for m in dims}
    return batch | own


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, params, batch):
    return nnx.merge(graphdef, params)(batch, deterministic=True)


def without(batch, m, row):
    """The batch without modality m in one row, and its frames there NaN."""
    gone = batch[f"{m}_mask"].at[row].set(False)
    return batch | {f"{m}_mask": gone, m: jnp.where(gone[..., None], batch[m], jnp.nan)}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_padding_and_missing_modalities(name):
    graphdef, params = made(name)
    batch = make_batch()
    outputs, extras = run(graphdef, params, batch)
    assert outputs.shape == (ROWS, 1 if name == "selfmm" else 3) and outputs.dtype == jnp.float32
    assert np.isfinite(outputs).all() and np.std(outputs, axis=0).min() > 1e-4
    if "loss" in extras:
        assert extras["loss"].shape == (ROWS,) and extras["loss"].dtype == jnp.float32
        assert np.isfinite(extras["loss"]).all()
    # What is in padding is never read.
    padding = {m: jnp.where(batch[f"{m}_mask"][..., None], batch[m], jnp.nan) for m in DIMS}
    np.testing.assert_array_equal(run(graphdef, params, batch | padding)[0], outputs)
    wider = {
        k: jnp.pad(x, ((0, 0), (0, 3), (0, 0))[: x.ndim])
        for k, x in batch.items() if k.partition("_")[0] in DIMS
    }  # fmt: skip
    np.testing.assert_allclose(run(graphdef, params, batch | wider)[0], outputs, atol=2e-6)
    # A row without a modality: the other rows stay, its own outputs change and are finite.
    for m in DIMS:
        changed = run(graphdef, params, without(batch, m, 2))
        others = np.arange(ROWS) != 2
        np.testing.assert_allclose(changed[0][others], outputs[others], atol=1e-6)
        assert np.isfinite(changed[0]).all() and np.abs(changed[0][2] - outputs[2]).max() > 1e-5
        assert np.isfinite(changed[1].get("loss", 0)).all()
    # A row of none, as fills up a last batch: finite, and so are its losses.
    empty = functools.reduce(lambda b, m: without(b, m, 2), DIMS, batch)
    outputs, extras = run(graphdef, params, empty)
    assert np.isfinite(outputs).all() and np.isfinite(extras.get("loss", 0)).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_modality_in_16_bits(name, library_promotion):
    graphdef, params = made(name, ALONE, "bfloat16")
    batch = make_batch(ALONE)
    outputs, _ = run(graphdef, params, batch)
    assert outputs.shape[0] == ROWS and outputs.dtype == jnp.float32
    assert np.isfinite(outputs).all() and np.std(outputs, axis=0).min() > 1e-4
    types = {str(x.aval.dtype) for x in jaxpr_of(graphdef, params, batch)}
    assert "bfloat16" in types


def jaxpr_of(graphdef, params, batch):
    """All intermediate values of a call."""
    jaxpr = jax.make_jaxpr(lambda p, b: nnx.merge(graphdef, p)(b, deterministic=True))(
        params, batch
    )
    return [x for equation in jaxpr.eqns for x in equation.outvars]


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_those_of_the_docstrings(name):
    made = models.CLASSES[name]
    dims = {"text": 300, "audio": 74, "vision": 35}
    model = nnx.eval_shape(lambda: made(dims, 1, rngs=nnx.Rngs(0)))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    said = re.search(
        r"Parameters: ([\d,]+) \(features 300, 74, 35", sys.modules[made.__module__].__doc__
    )
    assert int(said[1].replace(",", "")) == count
    if name == "mult":  # as the authors', without key biases of six and three stacks
        assert count + 5 * (6 * 30 + 3 * 60) == 1_073_731


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("dropout", 1.0, "model.dropout is a rate from 0 to below 1, not 1.0"),
        ("modality_dropout", 1.0, "model.modality_dropout is a rate"),
        ("attention_dropout", -0.1, "model.attention_dropout is a rate"),
        ("input_dropout.audio", 1.5, "model.input_dropout.audio is a rate"),
        ("mult.embed_dropout", float("nan"), "model.mult.embed_dropout is a rate"),
        ("encoder_layers", -1, "model.encoder_layers is 0 or more, not -1"),
        ("heads", 0, "model.heads is 1 or more"),
        ("ffn", 0, "model.ffn is 1 or more"),
        ("ima_layers", 0, "model.ima_layers is 1 or more"),
        ("width", -8, "model.width is 0 or more"),
    ],
)
@pytest.mark.parametrize("name", ["imat", "late"])
def test_rates_and_sizes_that_cannot_be(name, key, value, said):
    config = baselines.get_config(f"model={name}")
    config.update_from_flattened_dict({f"model.{key}": value})
    with pytest.raises(ValueError, match=said):
        models.make(
            config.model, DIMS, 1, nnx.Rngs(0), dtype="float32", max_frames=dict.fromkeys(DIMS, 8),
            device=jax.devices()[0],
        )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_configs_have_the_constructors_defaults_of_what_only_they_read(name):
    """MulT is smaller than published, as docs/models.md says; keys are all arguments."""
    named = models.arguments(models.CLASSES[name])
    own = dict(config(name).get(name, {}))
    assert set(own) <= named
    defaults = inspect.signature(models.CLASSES[name].__init__).parameters
    common = baselines.get_config(f"model={name}").model.get(name, {})
    for key, value in common.items():
        if key not in ("layers", "memory_layers"):
            assert defaults[key].default == value, key


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("early", {"name": "earlier"}, "model.name is one of"),
        ("late", {"encoder_layers": 0}, "reads no frame"),
        ("late", {"heads": 3}, "does not divide"),
        ("tfn", {"tfn.tensor_width": 0}, r"tfn\.tensor_width is 1"),
        ("tfn", {"head_width": 0}, "tfn needs a head_width"),
        ("lmf", {"lmf.rank": 0}, r"lmf\.rank is 1 or more, not 0"),
        ("mult", {"mult.mode": "published"}, r"mult\.mode is one of"),
        ("mult", {"mult.layers": 0}, r"mult\.layers"),
        ("mult", {"width": 0}, "mult needs a width"),
        ("misa", {"misa.difference": -1.0}, "0 or more"),
        ("misa", {"width": 0}, "misa needs a width"),
        ("selfmm", {"selfmm.label_range": 0.0}, "above 0"),
        ("mbt", {"mbt.fusion_layers": 1}, "2 or more"),
        ("mbt", {"width": 0}, "mbt needs a width"),
    ],
)
def test_what_cannot_be_is_an_error(name, changes, said):
    with pytest.raises(ValueError, match=said):
        nnx.eval_shape(lambda: make(name, **changes))


def test_the_published_mult_goes_without_a_modality_too():
    graphdef, params = made("mult", **{"mult.mode": "reference"})
    batch = make_batch()
    whole, _ = run(graphdef, params, batch)
    gone, _ = run(graphdef, params, without(batch, "audio", 2))
    assert np.isfinite(gone).all() and np.abs(gone[2] - whole[2]).max() > 1e-5


def test_self_mm_is_for_one_score():
    with pytest.raises(ValueError, match=r"selfmm is for the task sentiment.* 4 outputs"):
        models.CLASSES["selfmm"](DIMS, 4, rngs=nnx.Rngs(0))


def test_without_layers_vectors_are_of_mean_and_deviation():
    graphdef, params = made("late", encoder_layers=0, cls_token="statistics")
    batch = make_batch()
    # Frames in another order have the same mean and deviation.
    turned = {}
    for m in DIMS:
        turned |= {m: batch[m][:, ::-1], f"{m}_mask": batch[f"{m}_mask"][:, ::-1]}
    outputs, _ = run(graphdef, params, batch)
    np.testing.assert_allclose(run(graphdef, params, batch | turned)[0], outputs, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_low_rank_fusion_is_a_tensor_product(rank, outputs, widths):
    """LMF equation: h = W · (⊗ [1; x_m]) with W = Σ_r ranks_r ⊗ w_m^(r), formed in full."""
    rng = np.random.RandomState(rank + 10 * outputs + 100 * len(widths))
    vectors = [rng.randn(2, d).astype(np.float32) for d in widths]
    kernels = [rng.randn(rank, d + 1, outputs).astype(np.float32) for d in widths]
    ranks = rng.randn(rank).astype(np.float32)
    full = np.zeros((outputs, *(d + 1 for d in widths)))
    for r in range(rank):
        for k in range(outputs):
            part = np.float64(ranks[r])
            for kernel in kernels:
                part = np.multiply.outer(part, kernel[r, :, k].astype(np.float64))
            full[k] += part
    tensor = np.asarray(outer_product([jnp.asarray(x) for x in vectors]), np.float64)
    expected = tensor @ full.reshape(outputs, -1).T
    got = low_rank_fusion(
        *(list(map(jnp.asarray, x)) for x in (vectors, kernels)), jnp.asarray(ranks)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_outer_product_has_all_products():
    got = outer_product([jnp.asarray([[2.0, 3.0]]), jnp.asarray([[5.0]]), jnp.asarray([[7.0]])])
    np.testing.assert_array_equal(got, [[1, 7, 5, 35, 2, 14, 10, 70, 3, 21, 15, 105]])


def test_misa_losses_by_hand():
    x = jnp.asarray([[0.0], [1.0], [9.0]])  # the last row does not count
    y = jnp.asarray([[0.5], [0.5], [-9.0]])
    rows = jnp.asarray([1.0, 1.0, 0.0])
    # Means agree; central moments of x are 1/4, 0, 1/16, 0 and those of y 0.
    np.testing.assert_allclose(misa.moment_discrepancy(x, y, rows), 0.25 + 0.0625, rtol=1e-6)
    np.testing.assert_allclose(misa.moment_discrepancy(x + 3, x, rows), 3, rtol=1e-5)
    assert misa.moment_discrepancy(x, x, rows) == 0
    assert np.isfinite(jax.grad(lambda x: misa.moment_discrepancy(x, x, rows))(x)).all()
    # Centred rows of x are ∓(1, 0) and of y ∓(3, 4) / 5: xᵀ y is [[2 · 3/5, 2 · 4/5], [0, 0]].
    x = jnp.asarray([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]])
    y = jnp.asarray([[0.0, 0.0], [6.0, 8.0], [9.0, -9.0]])
    np.testing.assert_allclose(misa.covariance(x, y, rows), (1.2**2 + 1.6**2) / 4, rtol=1e-5)


def test_misa_adds_its_three_losses():
    """The loss of the model is that of its vectors, over the rows that have them."""
    batch = functools.reduce(lambda b, m: without(b, m, 4), DIMS, make_batch())
    losses = {}
    for name in ("similarity", "difference", "reconstruction"):
        off = {
            f"misa.{n}": float(n == name) for n in ("similarity", "difference", "reconstruction")
        }
        graphdef, params = made("misa", **off)
        losses[name], extras = (lambda e: (e["loss"], e))(run(graphdef, params, batch)[1])
    there = jnp.asarray(np.arange(ROWS) != 4, jnp.float32)
    shared, own = ([extras[f"{k}/{m}"] for m in DIMS] for k in ("shared", "own"))
    pairs = [(0, 1), (0, 2), (1, 2)]
    similar = [misa.moment_discrepancy(shared[i], shared[j], there) for i, j in pairs]
    np.testing.assert_allclose(losses["similarity"], np.full(ROWS, np.mean(similar)), rtol=1e-5)
    different = [misa.covariance(own[i], own[j], there) for i, j in pairs]
    different += [misa.covariance(o, s, there) for o, s in zip(own, shared, strict=True)]
    np.testing.assert_allclose(losses["difference"], np.full(ROWS, np.sum(different)), rtol=1e-5)
    decode = losses["reconstruction"]
    assert decode[4] == 0 and decode[jnp.asarray([0, 1, 2, 3, 5])].min() > 0
    assert len(set(decode.tolist())) == ROWS


def test_self_mm_loss_by_hand():
    own, label, y = (jnp.asarray([x], jnp.float32) for x in (0.5, 2.0, 1.0))
    np.testing.assert_allclose(unimodal_loss(own, label, y), np.tanh(1) * 1.5, rtol=1e-6)
    assert unimodal_loss(own, y, y) == 0  # in the first epoch


def test_self_mm_labels_by_hand():
    """Two epochs of four utterances, two a batch, features of width 1, text alone."""
    np.testing.assert_allclose(generated(*(jnp.asarray([x]) for x in (2.0, 3.0, 1.5))), 2 + 1.75)
    labels = Labels(examples=4, batch_size=2, modalities=("text",), width=1, limit=3.0)
    y = np.asarray([2.0, -1.0, 0.0, 1.0], np.float32)
    fused, own = np.asarray([4.0, 0.0, 9.0, 2.0]), np.asarray([1.0, -1.0, 9.0, 3.0])
    present = np.asarray([True, True, True, True])
    memory, visit = labels.empty(), {}
    for step, rows in enumerate(([0, 1], [2, 3], [0, 3], [1, 2])):
        batch = {"index": jnp.asarray(rows, jnp.int32), "label": jnp.asarray(y[rows])}
        batch |= labels.recall(memory, batch, jnp.int32(step))
        visit[step] = np.asarray(batch["unimodal_label/text"])
        seen = {"feature/fusion": fused[rows, None], "feature/text": own[rows, None]}
        seen = {k: jnp.asarray(x, jnp.float32) for k, x in seen.items()}
        seen["present/text"] = jnp.asarray(present[rows])
        memory = labels.remember(memory, batch, seen, jnp.int32(step))
        if step == 1:
            np.testing.assert_array_equal(memory["label"]["text"], y)
            np.testing.assert_array_equal(memory["feature"]["text"][:, 0], own)
    # Centres of positive (0 and 3) and negative (1) utterances: fused 3 and 0, text 2 and -1.
    for row in (0, 3):
        alpha = (abs(fused[row]) - abs(fused[row] - 3)) / abs(fused[row] - 3)
        mine = (abs(own[row] + 1) - abs(own[row] - 2)) / abs(own[row] - 2)
        guess = np.clip(0.5 * y[row] * mine / alpha + 0.5 * (y[row] + mine - alpha), -3, 3)
        expected = y[row] / 3 + 2 / 3 * guess  # epoch 2
        np.testing.assert_allclose(memory["label"]["text"][row], expected, rtol=1e-5)
    np.testing.assert_array_equal(visit[2], y[[0, 3]])


def test_self_mm_remembers_only_what_was_there():
    labels = Labels(examples=3, batch_size=3, modalities=("text",), width=1, limit=3.0)
    memory = labels.empty()
    batch = {"index": jnp.asarray([2, 0, -1], jnp.int32), "label": jnp.asarray([1.0, -1.0, 7.0])}
    batch |= labels.recall(memory, batch, jnp.int32(0))
    seen = {f"feature/{m}": jnp.asarray([[5.0], [6.0], [7.0]]) for m in ("fusion", "text")}
    seen["present/text"] = jnp.asarray([False, True, True])
    after = labels.remember(memory, batch, seen, jnp.int32(0))
    np.testing.assert_array_equal(after["feature"]["fusion"][:, 0], [6, 0, 5])
    np.testing.assert_array_equal(after["feature"]["text"][:, 0], [6, 0, 0])
    np.testing.assert_array_equal(after["known"]["text"], [1, 0, 0])
    np.testing.assert_array_equal(after["label"]["text"], [-1, 0, 1])
    # Of text there is no positive feature: its labels do not move, and are no NaN.
    batch |= labels.recall(after, batch, jnp.int32(1))
    seen["present/text"] = jnp.asarray([True, True, True])
    after = labels.remember(after, batch, seen, jnp.int32(1))
    np.testing.assert_array_equal(after["label"]["text"], [-1, 0, 1])


@pytest.fixture(scope="module")
def golden():
    z = load_golden("mult")
    c = ast.literal_eval(str(z["config"]))
    batch = {}
    for (ours, theirs), frames, dim in zip(GOLDEN_NAME.items(), c["lens"], c["dims"], strict=True):
        batch[ours] = jnp.asarray(draw(theirs, (c["batch"], frames, dim)))
        batch[f"{ours}_mask"] = jnp.ones((c["batch"], frames), bool)
    return z, mult_state_dict(z), batch


def test_mult_is_the_published_one(golden):
    z, state_dict, batch = golden
    outputs, extras = run(*nnx.split(convert.mult(state_dict, mode="reference")), batch)
    np.testing.assert_allclose(outputs, z["logits"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(extras["hidden"], z["hidden"], atol=1e-5, rtol=0)


def small_mult(dims=(7, 6, 5), width=6, layers=1, memory=2, outputs=2, targets="lav"):
    """A state dict of other sizes under the reference's names."""
    shapes, joint = {}, 2 * width * len(targets)
    shapes |= {f"proj_{t}.weight": (width, d, 1) for t, d in zip("lav", dims, strict=True)}
    shapes |= {f"proj{i}.{k}": (joint, joint)[: 2 - (k == "bias")]
               for i in (1, 2) for k in ("weight", "bias")}  # fmt: skip
    shapes |= {"out_layer.weight": (outputs, joint), "out_layer.bias": (outputs,)}
    stacks = {f"trans_{t}_with_{s}": (width, layers) for t in targets for s in "lav" if s != t}
    stacks |= {f"trans_{t}_mem": (2 * width, memory) for t in "lav"}
    for name, (d, count) in stacks.items():
        shapes |= {f"{name}.layer_norm.{k}": (d,) for k in ("weight", "bias")}
        for i in range(count):
            layer = {"self_attn.in_proj_weight": (3 * d, d), "self_attn.in_proj_bias": (3 * d,)}
            for part, a, b in (("self_attn.out_proj", d, d), ("fc1", 4 * d, d), ("fc2", d, 4 * d)):
                layer |= {f"{part}.weight": (a, b), f"{part}.bias": (a,)}
            layer |= {f"layer_norms.{n}.{k}": (d,) for n in (0, 1) for k in ("weight", "bias")}
            shapes |= {f"{name}.layers.{i}.{part}": shape for part, shape in layer.items()}
    return {name: draw(name, shape) for name, shape in shapes.items()}


def test_mult_of_other_sizes():
    state_dict = {f"module.{k}": v for k, v in small_mult(dims=(7, 6, 5)).items()}
    model = convert.mult(state_dict, num_heads=3, dropout=0.0)
    # Features of the streams' width are not projected, whatever the state dict holds.
    assert list(model.project) == ["text", "vision"]
    assert len(model.cross["text_from_audio"].layers) == 1
    assert len(model.memory["vision"].layers) == 2 and model.memory["vision"].width == 12
    attention = model.cross["vision_from_text"].layers[0].attention
    assert attention.query.kernel.shape == (6, 3, 2)
    theirs = state_dict["module.trans_v_with_l.layers.0.self_attn.in_proj_weight"][12:]
    np.testing.assert_array_equal(attention.value.kernel[...].reshape(6, 6), theirs.T)
    alone = convert.mult(small_mult(targets="a"), num_heads=2)
    assert alone.targets == ("audio",) and set(alone.cross) == {
        "audio_from_text",
        "audio_from_vision",
    }
    batch = {m: jnp.ones((2, 3, d)) for m, d in zip(DIMS, (7, 6, 5), strict=True)}
    batch |= {f"{m}_mask": jnp.ones((2, 3), bool) for m in DIMS}
    assert run(*nnx.split(alone), batch)[0].shape == (2, 2)
    # The masks of the default are another function.
    published = convert.mult(small_mult(targets="a"), num_heads=2, mode="reference")
    batch |= {m: jnp.asarray(draw(m, batch[m].shape)) for m in DIMS}
    batch["audio_mask"] = batch["audio_mask"].at[:, 2:].set(False)
    assert (
        np.abs(run(*nnx.split(alone), batch)[0] - run(*nnx.split(published), batch)[0]).max() > 0.01
    )


def test_mult_state_dicts_that_do_not_fit():
    state_dict = small_mult()
    name = "trans_l_with_a.layers.0.fc2.weight"
    with pytest.raises(ValueError, match=rf"{name} has shape \(3, 3\)"):
        convert.mult(state_dict | {name: np.zeros((3, 3))}, num_heads=2)
    with pytest.raises(KeyError, match=rf"1 parameters are missing, such as {name}"):
        convert.mult({k: v for k, v in state_dict.items() if k != name}, num_heads=2)
    with pytest.raises(KeyError, match=r"not a MulT state dict.*holds nothing"):
        convert.mult({})
    with pytest.raises(ValueError, match="6 does not divide into 4 heads"):
        convert.mult(state_dict, num_heads=4)


def test_the_published_mask_and_positions():
    np.testing.assert_array_equal(
        mult.published_mask(2, 4), [[True, True, True, False], [True, True, True, True]]
    )
    np.testing.assert_array_equal(
        mult.published_mask(3, 2), [[True, True], [True, True], [True, True]]
    )
    table = mult.positions(3, 7, 3)
    assert table.shape == (3, 7) and (table[:, 6] == 0).all()
    np.testing.assert_allclose(table[:, 0], np.sin([1, 2, 3]), rtol=1e-6)
    np.testing.assert_allclose(table[:, 5], np.cos(np.asarray([1, 2, 3]) * 1e-4), rtol=1e-6)


def test_the_last_real_frame():
    x = jnp.arange(12.0).reshape(2, 6, 1)
    mask = jnp.asarray([[True, False, True, False, False, False], [False] * 6])
    np.testing.assert_array_equal(mult.last_frame(x, mask), [[2], [0]])


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_those_that_xla_counts(name):
    """Of one utterance without padding; XLA counts elementwise operations too."""
    graphdef, params = made(name, width=32, heads=4, ffn=64, head_width=32)
    frames = {"text": 9, "audio": 14, "vision": 11}
    batch = {m: jax.ShapeDtypeStruct((1, t, DIMS[m]), jnp.float32) for m, t in frames.items()}
    batch |= {f"{m}_mask": jax.ShapeDtypeStruct((1, t), jnp.bool) for m, t in frames.items()}
    lowered = run.lower(graphdef, params, batch)
    dots = sum(map(_dot, re.findall(r"stablehlo\.dot_general .*", lowered.as_text())))
    ours = flops.forward(nnx.merge(graphdef, params), np.asarray([list(frames.values())]))[0]
    np.testing.assert_allclose(ours, dots, rtol=0.02)
    absent = flops.forward(nnx.merge(graphdef, params), np.asarray([[9, 14, 0]]))[0]
    assert absent < ours or name == "early"


def _dot(line: str) -> float:
    """Operations of a product in StableHLO."""
    kinds = [[int(n) for n in t.split("x")[:-1]] for t in re.findall(r"tensor<([^>]+)>", line)]
    left, result = kinds[0], kinds[-1]
    contracted = re.search(r"contracting_dims = \[([\d, ]*)\]", line)[1]
    depth = np.prod([left[int(i)] for i in contracted.split(",") if i.strip()])
    return 2.0 * np.prod(result) * depth
