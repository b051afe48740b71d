"""The programs as a user runs them: train, resume, evaluate, and how they fail."""

import functools
import json
import shutil
import signal

import jax
import numpy as np
import programs
import pytest
from programs import SMALL, run, small_flags

from configs import common
from imat_jax import cli, evaluate, experiment, optim, rundir, sharding, train, update
from imat_jax.checkpoint import Checkpoints
from imat_jax.data import builder, loader
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset


def small_config(dataset, **changes):
    config = common.get_config()
    config.dataset = str(dataset.path)
    config.update_from_flattened_dict(SMALL | changes)
    return config


def state_of(workdir):
    """All that the last checkpoint holds, as it lies on disk."""
    import orbax.checkpoint as ocp

    manager = ocp.CheckpointManager(workdir / "checkpoints" / "last")
    state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    manager.close()
    return state


def assert_same_run(one, other):
    """Parameters, optimiser state, step, key, metrics and predictions, bit by bit."""
    a, b = state_of(one), state_of(other)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert (one / "results.json").read_bytes() == (other / "results.json").read_bytes()
    outputs = [np.load(w / "predictions" / "test.npz")["outputs"] for w in (one, other)]
    np.testing.assert_array_equal(*outputs)


def test_a_run_leaves_what_it_promises(finished, tiny_dataset):
    workdir, said = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results["valid"]["examples"] == 40 and results["test"]["examples"] == 50
    assert results["dataset"] == tiny_dataset.fingerprint
    assert 0 <= results["trivial"]["test"]["acc"] <= results["ceiling"]["test"] <= 1
    lines = rundir.read_metrics(workdir)
    losses = [line["step"] for line in lines if "loss" in line]
    valid = {line["step"]: line for line in lines if "valid/loss" in line}
    assert losses == list(range(1, 15)) and list(valid) == [0, 5, 10, 14]
    best = max(line["valid/acc"] for line in valid.values())
    assert results["selected"]["valid"] == best == results["valid"]["acc"]
    assert results["selected"]["step"] == next(
        s for s, v in valid.items() if v["valid/acc"] == best
    )
    for name in ("training", "valid", "test"):
        assert (workdir / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    laps = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    assert [lap["step"] for lap in laps] == list(range(1, 15))
    for lap in laps:
        assert lap["utt_per_s"] == lap["utt_per_s_per_device"] > 0 and lap["tflops"] > 0
        assert 0.5 < lap["real_frames"] <= 1 and 0 <= lap["input_wait"] < 1
        assert lap["compile_s"] > 0 and "mfu" not in lap  # nobody publishes this CPU's peak
    assert "utterances/s" in said and "attention: plain" in said
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert "selected: update" in said and "constant" in said
    assert list((workdir / "tensorboard").iterdir())
    assert not list(workdir.rglob("*partial*"))


def test_a_finished_run_started_again_trains_no_further(finished, tiny_dataset, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    before = (workdir / "metrics.jsonl").read_bytes()
    again = run("train", *small_flags(workdir, tiny_dataset))
    assert again.returncode == 0 and "going on from update 14" in again.stdout
    assert (workdir / "metrics.jsonl").read_bytes() == before


def run_and_signal(flags, number, at_step):
    return run(
        "train", *flags, setup=functools.partial(programs.signalled, number, at_step)
    ).returncode


@pytest.mark.parametrize("at_step", [1, 7])
def test_sigterm_saves_and_the_resumed_run_is_the_same(finished, tiny_dataset, tmp_path, at_step):
    flags = small_flags(tmp_path / "cut", tiny_dataset)
    assert run_and_signal(flags, signal.SIGTERM, at_step) == 143
    assert at_step <= Checkpoints(tmp_path / "cut").last_step < 14
    assert not (tmp_path / "cut" / "results.json").exists()
    assert run("train", *flags).returncode == 0
    assert_same_run(finished[0], tmp_path / "cut")


def test_sigkill_and_the_resumed_run_is_the_same(finished, tiny_dataset, tmp_path):
    flags = small_flags(tmp_path / "cut", tiny_dataset)
    assert run_and_signal(flags, signal.SIGKILL, 8) == -signal.SIGKILL
    assert run("train", *flags).returncode == 0
    assert_same_run(finished[0], tmp_path / "cut")


def test_evaluate_scores_the_selected_checkpoint_again(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    before = (workdir / "results.json").read_bytes()
    done = run("evaluate", f"--workdir={workdir}", "--split=test")
    assert done.returncode == 0 and "acc" in done.stdout
    assert (workdir / "results.json").read_bytes() == before


def test_the_moving_average_is_of_the_parameters(library_promotion, tiny_dataset, tmp_path):
    changes = {"optim.ema": 0.9, "steps": 3, "eval_steps": 3, "modalities": "text"}
    config = small_config(tiny_dataset, **changes)
    run = experiment.make(config)
    tx = optim.make(config.optim, config.steps)
    state = update.make_initial(run, tx)(config.seed)
    expected = jax.device_get(state["params"])
    step_fn = update.make_update(run, tx)
    batches = loader.read(run.split("train", seed=config.seed))
    for step, batch in zip(range(config.steps), batches, strict=False):
        state, _ = step_fn(state, sharding.put(batch, run.mesh))
        decay = min(0.9, (1 + step) / (10 + step))
        mix = lambda a, p, d=decay: d * a + (1 - d) * p  # noqa: E731
        expected = jax.tree.map(mix, expected, jax.device_get(state["params"]))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, expected, jax.device_get(state["ema"]))
    train.train(config, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    jax.tree.map(close, expected, jax.device_get(checkpoints.restore(state)["ema"]))
    checkpoints.close()


@pytest.mark.parametrize(
    ("eval_steps", "message"),
    [
        (5, r"update 2: loss nan.*batch of train-0000\d\d, "),
        (1, r"validation after update 1: outputs are not finite .*valid-00000\d"),
    ],
)
def test_a_nonfinite_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    library_promotion, tmp_path, eval_steps, message
):
    from imat_jax.data.sources import synthetic

    corpus = synthetic.corpus({"train": 48, "valid": 8, "test": 8})
    builder.build(corpus, tmp_path / "d", dtype="float32", progress=False)
    dataset = Dataset.open(tmp_path / "d")
    config = small_config(dataset, **{"optim.lr": 1e30, "optim.schedule": "constant",
                                      "optim.warmup": 0.0, "eval_steps": eval_steps,
                                      "modalities": "text"})  # fmt: skip
    with pytest.raises(DataError, match=message) as error:
        train.train(config, tmp_path / "run")
    last = Checkpoints(tmp_path / "run").last_step
    assert f"last good checkpoint is that of step {last};" in str(error.value)
    for value in jax.tree.leaves(state_of(tmp_path / "run")["params"]):
        assert np.isfinite(value).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.optim.lrr=1"], "optim.lrr"),
        (["--config.model.wdith=1"], "model.wdith"),
        (["--config.modalities=text+smell"], "text+audio+vision, not 'smell'"),
        (["--config.dataset=nowhere"], "nowhere: no dataset there"),
        (["--config.model.fusion=sum"], "fusion is one of"),
        (["--config.model.features.text=1024"], "model.features.text is 1024"),
        (["--config.batch_size=0"], "batch_size"),
        (["--config.selection=f1"], "selection='f1' is no metric"),
        (["--config.mesh.data=3"], "does not cover the 1 devices"),
    ],
)
def test_mistakes_are_one_line_and_status_1(tiny_dataset, tmp_path, arguments, message):
    done = run("train", *small_flags(tmp_path / "run", tiny_dataset), *arguments)
    assert done.returncode == 1, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]
    assert "Traceback" not in done.stderr


