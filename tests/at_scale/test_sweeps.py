"""Sweeps of some size, killed and continued, and on the engines of clusters."""

import functools
import json
import signal

import programs
import pytest
import sweeps
from programs import run, small_flags

TINY = {"steps": 4, "eval_steps": 2, "data.buckets": 1, "modalities": "text"}
CONFIG = """
from configs import tiny

get_config = tiny.get_config

def search(trial):
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True)}
"""


def tiny_flags(workdir, dataset, **changes):
    return small_flags(workdir, dataset, **TINY, **changes)


def assert_same_sweep(one, other):
    """The same runs, and what each wrote, byte by byte."""
    names = [sorted(d.name for d in root.glob("runs/*")) for root in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        for file in ("metrics.jsonl", "results.json"):
            a, b = (root / "runs" / name / file for root in (one, other))
            assert a.read_bytes() == b.read_bytes(), name


@pytest.fixture(scope="module")
def pair(shared, tiny_dataset):
    """A configuration with two seeds, by one local worker."""

    def make(folder):
        done = run("sweep", *tiny_flags(folder / "s", tiny_dataset), "--seeds=2")
        assert done.returncode == 0, done.stderr

    return shared("pair", make) / "s"


THIRTY = ["--grid=optim.lr=0.001,0.01,0.1", "--grid=model.ima_layers=1,2", "--seeds=5", "--jobs=2"]
ENGINES = {
    "local": [],
    "submitit": ["--executor=slurm", "--options=cluster=local,timeout_min=10"],
    "ray": ["--executor=ray"],
}


@pytest.fixture(scope="module")
def whole(shared, tiny_dataset):
    """Thirty runs by two local workers, which nothing interrupted."""

    def make(folder):
        done = run("sweep", *tiny_flags(folder / "s", tiny_dataset), *THIRTY, timeout=3000)
        assert done.returncode == 0, done.stderr

    root = shared("thirty", make) / "s"
    assert json.loads((root / "sweep.json").read_text())["runs"] == {"finished": 30}
    return root


@pytest.mark.parametrize("engine", ENGINES)
def test_three_by_two_by_five_killed_twice_is_the_same_as_whole(
    whole, tiny_dataset, tmp_path, engine
):
    if engine != "local":
        reason = {"submitit": "pip install 'imat_jax[sweep]'", "ray": "opt-in: imat_jax[ray]"}
        pytest.importorskip(engine, reason=reason[engine])
    root = tmp_path / "cut"
    flags = [*tiny_flags(root, tiny_dataset), *THIRTY, *ENGINES[engine]]
    lines = sweeps.written(whole)
    for share, workers in ((0.3, True), (0.6, False)):
        killer = functools.partial(sweeps.killed, str(root), int(share * lines), workers)
        assert run("sweep", *flags, setup=killer, timeout=3000).returncode == -signal.SIGKILL
        assert 0 < len(list(root.glob("runs/*/results.json"))) < 30
    done = run("sweep", *flags, timeout=3000)
    assert done.returncode == 0 and "30 runs, 0 of them" not in done.stdout, done.stderr
    assert_same_sweep(whole, root)


def test_a_search_trains_and_leaves_test_alone(tiny_dataset, tmp_path):
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "space.py"
    path.write_text(CONFIG)
    flags = [f"--config={path}", *tiny_flags(tmp_path / "s", tiny_dataset)[1:], "--trials=4"]
    done = run("sweep", *flags, "--jobs=2", timeout=600)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert sum(summary["search"]["trials"].values()) == 4 == summary["configurations_tried"]
    assert summary["search"]["best"]["value"] == summary["configurations"][0]["mean"]
    assert summary["runs_with_test_scores"] == 0 and "best: trial" in done.stdout
    assert "4 trials" in run("sweep", *flags, "--dry_run").stdout
    assert run("sweep", *flags, "--test").returncode == 1


def test_test_scores_for_all_when_asked_and_later_runs_are_marked(tiny_dataset, tmp_path):
    flags = tiny_flags(tmp_path / "s", tiny_dataset)
    failing = run("sweep", *flags, "--grid=model.heads=2,3", "--seeds=1", "--test")
    summary = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert failing.returncode == 1 and summary["runs_with_test_scores"] == 0  # not all finished
    done = run("sweep", *flags, "--grid=model.heads=2", "--seeds=2", "--test")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert summary["runs_with_test_scores"] == 2 and "test" in summary
    done = run("sweep", *flags, "--grid=optim.lr=0.01", "--seeds=1")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "s" / "sweep.json").read_text())["configurations"]
    assert {json.dumps(r["overrides"]): r["after_test"] for r in rows} == {
        '{"model.heads": 2}': False, '{"model.heads": 3}': False, '{"optim.lr": 0.01}': True
    }  # fmt: skip


def test_a_run_of_a_sweep_is_bit_for_bit_that_of_train_whatever_ran_before(
    pair, tiny_dataset, tmp_path
):
    for seed in (0, 1):  # the second was trained by programs that the first had compiled
        done = programs.run("train", *tiny_flags(tmp_path / str(seed), tiny_dataset, seed=seed))
        assert done.returncode == 0, done.stderr
        [ours] = pair.glob(f"runs/seed={seed}-*")
        metrics = [(w / "metrics.jsonl").read_bytes() for w in (ours, tmp_path / str(seed))]
        assert metrics[0] == metrics[1]
