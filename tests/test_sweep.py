"""Sweeps: which runs there are, what is kept of them, and that none of them sees the test split."""

import concurrent.futures
import dataclasses
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
import sweeps
from hypothesis import given
from hypothesis import strategies as st
from programs import run, small_flags

from configs import common
from imat_jax import cli, rundir, sweep
from imat_jax import config as configs
from imat_jax.data import loader
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset
from imat_jax.sweeping import executor, local, plan
from imat_jax.sweeping.state import Job, Sweep

GRID = ["--grid=optim.lr=0.001,0.01", "--seeds=2"]


@pytest.fixture(scope="module")
def poisoned(shared, tiny_dataset):
    """The small data set with nothing of test but how long its utterances are."""

    def make(folder):
        path = shutil.copytree(tiny_dataset.path, folder / "d")
        for shard in path.glob("*test*array_record*"):
            shard.write_bytes(b"poison")
        with np.load(path / "index-test.npz") as index:
            lengths = {k: index[k] for k in index.files if k.endswith("_length")}
        np.savez(path / "index-test.npz", **lengths)

    return Dataset.open(shared("poisoned", make) / "d")


@pytest.fixture(scope="module")
def swept(shared, poisoned):
    """A sweep of two configurations and two seeds by two workers."""

    def make(folder):
        flags = small_flags(folder / "sweep", poisoned)
        done = run("sweep", *flags, *GRID, "--jobs=2")
        assert done.returncode == 0, done.stderr
        (folder / "said.txt").write_text(done.stdout)

    folder = shared("swept", make)
    return folder / "sweep", (folder / "said.txt").read_text()


def one(root, pattern):
    [found] = root.glob(f"runs/{pattern}")
    return found


def test_every_run_is_there_and_ranked(swept):
    root, said = swept
    summary = json.loads((root / "sweep.json").read_text())
    assert summary["runs"] == {"finished": 4} and summary["configurations_tried"] == 2
    for row in summary["configurations"]:
        scores = [json.loads((root / r / "results.json").read_text()) for r in row["runs"]]
        values = [s["selected"]["valid"] for s in scores]
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["std"] == pytest.approx(np.std(values, ddof=1))
    means = [row["mean"] for row in summary["configurations"]]
    assert means == sorted(means, reverse=True)
    assert "4 runs, 0 of them finished" in said and f"{means[0]:.4f}" in said


def test_a_sweep_does_not_reach_the_test_split(swept, poisoned):
    root, _ = swept
    for directory in root.glob("runs/*"):
        assert set(json.loads((directory / "results.json").read_text())) & {"valid", "test"} == {
            "valid"
        }
        assert not (directory / "predictions" / "test.npz").exists()
    # The poison works: the separate command does read the split.
    done = run("evaluate", f"--workdir={one(root, 'lr=0.001,seed=0-*')}", "--split=test")
    assert done.returncode == 1 and "error: " in done.stderr and "damaged" in done.stderr


def test_what_was_opened_for_some_splits_gives_no_other(tiny_dataset):
    closed = Dataset.open(tiny_dataset.path, ("train", "valid"))
    assert closed.splits == ("train", "valid")
    for read in (closed.source, closed.index, closed.transcripts):
        with pytest.raises(DataError, match="for train and valid only: the split 'test' cannot"):
            read("test")
    for m, length in closed.lengths("test").items():
        np.testing.assert_array_equal(length, tiny_dataset.index("test")[f"{m}_length"])