def test_an_unknown_config_argument_lists_the_known_ones(tmp_path):
    done = run("train", "--config=configs/tiny.py:modality=text", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert (
        "unknown config argument 'modality=text'; known, with defaults: modalities=" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_profile_of_some_updates(library_promotion, tiny_dataset, tmp_path):
    config = small_config(tiny_dataset, **{"modalities": "text", "data.buckets": 1})
    train.train(config, tmp_path, profile=2)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_an_untrained_network_that_is_selected_is_called_so():
    selected = {"step": 10, "metric": "mae", "valid": 0.5}
    assert train._choice(selected) == "selected: update 10, validation mae 0.5000"
    assert "untrained network" in train._choice(selected | {"step": 0})


def test_another_config_in_the_same_workdir_is_refused(finished, tiny_dataset):
    workdir, _ = finished
    config = small_config(tiny_dataset, **{"epochs": 8, "optim.lr": 0.5})
    with pytest.raises(cli.UsageError, match=r"optim\.lr: 0\.001 -> 0\.5"):
        train.train(config, workdir)


@pytest.mark.parametrize("mode", ["published", "corrected"])
def test_the_published_variant_trains(tmp_path, tiny_dataset, mode):
    changes = {"model.name": "sseft", "data.mode": mode, "model.heads": 4, "steps": 1,
               "batch_size": 8, "eval_steps": 1, "data.buckets": 1}  # fmt: skip
    done = run("train", *small_flags(tmp_path / "run", tiny_dataset, **changes))
    assert done.returncode == 0, done.stderr
    assert np.isfinite(json.loads((tmp_path / "run" / "results.json").read_text())["test"]["acc"])
    assert ("(512, 935)" in done.stdout) == (mode == "published")


def test_evaluate_of_an_empty_run_says_so(tmp_path, tiny_dataset):
    rundir.start(tmp_path, small_config(tiny_dataset), tiny_dataset)
    with pytest.raises(cli.UsageError, match="no checkpoint yet"):
        evaluate.evaluate(experiment.make(small_config(tiny_dataset)), tmp_path, ["test"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator=127.0.0.1:1"], "--coordinator, --num_processes and --process_id go toge"),
        (["--distributed"], "do not find each other"),
    ],
)
def test_flags_that_do_not_say_enough(tiny_dataset, tmp_path, flags, message):
    done = run("train", *small_flags(tmp_path / "run", tiny_dataset), *flags)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
