"""Search: trials, pruning, and going on, with real Optuna and learning curves that are made up."""

import contextlib
import json
import pathlib

import pytest

from imat_jax import cli, rundir, sweep, train
from imat_jax.sweeping import plan, search
from imat_jax.sweeping.state import Job, Sweep

optuna = pytest.importorskip("optuna", reason="pip install 'imat_jax[sweep]'")


def space(trial):
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True),
            "model.ima_layers": trial.suggest_int("model.ima_layers", 1, 3)}  # fmt: skip


def curve(config):
    """Validation accuracy after 0, 10, … updates; best at a rate of 0.01."""
    height = 0.9 - 10 * abs(config["optim.lr"] - 0.01) + 0.01 * config["model.ima_layers"]
    return [(step, 0.25 + (height - 0.25) * step / 30) for step in (0, 10, 20, 30)]


class Invented:
    """An executor in this process whose runs follow `curve`; one ends by ending the sweep.

    Args:
      die: before the second validation of the job of that number.
    """

    def __init__(self, die=None, capacity=1):
        self.capacity, self.die, self.started, self.jobs = capacity, die, [], []

    def submit(self, jobs):
        self.jobs += jobs

    def ended(self, seconds):
        return [(self.jobs.pop(0), "")] if self._run(self.jobs[0]) else []

    def _run(self, job):
        directory = pathlib.Path(job.directory)
        self.started.append(dict(job.run.overrides))
        validated = search.pruner(job.trial)
        best = 0.0
        try:
            for step, score in curve(job.run.config):
                if step == 10 and len(self.started) == self.die:
                    raise KeyboardInterrupt
                validated(step, score)
                best = max(best, score)
        except train.Pruned:
            job.write(status="pruned")
            return True
        results = {"selected": {"metric": "acc", "valid": best}}
        rundir.write_json(directory / "results.json", results)
        job.write(status="finished", seconds=1.0)
        return True


def start(root, trials, base="base", space=space):
    root.mkdir(exist_ok=True)

    def job(overrides, trial):
        run = plan.Run(overrides, dict(overrides), "data", "code")
        made = Job(str(root / "runs" / run.name), ".", run, trial=trial)
        made.write(attempts=1)
        return made

    return search.Search(root, "", space, job, "acc", base, trials)


def go(root, trials, **kw):
    executor = Invented(**kw)
    with contextlib.closing(start(root, trials)) as found:
        record = lambda: Sweep(root).update(search=found.facts())  # noqa: E731
        sweep.run_all(found, executor, sweep.Table(trials, 0), record)
        return executor.started, found.facts()


@pytest.fixture
def opened(tmp_path):
    """`start` on one directory; all are closed afterwards."""
    with contextlib.ExitStack() as stack:
        yield lambda *a, **kw: stack.enter_context(
            contextlib.closing(start(tmp_path / "s", *a, **kw))
        )


def test_a_space_that_has_changed_is_said(opened):
    first = opened(2)
    first.done(first.next(None), "failed")

    def changed(trial):
        return {"optim.lr": trial.suggest_categorical("optim.lr", [1e-3, 1e-2])}

    with pytest.raises(cli.UsageError, match="another search: take another --workdir"):
        opened(2, space=changed).next(None)
    assert opened(2).next(None) is not None  # what was refused is no trial


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("search") / "whole"
    return root, *go(root, 12)


def test_all_trials_are_counted_and_the_best_is_on_validation(whole):
    root, started, facts = whole
    assert sum(facts["trials"].values()) == 12 == len(started)
    assert set(facts["trials"]) == {"complete", "pruned"}  # both happen
    summary = Sweep(root).update(search=facts)
    assert summary["configurations_tried"] == 12 and summary["metric"] == "valid/acc"
    scores = [c["mean"] for c in summary["configurations"] if c["mean"] is not None]
    assert facts["best"]["value"] == scores[0] == max(scores)
    best = json.loads((pathlib.Path(facts["best"]["directory"]) / "results.json").read_text())
    assert best["selected"]["valid"] == facts["best"]["value"]


def test_what_was_pruned_was_below_the_median(whole):
    root, _, _ = whole
    study = optuna.load_study(study_name="whole", storage=search._storage(str(root / "study.log")))
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    pruned = [t for t in study.trials if t.state.name == "PRUNED"]
    assert min(t.number for t in pruned) >= search.STARTUP
    ends = sorted(t.value for t in complete)
    for trial in pruned:
        assert 0 < trial.last_step < 30
        [truth] = [s for step, s in curve(trial.params) if step == 30]
        assert truth < ends[-1]


@pytest.mark.parametrize("die", [1, 8])
def test_killed_and_started_again_it_is_the_same_search(whole, tmp_path, die):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", 12, die=die)
    started, facts = go(tmp_path / "cut", 12)
    assert started == whole[1][die - 1 :]  # the one that was under way, then the rest
    assert facts["trials"] == whole[2]["trials"]
    assert facts["best"]["value"] == whole[2]["best"]["value"]


def test_two_sweeps_share_a_search(opened):
    first, second = opened(4), opened(4)
    jobs = [first.next(None), second.next(None), first.next(None)]
    assert len({j.directory for j in jobs}) == 3
    first.close()  # as a killed process does: its two trials are left to the other
    left = [second.next(None), second.next(None)]
    assert [j.directory for j in left] == [jobs[0].directory, jobs[2].directory]
    for job in [jobs[1], *left, second.next(None)]:
        Invented()._run(job)
        second.done(job, "finished")
    assert second.next(None) is None and second.facts()["trials"] == {"complete": 4}


def test_a_trial_whose_process_was_killed_before_it_had_parameters_is_no_trial(opened):
    class Killed(BaseException):
        pass

    def killed(trial):
        trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True)
        raise Killed

    first, second = opened(2), opened(2)
    first._space = killed
    with pytest.raises(Killed):
        first.next(None)
    jobs = [second.next(None)]
    assert second.facts()["trials"] == {"running": 2}  # its process may still be at it
    first.close()
    jobs.append(second.next(None))
    assert [t.state.name for t in second._study.trials] == ["FAIL", "RUNNING", "RUNNING"]
    assert None not in jobs and second.next(None) is None
    for job in jobs:
        Invented()._run(job)
        second.done(job, "finished")
    assert second.facts()["trials"] == {"complete": 2}


def test_a_failure_is_a_failed_trial(opened):
    source = opened(1)
    source.done(source.next(None), "failed")
    assert source.next(None) is None and source.facts() == {
        "storage": source._storage, "trials": {"fail": 1}
    }  # fmt: skip


def test_scores_of_another_config_are_not_mixed_in(opened):
    opened(1)
    with pytest.raises(cli.UsageError, match="another config, dataset or version of the code"):
        opened(1, base="other")


def test_a_database_is_a_storage_too(tmp_path):
    found = search._storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=found, study_name="x")
    assert study.ask().number == 0
    found.remove_session()
    found.engine.dispose()


def test_a_password_is_not_kept():
    url = "postgresql://me:se:cret@host:5432/studies"
    assert search.hidden(url) == "postgresql://me:***@host:5432/studies"
    assert search.hidden("sqlite:///a.db") == "sqlite:///a.db"
    with pytest.raises(cli.UsageError, match=r"--storage=nosuch://me:\*\*\*@host"):
        search._storage("nosuch://me:x@host/db")