def test_a_run_of_a_sweep_is_the_run_that_train_makes(swept, finished):
    # Shapes are fitted to the lengths of all splits, so that also the padding is the same.
    ours = one(swept[0], "lr=0.001,seed=0-*")
    assert (ours / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    valid = [json.loads((w / "results.json").read_text())["valid"] for w in (ours, finished[0])]
    assert valid[0] == valid[1]


def test_what_is_finished_is_not_repeated(swept, poisoned, tmp_path):
    root = shutil.copytree(swept[0], tmp_path / "sweep")
    before = sweeps.contents(root)
    again = run("sweep", *small_flags(root, poisoned), *GRID)
    assert again.returncode == 0 and "4 runs, 4 of them finished" in again.stdout
    assert sweeps.contents(root) == before


def test_failures_are_kept_and_listed(swept, poisoned, tmp_path):
    root = shutil.copytree(swept[0], tmp_path / "sweep")
    flags = [*small_flags(root, poisoned), "--grid=model.heads=3", "--seeds=1"]
    done = run("sweep", *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "heads=3,seed=0" in done.stderr and "failed: " in done.stderr
    job = json.loads((one(root, "heads=3,*") / "job.json").read_text())
    assert job["status"] == "failed" and "error: config: " in job["error"]
    summary = json.loads((root / "sweep.json").read_text())
    assert summary["runs"] == {"finished": 4, "failed": 1}
    assert summary["configurations_tried"] == 3
    assert summary["configurations"][-1]["mean"] is None
    again = run("sweep", *flags)  # deterministic: it is not tried again unasked
    assert again.returncode == 1
    assert json.loads((one(root, "heads=3,*") / "job.json").read_text())["attempts"] == 1


def test_runs_of_other_code_are_taken_only_if_asked(swept, poisoned, tmp_path):
    root = shutil.copytree(swept[0], tmp_path / "sweep")
    for directory in root.glob("runs/*"):
        job = json.loads((directory / "job.json").read_text()) | {"code": "older"}
        rundir.write_json(directory / "job.json", job)
        directory.rename(directory.with_name(directory.name[:-12] + "0123456789ab"))
    flags = [*small_flags(root, poisoned), *GRID, "--dry_run"]
    done = run("sweep", *flags)
    assert "4 runs, 0 of them finished" in done.stdout
    assert "4 of the others were finished by another version of the code" in done.stdout
    jobs = [json.loads((d / "job.json").read_text()) for d in root.glob("runs/*")]
    hours = sum(job["seconds"] for job in jobs) / 3600
    assert f"4 runs, 56 updates; about {hours:.2f} h of one worker" in done.stdout
    assert "4 runs, 4 of them finished" in run("sweep", *flags, "--other_code").stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid=model.wdith=1"], "no config key 'model.wdith'; model has"),
        (["--grid=model.width=big"], "model.width='big' is no int, as 8 is"),
        (["--grid=model.width"], "--grid takes KEY=VALUE,VALUE"),
        (["--grid=selection=acc,wf1"], "selection cannot be swept"),
        (["--trials=3"], "has no search(trial)"),
        (["--options=x=1"], "--executor=local has no options, such as x"),
    ],
)
def test_mistakes_are_one_line(poisoned, tmp_path, flags, message):
    done = run("sweep", *small_flags(tmp_path / "s", poisoned), *flags)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_the_plan_is_a_product_with_seeds_fixed_in_advance():
    config = common.get_config()
    axes = plan.grid(["model.ima_layers=1,2", "optim.lr=1e-3"])
    pairs = plan.expand(config, [{}, {"model.width": 32}], axes, 3)
    assert len(pairs) == 2 * 2 * 3
    assert pairs[-1][0] == {
        "model.width": 32, "model.ima_layers": 2, "optim.lr": 1e-3, "seed": 2
    }  # fmt: skip
    assert pairs[-1][1]["model"]["ima_layers"] == 2  # a number, as in the config
    # The default, said again, is the same run; a seed that is given is kept.
    assert len(plan.expand(config, [{}, {"model.width": 64}], [{}], 2)) == 2
    [pair] = plan.expand(config, [{"seed": 7}], [{}], 5)
    assert pair[1]["seed"] == 7
    with pytest.raises(cli.UsageError, match="each KEY once"):
        plan.grid(["a=1", "a=2"])


@given(
    st.dictionaries(st.sampled_from(["a", "b.c", "d"]), st.integers(0, 9), min_size=1),
    st.sampled_from(["config", "dataset", "code"]),
)
def test_a_key_is_of_config_dataset_and_code_alone(values, changed):
    one = plan.Run(values, {"x": 1, "seed": 0}, "data", "code")
    same = dataclasses.replace(one, overrides=dict(reversed(values.items())) | {"z": 1})
    other = dataclasses.replace(one, **{changed: {"x": 2} if changed == "config" else "new"})
    assert one.key == same.key != other.key
    assert (one.content == other.content) == (changed == "code")
    seeded = dataclasses.replace(one, config={"x": 1, "seed": 1})
    assert seeded.group == one.group and seeded.key != one.key


