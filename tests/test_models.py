"""IMAT: parity with the published system, the one-query identity, missing modalities, options."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_arrays import sseft_batch, sseft_state_dict, sseft_target

from configs import ablation
from imat_jax import convert, models
from imat_jax.models.attention import OneQueryAttention, masked_softmax
from imat_jax.models.dropout import dropout, layer_keys, random_bits
from imat_jax.models.encoder import frame_moments
from imat_jax.models.imat import IMAT, directions, drop_modalities

GOLDEN = pathlib.Path(__file__).parent / "golden"
DIMS = {"text": 12, "audio": 8, "vision": 4}
PAIR = {"text": 12, "audio": 8}  # two stacks instead of six: compiles in a third of the time
# The nine CLS vectors under the reference's names.
CLS = {
    "j_text": "cls/text", "j_aud": "cls/audio", "j_vid": "cls/vision",
    "t2a_r": "cls/text<-audio", "t2v_r": "cls/text<-vision", "a2t_r": "cls/audio<-text",
    "a2v_r": "cls/audio<-vision", "v2t_r": "cls/vision<-text", "v2a_r": "cls/vision<-audio",
}  # fmt: skip


def make_batch(rows=5, seed=0, dims=DIMS, dtype=np.float32):
    rng = np.random.RandomState(seed)
    batch = {}
    for m, dim in dims.items():
        frames = int(rng.randint(3, 9))
        batch[m] = jnp.asarray(rng.randn(rows, frames, dim), dtype)
        lengths = rng.randint(1, frames + 1, rows)
        batch[f"{m}_mask"] = jnp.asarray(np.arange(frames) < lengths[:, None])
    return batch


def make(dims=DIMS, outputs=3, *, seed=0, **kw):
    """A small model; the same object for the same arguments, so do not change it."""
    key = (tuple(dims.items()), outputs, seed, tuple(sorted(kw.items())))
    if key not in _MADE:
        _MADE[key] = _make(dims, outputs, seed, **kw)
    return _MADE[key]


_MADE: dict = {}


def _make(dims, outputs, seed, **kw):
    kw = dict(width=16, encoder_layers=1, ima_layers=1, heads=4, ffn=24) | kw
    return IMAT(dims, outputs, **kw, rngs=nnx.Rngs(seed))


def run(model, batch):
    """(outputs, extras), compiled once a model and shape; op by op would take minutes."""
    return _run(*nnx.split(model), batch)


@functools.partial(jax.jit, static_argnums=0)
def _run(graphdef, params, batch):
    return nnx.merge(graphdef, params)(batch, deterministic=True)


@pytest.fixture(scope="module", params=["sseft_tiny", "sseft_paper"])
def golden(request):
    z = np.load(GOLDEN / f"{request.param}.npz", allow_pickle=False)
    heads = ast.literal_eval(str(z["config"]))["H"]
    model = convert.sseft(sseft_state_dict(z), num_heads=heads)
    return z, model, {k: jnp.asarray(v) for k, v in sseft_batch(z).items()}


def test_published_outputs_and_cls_vectors(golden):
    z, model, batch = golden
    outputs, extras = run(model, batch)
    np.testing.assert_allclose(outputs, z["logits"], atol=2e-5, rtol=0)
    for theirs, ours in CLS.items():
        np.testing.assert_allclose(extras[ours], z[f"cls/{theirs}"], atol=2e-5, rtol=0)


def test_published_gradients(golden):
    z, model, batch = golden
    target = jnp.asarray(sseft_target(z))
    graphdef, params = nnx.split(model, nnx.Param)

    def loss(params, inputs):
        outputs, _ = nnx.merge(graphdef, params)(batch | inputs, deterministic=True)
        return jnp.abs(outputs - target).mean()

    inputs = {m: batch[m] for m in ("text", "audio", "vision")}
    value, (grads, input_grads) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, inputs)
    np.testing.assert_allclose(value, z["loss"], rtol=1e-5)
    ours = convert.to_sseft(grads, model)
    names = [str(n).removeprefix(convert.SPINE) for n in z["grad_norm/names"]]
    assert set(names) == set(ours)
    for name, norm in zip(names, z["grad_norm/values"], strict=True):
        got = np.linalg.norm(ours[name].astype(np.float64))
        np.testing.assert_allclose(got, norm, rtol=1e-3, err_msg=name)
    for theirs, m in (("text", "text"), ("audio", "audio"), ("video", "vision")):
        frozen = z[f"grad/{theirs}"]
        got = input_grads[m][:, : frozen.shape[1]]
        np.testing.assert_allclose(got, frozen, atol=2e-6, rtol=2e-3)


def dense_attention(model: OneQueryAttention, q, x, mask, key_bias):
    """The textbook form: keys and values of all frames are made, with a key bias as published."""
    k = jnp.einsum("bsd,dhk->bshk", x, model.key.kernel[...]) + key_bias[None, None]
    v = model.value(x)
    q = model.query(q) * model.head_width**-0.5
    scores = jnp.einsum("bhk,bshk->bhs", q, k)
    weights = masked_softmax(scores, mask[:, None, :])
    return model.out(jnp.einsum("bhs,bshk->bhk", weights, v)), weights


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("sizes", [(8, 8, 1), (12, 5, 4), (6, 20, 3)])
def test_one_query_form_equals_the_dense_form(sizes, dtype):
    query_width, key_width, heads = sizes
    with jax.enable_x64(dtype == jnp.float64):
        model = OneQueryAttention(
            query_width, key_width, heads, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0)
        )
        rng = np.random.RandomState(0)
        draw = lambda p: jnp.asarray(rng.randn(*p.shape), dtype)  # noqa: E731
        nnx.update(model, jax.tree.map(draw, nnx.state(model)))  # biases too
        q, x = (jnp.asarray(rng.randn(*s), dtype) for s in ((3, query_width), (3, 7, key_width)))
        mask = jnp.asarray(np.arange(7) < np.asarray([[7], [2], [1]]))
        key_bias = jnp.asarray(rng.randn(heads, query_width // heads), dtype)
        cotangent = jnp.asarray(rng.randn(3, query_width), dtype)
        graphdef, params = nnx.split(model)

        def absorbed(params, q, x):
            out, weights = nnx.merge(graphdef, params)(q, x, mask)
            return (out * cotangent).sum(), (out, weights)

        def dense(params, q, x):
            out, weights = dense_attention(nnx.merge(graphdef, params), q, x, mask, key_bias)
            return (out * cotangent).sum(), (out, weights)

        tolerance = dict(rtol=1e-10, atol=1e-12) if dtype == jnp.float64 else dict(atol=2e-4)
        grads = [
            jax.jit(jax.grad(f, argnums=(0, 1, 2), has_aux=True))(params, q, x)
            for f in (absorbed, dense)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), *grads)


def test_one_query_form_weighs_the_value_bias_by_dropout():
    model = OneQueryAttention(8, 8, 2, dropout=0.5, rngs=nnx.Rngs(0))
    model.value.bias[...] = jnp.full((2, 4), 100.0)
    q, x, mask = jnp.ones((1, 8)), jnp.zeros((1, 6, 8)), jnp.ones((1, 6), bool)
    _, weights = model(q, x, mask)
    keys = [layer_keys(jax.random.key(3)) for _ in range(2)]
    got, _ = model(q, x, mask, keys[0])
    kept = dropout(weights, 0.5, keys[1]).sum(axis=-1, keepdims=True)  # [1, H, 1]
    np.testing.assert_allclose(got, model.out(100.0 * jnp.broadcast_to(kept, (1, 2, 4))), rtol=1e-5)


# Of three options, every pair of values comes once: each test compiles for seconds.
ABSENT = [("learned", ("text",)), ("learned", ("vision",)), ("statistics", ("text", "audio"))]
SUBSETS = [("text",), ("audio", "vision"), ("text", "audio", "vision")]
FUSIONS = ["hadamard", "concat", "gated"]
POSITIONS = ["learned", "sinusoidal", "none"]
CLS_TOKENS = ["learned", "statistics", "first"]


@pytest.mark.parametrize(
    ("fusion", "norm", "cls_token", "missing"),
    [
        (fusion, ("pre", "post")[(i + k) % 2], *absent)
        for i, fusion in enumerate(FUSIONS)
        for k, absent in enumerate(ABSENT)
    ],
)
def test_padding_of_an_absent_modality_is_never_read(fusion, norm, cls_token, missing):
    model, batch = make(fusion=fusion, norm=norm, cls_token=cls_token), make_batch()
    for m in missing:
        batch[f"{m}_mask"] = batch[f"{m}_mask"].at[1:3].set(False)
    expected = run(model, batch)[0]
    assert jnp.isfinite(expected).all()
    for junk in (0.0, 1e9, jnp.nan, jnp.inf):
        padded = {
            m: jnp.where(batch[f"{m}_mask"][..., None], batch[m], junk) if m in DIMS else batch[m]
            for m in batch
        }
        np.testing.assert_array_equal(run(model, padded)[0], expected)


@pytest.mark.parametrize("cls_token", ["learned", "statistics"])
def test_gradients_are_finite_when_padding_is_not(cls_token):
    model, batch = make(PAIR, cls_token=cls_token), make_batch(dims=PAIR)
    batch["audio_mask"] = batch["audio_mask"].at[0].set(False)
    batch["audio"] = jnp.where(batch["audio_mask"][..., None], batch["audio"], jnp.nan)
    graphdef, params = nnx.split(model, nnx.Param)
    loss = lambda p: nnx.merge(graphdef, p)(batch, deterministic=True)[0].sum()  # noqa: E731
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


@pytest.mark.parametrize(("fusion", "cls_token"), list(zip(FUSIONS, CLS_TOKENS, strict=True)))
def test_rows_do_not_depend_on_each_other_nor_on_padding_length(fusion, cls_token):
    dims = DIMS if fusion == "hadamard" else PAIR
    model, batch = make(dims, fusion=fusion, cls_token=cls_token), make_batch(dims=dims)
    whole, _ = run(model, batch)
    one = {k: v[2:3] for k, v in batch.items()}
    longer = {k: jnp.pad(v, [(0, 0), (0, 5)] + [(0, 0)] * (v.ndim - 2)) for k, v in one.items()}
    for alone in (one, longer):
        np.testing.assert_allclose(run(model, alone)[0], whole[2:3], atol=1e-5)


def test_a_missing_modality_differs_from_zeros():
    model, batch = make(), make_batch()
    zeros = batch | {"audio": jnp.zeros_like(batch["audio"])}
    missing = batch | {"audio_mask": jnp.zeros_like(batch["audio_mask"])}
    outputs = [run(model, b)[0] for b in (zeros, missing)]
    assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_hadamard_with_two_present_is_the_published_two_modality_form():
    model, batch = make(fusion="hadamard"), make_batch()
    batch["vision_mask"] = jnp.zeros_like(batch["vision_mask"])
    _, extras = run(model, batch)
    np.testing.assert_array_equal(extras["fused/text"], extras["cls/text<-audio"])
    np.testing.assert_array_equal(extras["fused/audio"], extras["cls/audio<-text"])
    assert not extras["fused/vision"].any()
    batch["audio_mask"] = jnp.zeros_like(batch["audio_mask"])
    _, extras = run(model, batch)
    np.testing.assert_array_equal(extras["fused/text"], extras["cls/text"])


@pytest.mark.parametrize(
    ("names", "positions", "cls_token"),
    [
        (SUBSETS[(i + k) % 3], positions, cls_token)
        for i, positions in enumerate(POSITIONS)
        for k, cls_token in enumerate(CLS_TOKENS)
    ],
)
def test_any_subset_and_options(names, positions, cls_token):
    dims = {m: DIMS[m] for m in names}
    model = make(dims, outputs=2, positions=positions, cls_token=cls_token, width=None)
    outputs, extras = run(model, make_batch())
    assert outputs.shape == (5, 2) and outputs.dtype == jnp.float32
    assert sum(k.startswith("ima/") for k in extras) == len(names) * (len(names) - 1)


@pytest.mark.parametrize("fusion", ["hadamard", "concat", "gated"])
def test_directions(fusion):
    batch = make_batch()
    model = make(fusion=fusion, directions=directions("text<-audio,vision<-text"))
    _, extras = run(model, batch)
    assert {k for k in extras if "<-" in k and k.startswith("ima/")} == {
        "ima/text<-audio",
        "ima/vision<-text",
    }
    # Nothing else reads audio's frames, nor is audio's summary told of text.
    changed = batch | {"text": batch["text"] + 1}
    _, other = run(model, changed)
    np.testing.assert_array_equal(extras["fused/audio"], other["fused/audio"])
    assert (extras["fused/vision"] != other["fused/vision"]).any()


def test_without_directions_fusion_is_of_summaries():
    model = make(fusion="hadamard", directions=directions("none"))
    assert not model.pairs and not model.stacks
    _, extras = run(model, make_batch())
    for m in DIMS:
        np.testing.assert_array_equal(extras[f"fused/{m}"][:2], extras[f"cls/{m}"][:2])


@pytest.mark.parametrize(
    ("dims", "said", "layers"),
    [
        ({"audio": 8}, "all", 0),
        (PAIR, "none", {"text": 1, "audio": 0}),
        (PAIR, "text<-audio", {"text": 1, "audio": 0}),  # its part of the joint is a constant
        (PAIR, "audio<-text", {"text": 1, "audio": 0}),  # nobody reads its frames
    ],
)
def test_a_modality_that_cannot_be_seen_is_an_error(dims, said, layers):
    options = dict(encoder_layers=layers, directions=directions(said))
    for learned in ("learned", {"text": "first", "audio": "learned"}):
        with pytest.raises(ValueError, match="audio: cls_token='learned' with encoder_layers=0"):
            nnx.eval_shape(
                lambda c=learned: IMAT(dims, 1, cls_token=c, **options, rngs=nnx.Rngs(0))
            )
    for other in (dict(cls_token="statistics"), dict(cls_token="first"), dict(encoder_layers=1)):
        changed = options | other
        nnx.eval_shape(lambda kw=changed: IMAT(dims, 1, **kw, rngs=nnx.Rngs(0)))


def test_without_layers_stacks_read_the_frames():
    batch = make_batch(dims=PAIR)
    model = make(PAIR, encoder_layers=0)
    outputs = run(model, batch)[0]
    for m in PAIR:
        assert (run(model, batch | {m: batch[m] + 1})[0] != outputs).any(axis=1).all()


@pytest.mark.parametrize("said", ["", "text", "text<-text", "text<-smell", "text->audio"])
def test_directions_that_are_none(said):
    with pytest.raises(ValueError, match="directions is"):
        directions(said)


def test_attention_weights_are_a_distribution_over_real_frames():
    batch = make_batch()
    _, extras = run(make(), batch)
    weights = extras["ima/text<-audio"]  # [B, layers, H, S], CLS first
    assert weights.shape == (5, 1, 4, 1 + batch["audio"].shape[1])
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    real = jnp.pad(batch["audio_mask"], ((0, 0), (1, 0)), constant_values=True)
    assert not jnp.where(real[:, None, None], 0, weights).any()


def test_statistics_are_of_the_real_frames():
    x = np.random.default_rng(0).normal(3, 2, (3, 7, 4)).astype(np.float32)
    mask = np.arange(7) < np.array([[7], [3], [0]])
    mean, deviation = np.split(frame_moments(jnp.where(mask[..., None], x, 0), mask), 2, axis=1)
    for row, frames in enumerate((7, 3)):
        np.testing.assert_allclose(mean[row], x[row, :frames].mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(deviation[row], x[row, :frames].std(axis=0), rtol=1e-4)
    assert np.abs(mean[2]).max() == 0
    assert deviation[2].max() < 1e-5


def test_dropout_depends_on_the_key_and_only_in_training():
    model, batch = make(dropout=0.3, modality_dropout=0.3), make_batch()
    graphdef, params = nnx.split(model)

    @jax.jit
    def train(key):
        rngs = nnx.Rngs(dropout=key)
        return nnx.merge(graphdef, params)(batch, deterministic=False, rngs=rngs)[0]

    first, again, other = (train(jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-3
    still, _ = run(model, batch)
    np.testing.assert_array_equal(still, run(model, batch)[0])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_the_rate(rate):
    x = jnp.ones((200, 500))
    got = dropout(x, rate, layer_keys(jax.random.key(0)))
    assert float((got == 0).mean()) == pytest.approx(rate, abs=0.005)
    assert float(got.mean()) == pytest.approx(1, abs=0.01)


def test_layer_keys_never_repeat():
    stream = layer_keys(jax.random.key(0), at_once=4)
    assert len({tuple(next(stream).tolist()) for _ in range(20)}) == 20


def test_dropout_bits_are_uniform_and_independent():
    shape = (16, 4096)
    stream = layer_keys(jax.random.key(1))
    layers = np.stack([np.asarray(random_bits(next(stream), shape)) for _ in range(4)])
    bits = np.unpackbits(layers.view(np.uint8), bitorder="little").reshape(4, -1, 32) - 0.5
    n = bits.shape[1]
    assert np.abs(bits.mean(axis=1)).max() < 0.5 * 5 / n**0.5  # each bit is a fair coin
    for a, b in [
        (bits[0], bits[1]),  # another layer
        (bits[0, :-1], bits[0, 1:]),  # the next element
        (bits[0, : -shape[1]], bits[0, shape[1] :]),  # the element below
    ]:
        assert np.abs(4 * (a.T @ b) / len(a)).max() < 6 / len(a) ** 0.5


def test_dropout_bits_depend_on_the_place_alone():
    words = jnp.array([3, 5], jnp.uint32)
    whole = random_bits(words, (6, 8))
    np.testing.assert_array_equal(whole.reshape(48), random_bits(words, (48,)))


def test_modality_dropout_leaves_every_row_something():
    masks = {m: jnp.ones((4000, 2), bool) for m in DIMS}
    masks["text"] = masks["text"].at[:1000].set(False)
    got = drop_modalities(masks, 0.5, next(layer_keys(jax.random.key(0))))
    present = np.stack([np.asarray(mask.any(axis=1)) for mask in got.values()], axis=1)
    assert present.any(axis=1).all()
    assert not present[:1000, 0].any()  # what was missing stays missing
    # Three coins: each modality kept with 1/2, or with the 1/8 of rows that keep all.
    assert present[1000:].mean() == pytest.approx(0.5 + 1 / 8, abs=0.02)


def test_masked_softmax_of_nothing_is_zero_with_zero_gradient():
    scores, mask = jnp.ones((2, 3)), jnp.asarray([[True, True, False], [False] * 3])
    np.testing.assert_allclose(masked_softmax(scores, mask), [[0.5, 0.5, 0], [0, 0, 0]], atol=1e-7)
    grads = jax.grad(lambda s: (masked_softmax(s, mask) ** 2).sum())(scores * jnp.arange(3.0)[None])
    assert jnp.isfinite(grads).all() and not grads[1].any()


def test_bfloat16_compute_stays_close_and_keeps_float32_parameters():
    batch = make_batch()
    full, half = make(), make(dtype=jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves(nnx.state(half, nnx.Param))} == {jnp.dtype("float32")}
    with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm promotes its statistics
        a, b = (run(m, batch)[0] for m in (full, half))
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.05)
    assert jnp.abs(a - b).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": {"smell": 3}}, "smell"),
        ({"dims": {}}, "dims"),
        ({"fusion": "sum"}, "fusion is one of"),
        ({"norm": "mid"}, "norm is"),
        ({"positions": "rotary"}, "positions is"),
        ({"cls_token": "mean"}, "cls_token is"),
        ({"init": "zeros"}, "init is"),
        ({"heads": 5}, "does not divide into 5 heads"),
    ],
)
def test_options_that_do_not_exist_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_too_many_frames_for_the_learned_positions():
    with pytest.raises(ValueError, match="learned table has 3"):
        run(make(positions="learned", max_frames=2), make_batch())


def test_features_of_another_width():
    with pytest.raises(ValueError, match="features of width 8; the model takes 12"):
        run(make({"text": 12}), make_batch(dims={"text": 8}))


@pytest.mark.parametrize("remat", ["dots", "layers"])
def test_rematerialization_changes_memory_and_nothing_else(remat):
    """Dropout too: what is computed again draws the same masks."""
    batch = make_batch(dims={"text": 12})

    def gradients(remat):
        model = make(
            {"text": 12}, encoder_layers=2, dropout=0.3, attention_dropout=0.3, remat=remat
        )
        graphdef, params = nnx.split(model, nnx.Param)

        def loss(params):
            rngs = nnx.Rngs(dropout=jax.random.key(1))
            return nnx.merge(graphdef, params)(batch, deterministic=False, rngs=rngs)[0].sum()

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return compiled(params), compiled.as_text().count(" dot(")

    expected, products = gradients("none")
    got, more = gradients(remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)
    assert more > products  # computed again


@pytest.mark.parametrize(
    ("corpus", "dims"),
    [("tiny", {"text": 48, "audio": 40, "vision": 32}), ("ravdess", {"audio": 43, "vision": 35})],
)
def test_every_ablation_is_another_model(corpus, dims):
    config = ablation.get_config(f"corpus={corpus}")
    assert config.modalities.split("+") == list(dims)
    made = set()
    for change in ablation.sweep(config):
        one = ablation.get_config(f"corpus={corpus}")
        one.update_from_flattened_dict(change)

        def make(c=one.model):
            return models.make(
                    c, dims, 1, nnx.Rngs(0), dtype="float32", max_frames=dict.fromkeys(dims, 64),
                    device=jax.devices()[0],
                )  # fmt: skip

        nnx.eval_shape(make)
        made.add(one.model.to_json())
        if "model.text_encoder" in change or change.get("model.encoder_layers") == 0:
            assert one.model.cls_token == "statistics"  # a summary that reads frames
    alone = config.copy_and_resolve_references()
    alone.modalities = "audio"
    assert all(change.get("model.directions") != "" for change in ablation.sweep(alone))
    changes = list(ablation.sweep(config))
    assert len(made) == len(changes) - 2  # two are as the corpus's config has it already
