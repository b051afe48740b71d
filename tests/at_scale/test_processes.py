"""Several devices or processes of this machine as one run."""

import functools
import json
import re
import signal

import numpy as np
from programs import run, run_together, signalled, small_flags

from imat_jax import rundir
from imat_jax.checkpoint import Checkpoints

SPLIT = {"mesh.data": 1, "mesh.fsdp": 2, "mesh.model": 2, "mesh.fsdp_min": 32}


def assert_same_learning(one, other):
    """Losses and predictions agree, whatever devices they were computed on."""
    curves = [[x["loss"] for x in rundir.read_metrics(w) if "loss" in x] for w in (one, other)]
    np.testing.assert_allclose(*curves, rtol=1e-5)
    predictions = [np.load(w / "predictions" / "test.npz") for w in (one, other)]
    np.testing.assert_array_equal(*(p["id"] for p in predictions))
    np.testing.assert_allclose(*(p["outputs"] for p in predictions), rtol=1e-3, atol=1e-5)


def test_eight_devices_learn_like_one(finished, tiny_dataset, tmp_path):
    done = run("train", *small_flags(tmp_path / "eight", tiny_dataset), devices=8)
    assert done.returncode == 0 and "8 x cpu" in done.stdout, done.stderr
    assert_same_learning(finished[0], tmp_path / "eight")  # dropout and all


def test_four_processes_with_split_parameters_learn_the_same(finished, tiny_dataset, tmp_path):
    done = run_together(4, *small_flags(tmp_path / "four", tiny_dataset, **SPLIT))
    assert [d.returncode for d in done] == [0] * 4, done[0].stderr
    assert_same_learning(finished[0], tmp_path / "four")
    assert "4 x cpu" in done[0].stdout and "selected" in done[0].stdout
    assert not any("selected" in d.stdout or "train:" in d.stderr for d in done[1:])


def test_preempted_then_robbed_of_a_process_then_on_another_topology(
    finished, tiny_dataset, tmp_path
):
    flags = small_flags(tmp_path / "run", tiny_dataset)
    asked = {1: functools.partial(signalled, signal.SIGTERM, 3)}  # one of them only
    done = run_together(2, *flags, setup=asked)
    assert [d.returncode for d in done] == [143, 143], done[0].stderr
    last = Checkpoints(tmp_path / "run").last_step
    assert 3 <= last < 14 and f"SIGTERM: saved update {last}" in done[0].stderr

    killed = {0: functools.partial(signalled, signal.SIGKILL, 11)}
    done = run_together(2, *flags, setup=killed, timeout=120)
    assert done[0].returncode == -signal.SIGKILL
    assert done[1].returncode != 0 and "Traceback" not in done[1].stderr
    assert re.search("process 1 of 2: another process is lost|JAX distributed", done[1].stderr)

    again = run("train", *flags, devices=4)
    # From 10, or from what was saved before it where that save was still under way.
    assert again.returncode == 0 and "going on from update" in again.stdout
    assert_same_learning(finished[0], tmp_path / "run")


def test_a_run_with_context(tiny_dataset, tmp_path):
    """Trained over a mesh, with a last batch that is short, and scored on every utterance."""
    changes = {"model.context": 2, "modalities": "text", "data.buckets": 1}
    flags = small_flags(tmp_path / "run", tiny_dataset, **changes)
    done = run("train", *flags, devices=2)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["examples"] == 50
    done = run("robustness", f"--workdir={tmp_path / 'run'}", "--noise=0,1")
    assert done.returncode == 0, done.stderr
    scored = json.loads((tmp_path / "run" / "robustness" / "robustness.json").read_text())["runs"]
    [whole] = [one["subsets"]["text"] for one in next(iter(scored.values()))]
    assert whole["acc"] == results["test"]["acc"]