def test_the_version_of_the_code_is_that_of_its_files(tmp_path, monkeypatch):
    package = shutil.copytree(
        pathlib.Path(rundir.imat_jax.__file__).parent, tmp_path / "imat_jax",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    monkeypatch.setattr(rundir.imat_jax, "__file__", str(package / "__init__.py"))
    version = rundir.code_version.__wrapped__
    before = version()
    assert before == rundir.code_version()
    with (package / "losses.py").open("a") as file:
        file.write("\n")
    assert version() != before


def ended(root, seed, code="old", status="finished", valid=0.5, **results):
    """A run of which no more is there than what a sweep reads."""
    one = plan.Run({"seed": seed}, {"seed": seed}, "d", code)
    job = Job(str(root / "runs" / one.name), ".", one)
    job.write(status=status, attempts=0 if status == "waiting" else 1, seconds=1.0)
    if status == "finished":
        scores = {"selected": {"metric": "acc", "valid": valid}} | results
        rundir.write_json(pathlib.Path(job.directory) / "results.json", scores)
    return job


def test_a_finished_run_counts_until_one_of_the_new_code_is_finished(tmp_path):
    ended(tmp_path, 0)
    new = ended(tmp_path, 0, rundir.code_version(), "waiting")
    summary = Sweep(tmp_path).update()
    assert summary["configurations_tried"] == 1 and summary["runs"] == {"finished": 1}
    assert summary["configurations"][0]["mean"] == 0.5
    new.write(status="failed", attempts=1)
    assert Sweep(tmp_path).update()["runs"] == {"finished": 1}
    ended(tmp_path, 0, rundir.code_version(), valid=0.75)
    summary = Sweep(tmp_path).update()
    assert summary["configurations"][0]["mean"] == 0.75 and summary["configurations_tried"] == 1


def test_versions_of_the_code_are_not_mixed(tmp_path):
    """A mean is of one version, and the report holds the runs of that one alone."""
    for seed in range(3):
        ended(tmp_path, seed, valid=0.1)
    now = rundir.code_version()
    new = [ended(tmp_path, seed, now, "finished" if seed < 2 else "waiting", valid=0.9)
           for seed in range(3)]  # fmt: skip
    [one] = Sweep(tmp_path).update()["configurations"]
    assert one["mean"] == pytest.approx(0.1) and one["seeds"] == 3 and one["code"] != [now]
    new[2].write(status="finished")
    results = {"selected": {"metric": "acc", "valid": 0.9}}
    rundir.write_json(pathlib.Path(new[2].directory) / "results.json", results)
    summary = Sweep(tmp_path).update()
    [one] = summary["configurations"]
    assert one["mean"] == pytest.approx(0.9) and one["code"] == [now]
    assert summary["runs_of_other_code"] == 3


def test_what_could_not_be_scored_on_test_is_said(tmp_path, monkeypatch, capsys):
    class Failing:
        capacity = 9

        def submit(self, jobs):
            self.jobs = jobs

        def ended(self, seconds):
            for job in self.jobs:
                job.write(test_error="Traceback\nDataError: no such file")
            return [(job, "") for job in self.jobs]

        def stop(self):
            pass

    job = ended(tmp_path, 0, rundir.code_version())
    names = {"grid": [], "test": True, "seeds": 1, "retry_failed": False, "other_code": False,
             "dry_run": False, "config": None}  # fmt: skip
    monkeypatch.setattr(plan, "expand", lambda *a: [({}, {})])
    monkeypatch.setattr(sweep, "selection", lambda config: "acc")

    class Making:
        others = 0

        def __call__(self, *_):
            return job

    status = sweep._grid(
        types.SimpleNamespace(**names), ["sweep"], types.SimpleNamespace(), Sweep(tmp_path),
        Making(), Failing, {},
    )  # fmt: skip
    assert status == 1 and "DataError: no such file" in capsys.readouterr().err
    assert "test" not in json.loads((tmp_path / "sweep.json").read_text())


def test_a_run_that_was_stopped_is_a_configuration_that_was_tried(tmp_path):
    ended(tmp_path, 0, status="stopped")
    ended(tmp_path, 0, rundir.code_version(), "waiting")
    assert Sweep(tmp_path).update()["configurations_tried"] == 1


def test_sweep_json_is_written_when_a_sweep_is_stopped(tmp_path):
    class Stopping:
        def stop(self):
            ended(tmp_path, 0, status="stopped")

    with pytest.raises(SystemExit) as end, sweep._stopping(Stopping(), Sweep(tmp_path).update):
        raise KeyboardInterrupt
    assert end.value.code == sweep.STOPPED
    assert json.loads((tmp_path / "sweep.json").read_text())["runs"] == {"stopped": 1}


def test_test_scores_by_evaluate_mark_later_runs(tmp_path):
    flags = types.SimpleNamespace(other_code=False, track=[])
    ended(tmp_path, 0)
    assert not sweep._Making(Sweep(tmp_path), flags)._tested
    ended(tmp_path, 1, test={"acc": 0.5})
    assert sweep._Making(Sweep(tmp_path), flags)._tested


def test_two_processes_may_write_one_job(tmp_path):
    one = ended(tmp_path, 0, status="waiting")

    def write(name):
        for i in range(40):
            one.write(**{f"{name}{i}": i})

    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # a lock is of the open file
        list(pool.map(write, "abcd"))
    assert {f"{name}{i}" for name in "abcd" for i in range(40)} <= set(one.read())


def test_context_takes_rows_of_each_batch(tiny_dataset):
    config = common.get_config()
    config.dataset, config.batch_size, config.epochs = str(tiny_dataset.path), 16, 3
    for both in (False, True):
        config.model.context, config.model.bidirectional = 3, both
        split = loader.Split(
            tiny_dataset, "train", modalities=("text",), batch_size=16, buckets=[(8,)],
            context=(3, both),
        )  # fmt: skip
        assert sweep.updates(config.to_dict()) == 3 * split.steps_per_epoch
    config.model.context = 16  # the run itself says that this is wrong
    assert sweep.updates(config.to_dict()) > 0


@pytest.mark.parametrize("axis", ["given", "product"])
def test_scores_of_different_metrics_are_not_ranked(axis):
    overrides = {"given": [{}], "product": [{}]} | {axis: [{"selection": "acc"}]}
    with pytest.raises(cli.UsageError, match="selection cannot be swept"):
        plan.expand(common.get_config(), **overrides, seeds=1)


def test_a_sweep_has_one_metric(swept, poisoned):
    flags = small_flags(swept[0], poisoned, selection="macro_f1")
    done = run("sweep", *flags, "--dry_run")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "runs selected by acc, and these are by macro_f1" in done.stderr
    done = run("sweep", *small_flags(swept[0], poisoned), "--dry_run", "--jobs=-1")
    assert done.returncode == 1 and "--jobs" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("argv", "changes"), [(["optim.lr=1"], {}), ([], {"retry_failed": True})])
