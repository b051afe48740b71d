"""Plans: what a device holds, computes and sends, against sizes worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from programs import run

from configs import common
from imat_jax import chips, dryrun, flops, hlo
from imat_jax.models.imat import IMAT


def sent(function, *shapes, spec):
    """Bytes that a device sends in `function` of float32 arrays split as `spec` over 8 devices."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    put = lambda s, p: jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, p))  # noqa: E731
    arguments = [put(s, p) for s, p in zip(shapes, spec, strict=True)]
    whole = NamedSharding(mesh, P())
    text = jax.jit(function, out_shardings=whole).lower(*arguments).compile().as_text()
    return hlo.collectives(text, 8)


def test_collectives_by_hand():
    assert sent(lambda x: x.sum(axis=0), (8, 1024), spec=[P("x")]) == {
        "all-reduce": 2 * 7 / 8 * 4096
    }
    assert sent(lambda x: x + 1, (8, 1024), spec=[P("x")]) == {"all-gather": 7 / 8 * 8 * 4096}
    assert sent(lambda x: x + 1, (8, 1024), spec=[P()]) == {}


def test_a_loop_sends_each_time():
    def loop(x):
        return jax.lax.scan(lambda c, _: (c + (x * c).sum(axis=0), None), jnp.ones(16), length=5)[0]

    with jax.numpy_rank_promotion("allow"):
        got = sent(loop, (8, 16), spec=[P("x")])
    assert got["all-reduce"] == 5 * 2 * 7 / 8 * 64


@pytest.mark.parametrize("cls_token", ["learned", "statistics", "first"])
def test_operations_are_those_that_xla_counts(cls_token):
    """XLA counts the elementwise ones too; wide layers make them few."""
    dims = {"text": 96, "audio": 64, "vision": 32}
    make = lambda: IMAT(dims, 2, width=128, ffn=256, cls_token=cls_token, rngs=nnx.Rngs(0))  # noqa: E731
    model = nnx.eval_shape(make)
    batch = {m: jax.ShapeDtypeStruct((4, 40, d), jnp.float32) for m, d in dims.items()}
    batch |= {f"{m}_mask": jax.ShapeDtypeStruct((4, 40), jnp.bool_) for m in dims}
    graphdef, params = nnx.split(model)
    forward = jax.jit(lambda p, b: nnx.merge(graphdef, p)(b, deterministic=True)[0])
    counted = forward.lower(params, batch).cost_analysis()["flops"]
    ours = 4 * flops.forward(model, np.full((1, 3), 40))[0]
    assert 0.85 < ours / counted <= 1.0


def test_what_is_missing_costs_nothing():
    model = nnx.eval_shape(lambda: IMAT({"text": 8, "audio": 8}, 1, width=8, rngs=nnx.Rngs(0)))
    both, text, short = flops.forward(model, np.array([[10, 10], [10, 0], [5, 10]]))
    assert text < both / 1.9 and text < short < both


def small(**changes):
    config = common.get_config()
    config.dataset, config.modalities = "nowhere", "text+audio"
    config.update_from_flattened_dict(
        {"model.width": 64, "model.heads": 8, "model.ffn": 128, "batch_size": 16,
         "mesh.fsdp_min": 256, "data.max_frames.text": 8, "data.max_frames.audio": 8,
         "data.max_frames.vision": 8} | changes
    )  # fmt: skip
    return config


def test_a_plan_without_data(library_promotion):
    whole = dryrun.plan(small(), "v5e")
    split = dryrun.plan(small(**{"mesh.fsdp": 8, "mesh.data": 1}), "v5e")
    size = whole["parameters"]
    assert whole["bytes"]["parameters"] == 4 * size
    assert whole["bytes"]["optimizer"] - 2 * 4 * size < 64  # two moments, counters and the key
    assert 1 / 8 < split["bytes"]["parameters"] / (4 * size) < 1 / 7  # small ones are whole
    assert whole["sent"]["all-reduce"] == pytest.approx(2 * 7 / 8 * 4 * size, rel=0.01)
    assert "all-gather" not in whole["sent"] and split["sent"]["all-gather"] > 0
    assert whole["flops"] == split["flops"] > 0
    assert whole["seconds"]["compute"] == whole["flops"] / chips.CHIPS["v5e"].flops
    state = whole["bytes"]["parameters"] + whole["bytes"]["optimizer"]
    assert whole["seconds"]["memory"] > 2 * state / chips.CHIPS["v5e"].bandwidth
    text = dryrun.table(small(), "v5e", whole)
    assert "data 8, fsdp 1, model 1" in text and "fits" in text and f"{size:,} parameters" in text


def test_the_program(tiny_dataset):
    """With a dataset its widths, labels and lengths count; nothing is trained, nothing written."""
    flags = [f"--config.dataset={tiny_dataset.path}", "--config.model.width=8", "--dry_run"]
    flags.append("--config.modalities=text")
    done = run("train", "--config=configs/tiny.py", *flags, "--devices=2", "--chip=H100")
    assert done.returncode == 0, done.stderr
    assert "mesh of 2 H100: data 2" in done.stdout and "its largest batch" in done.stdout
    done = run("train", "--config=configs/tiny.py", "--dry_run", "--chip=abacus")
    assert done.returncode == 1 and "--chip is one of v4, v5e" in done.stderr
    done = run("train", "--config=configs/tiny.py")
    assert done.returncode == 1 and "--workdir=DIR" in done.stderr