def test_a_search_refuses_what_it_would_not_do(tmp_path, argv, changes):
    names = {"grid": [], "test": False, "seeds": None, "retry_failed": False} | changes
    module = types.SimpleNamespace(search=lambda trial: {})
    with pytest.raises(cli.UsageError, match="--trials"):
        sweep._search(
            types.SimpleNamespace(**names),
            ["sweep", *argv],
            module,
            Sweep(tmp_path),
            None,
            None,
            {},
        )


def test_workers_have_gpus_of_their_own(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert local.gpus() == ["4", "7"]
    assert [local.environment(i, 2, ["4", "7"]) for i in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "7"}
    ]  # fmt: skip
    third = local.environment(2, 3, ["4", "7"])
    assert third == {"CUDA_VISIBLE_DEVICES": "4", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    assert local.environment(0, 3, []) == {}
    assert local.make(pathlib.Path(), 0, {}).capacity == 2


def test_an_executor_whose_package_is_absent_says_which_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(cli.UsageError, match=r"pip install 'imat_jax\[ray\]'"):
        executor.make("ray", tmp_path, 0, {})


def test_a_job_that_was_stopped_is_done_again_and_a_death_is_a_failure(tmp_path):
    class Flaky:
        """The first job is stopped once; the second's process dies."""

        capacity, submitted, waiting = 1, [], ()

        def submit(self, jobs):
            self.submitted += jobs
            self.waiting = list(jobs)

        def ended(self, seconds):
            [job], self.waiting = self.waiting, []
            if job.run.config["seed"] == 1:
                job.write(status="running", attempts=1)
                return [(job, "its process ended with status -9")]
            job.write(status="stopped" if self.submitted.count(job) == 1 else "finished")
            results = {"selected": {"metric": "acc", "valid": 0.5}}
            rundir.write_json(pathlib.Path(job.directory) / "results.json", results)
            return [(job, "")]

    jobs = [
        Job(str(tmp_path / "runs" / str(s)), ".", plan.Run({"seed": s}, {"seed": s}, "d", "c"))
        for s in (0, 1)
    ]
    flaky = Flaky()
    counts = []
    record = lambda: counts.append(Sweep(tmp_path).update()["runs"])  # noqa: E731
    sweep.run_all(sweep.Listed(jobs), flaky, sweep.Table(2, 0), record)
    assert counts == [{"stopped": 1}, {"finished": 1}, {"finished": 1, "failed": 1}]
    assert [j.run.config["seed"] for j in flaky.submitted] == [0, 0, 1]
    assert [j.read()["status"] for j in jobs] == ["finished", "failed"]
    assert jobs[1].read()["error"].endswith("its process ended with status -9")
    summary = Sweep(tmp_path).update()
    assert summary["configurations"][0]["mean"] is None  # a seed is missing
    assert configs.flatten(summary["runs"]) == {"finished": 1, "failed": 1}
