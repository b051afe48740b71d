"""Run a config over values and seeds: python -m imat_jax.sweep --config=configs/mosi.py \\
--workdir=sweeps/depth --grid model.ima_layers=1,2 --seeds=5

Values come from `--grid`, from `sweep()` of the config, or from a search by Optuna over the space
of its `search(trial)` (`--trials=50`). Started again, the same command goes on: what is finished is
not repeated. SWEEP/sweep.json counts and ranks all that was tried. The test split is not opened:
`imat evaluate --workdir=RUN --split=test` scores the run that was chosen. See docs/sweeps.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from absl import flags

from imat_jax import config as configs
from imat_jax import rundir, tasks, tracking
from imat_jax.cli import UsageError, run
from imat_jax.data.dataset import Dataset
from imat_jax.sweeping import executor as executors
from imat_jax.sweeping import plan
from imat_jax.sweeping.search import Search, hidden
from imat_jax.sweeping.state import OVER, Job, Sweep, read, results
from imat_jax.sweeping.table import Table

STOPPED = 143
OPEN = ("train", "valid")  # the splits that a sweep sees


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Directory of the sweep; made if absent.", required=True)
    flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE; several make a product.")
    flags.DEFINE_integer("seeds", None, "Seeds 0, 1, … of each configuration; 5, in a search 1.", 1)
    flags.DEFINE_enum("executor", "local", list(executors.EXECUTORS), "What runs the runs.")
    flags.DEFINE_list("options", [], "NAME=VALUE,… of the executor; see docs/sweeps.md.")
    flags.DEFINE_integer("jobs", 0, "Runs at a time; 0: local, one a GPU, or one; else all.", 0)
    flags.DEFINE_integer("trials", 0, "Search: how many configurations to try in all.", 0)
    flags.DEFINE_string("storage", "", "Search: database URL to share; default SWEEP/study.log.")
    flags.DEFINE_bool("retry_failed", False, "Run those again that failed.")
    flags.DEFINE_bool("other_code", False, "Take runs that another version of the code finished.")
    flags.DEFINE_bool("test", False, "Score test for every run, once all are finished.")
    flags.DEFINE_bool("dry_run", False, "List the runs and what they may cost; runs nothing.")
    flags.DEFINE_multi_enum("track", [], list(tracking.TRACKERS), "Report the runs to it too.")
    configs.define_flag()


class Source(Protocol):
    """Where the jobs come from."""

    def next(self, after: Job | None) -> Job | None:
        """One to start now, if there is any; `after` is the one that made room."""

    def done(self, job: Job, status: str) -> None:
        """The job ended so."""


class Listed:
    """Jobs that are known beforehand; `after` a job, one that needs no compiling if possible."""

    def __init__(self, jobs: list[Job]):
        self._waiting, self._groups = list(jobs), []

    def next(self, after: Job | None) -> Job | None:
        same = [j for j in self._waiting if after and j.run.group == after.run.group]
        new = [j for j in self._waiting if j.run.group not in self._groups]
        for job in [*same, *new, *self._waiting]:
            self._waiting.remove(job)
            self._groups.append(job.run.group)
            return job
        return None

    def done(self, job: Job, status: str) -> None:
        pass


def run_all(
    source: Source, executor: executors.Executor, table: Table, record: Callable[[], Any]
) -> None:
    """Have all jobs of `source` done; a job that was only stopped is done again.

    Args:
      record: called whenever jobs have ended.
    """
    running: list[Job] = []
    ended: list[Job] = []  # latest, whose workers are free
    again: list[Job] = []
    while True:
        batch: list[Job] = []
        while len(running) + len(batch) < executor.capacity:
            job = again.pop() if again else source.next(ended.pop() if ended else None)
            if job is None:
                break
            batch.append(job)
        executor.submit(batch)
        running += batch
        if not running:
            return
        table.draw(running)
        ended = []
        for job, died in executor.ended(1.0):
            running.remove(job)
            ended.append(job)
            status = _status(job, died)
            if status == "stopped":
                again.append(job)
            else:
                source.done(job, status)
            table.event(job, status)
        if ended:
            record()


def _status(job: Job, died: str) -> str:
    if job.test:
        return "finished" if job.read().get("test") else "failed"
    status = job.read()["status"]
    if status not in OVER and (died or status != "stopped"):  # its process could not say how
        status = "failed"
        job.write(status=status, error=f"{job.tail()}\n{died or 'it ended without a word'}")
    return status


@functools.cache
def fingerprint(path: str) -> str:
    return Dataset.open(path, OPEN).fingerprint


def describe(jobs: list[Job], sweep: Sweep) -> str:
    """The runs that are to be done, a line each, and the time that they may take."""
    known: dict[str, list[float]] = {}
    for directory in sweep.directories():
        job = read(directory)
        if job["status"] == "finished" and "updates" in job:
            known.setdefault(job["group"], []).append(job["seconds"] / job["updates"])
    every = [s for seconds in known.values() for s in seconds]
    lines, total, work = [], 0.0, 0
    for job in jobs:
        seconds = known.get(job.run.group) or every
        count = updates(job.run.config)
        work += count
        total += count * sum(seconds) / len(seconds) if seconds else 0
        lines.append(f"  {pathlib.Path(job.directory).name}: {count} updates")
    cost = f"about {total / 3600:.2f} h of one worker, as finished runs took" if every else (
        "no run here is finished to say how long that takes"
    )  # fmt: skip
    return "\n".join([*lines, f"{len(jobs)} runs, {work} updates; {cost}"])


def updates(config: Mapping[str, Any]) -> int:
    size = Dataset.open(config["dataset"], OPEN).builder.info.splits["train"].num_examples
    model = config["model"]  # whose context takes rows of each batch
    rows = config["batch_size"] - model["context"] * (1 + model["bidirectional"])
    rows = max(rows, 1)  # if it takes all, that run fails and says so, not the sweep
    return config["steps"] or config["epochs"] * -(-size // rows)


@functools.cache
def _headline(path: str) -> str:
    metadata = Dataset.open(path, OPEN).metadata
    return tasks.make(metadata["task"], metadata["class_names"]).headline


def selection(config: Mapping[str, Any]) -> str:
    """The metric that selects the checkpoint of a run, and ranks it."""
    return config["selection"] or _headline(config["dataset"])


def finish(sweep: Sweep, jobs: Iterable[Job], **facts: Any) -> int:
    """Write sweep.json, print the ranking and which of `jobs` failed; returns the exit status."""
    summary = sweep.update(**facts)
    print(f"\n{summary['metric']}, mean over seeds; {summary['configurations_tried']} tried")
    for row in summary["configurations"]:
        words = " ".join(f"{k}={v}" for k, v in row["overrides"].items()) or "as configured"
        spread = "" if row["std"] is None else f" ± {row['std']:.4f}"
        score = "not all finished" if row["mean"] is None else f"{row['mean']:.4f}{spread}"
        print(f"  {score:<20} {row['seeds']} seeds  {words}")
    failed = [job for job in jobs if job.read()["status"] == "failed"]
    for job in failed:
        last = (job.read().get("error") or "?").strip().splitlines()[-1]
        print(f"failed: {job.directory}: {last}", file=sys.stderr)
    return 1 if failed else 0


def _interrupted(*_) -> None:
    sys.exit(STOPPED)


@contextlib.contextmanager
def _stopping(executor: executors.Executor, record: Callable[[], Any]) -> Iterator[None]:
    """However it is left, no worker stays behind, and `record` is called after that."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print("stopping; the same command goes on", file=sys.stderr)
        sys.exit(STOPPED)
    finally:
        executor.stop()
        record()


def check_metric(sweep: Sweep, metric: str) -> None:
    """Raises `UsageError` where runs of this sweep were selected by another metric."""
    found = {scores["selected"]["metric"] for d in sweep.directories() if (scores := results(d))}
    if found - {metric}:
        raise UsageError(
            f"{sweep.root} has runs selected by {', '.join(sorted(found))}, and these are "
            f"by {metric}: such scores do not rank; take another --workdir"
        )


class _Making:
    """Runs and jobs of this sweep from overrides."""

    def __init__(self, sweep: Sweep, f: flags.FlagValues):
        self._sweep, self._f, self.others = sweep, f, 0
        # Also by `imat evaluate`, which does not write job.json.
        self._tested = any(read(d).get("test") or "test" in results(d) for d in sweep.directories())

    def __call__(self, overrides: Mapping, config: Mapping, trial: Mapping | None = None) -> Job:
        data = fingerprint(config["dataset"])
        one = plan.Run(overrides, config, data, rundir.code_version())
        directory, other = self._sweep.place(one, self._f.other_code)
        self.others += bool(other)
        return Job(str(directory.absolute()), os.getcwd(), one, tuple(self._f.track), trial)

    def note(self, job: Job) -> None:
        """Put it on record before it runs, also that test scores had been seen by then."""
        late = {"after_test": True} if self._tested else {}
        job.write(updates=updates(job.run.config), **({} if job.read()["attempts"] else late))


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    root = pathlib.Path(f.workdir)
    path = configs.named()
    module, sweep = configs.load_file(path), Sweep(root)
    making = _Making(sweep, f)
    options = dict(item.partition("=")[::2] for item in f.options)
    start = functools.partial(executors.make, f.executor, root, f.jobs, options)
    facts = {"command": hidden(shlex.join(sys.argv)), "config": path}
    signal.signal(signal.SIGTERM, _interrupted)
    if f.trials:
        status = _search(f, argv, module, sweep, making, start, facts)
    else:
        status = _grid(f, argv, module, sweep, making, start, facts)
    sys.exit(status)


def _grid(f, argv, module, sweep: Sweep, making: _Making, start: Callable, facts: dict) -> int:
    given = list(module.sweep(f.config)) if hasattr(module, "sweep") else [{}]
    product = plan.grid([*f.grid, *argv[1:]])
    seeds = 5 if f.seeds is None else f.seeds
    jobs = [making(*pair) for pair in plan.expand(f.config, given, product, seeds)]
    statuses = {job.directory: job.read()["status"] for job in jobs}
    skipped = ("finished",) if f.retry_failed else ("finished", "failed")
    todo = [job for job in jobs if statuses[job.directory] not in skipped]
    metrics = sorted({selection(job.run.config) for job in jobs})
    if len(metrics) > 1:
        raise UsageError(f"these runs are selected by {' and '.join(metrics)}: no ranking has both")
    check_metric(sweep, *metrics)
    done = [*statuses.values()].count("finished")
    print(f"{len(jobs)} runs, {done} of them finished; {sweep.root}")
    if making.others and not f.other_code:
        print(
            f"{making.others} of the others were finished by another version of the code, and are "
            "run again; --other_code takes them as they are"
        )
    if f.dry_run:
        print(describe(todo, sweep))
        return 0
    for job in jobs if f.other_code else ():
        if statuses[job.directory] == "finished":
            job.write(counts_as=rundir.code_version())
    for job in todo:
        making.note(job)
    facts |= {"seeds": seeds}
    record = functools.partial(sweep.update, **facts)
    record()
    executor, table = start(), Table(len(jobs), done)
    with _stopping(executor, record):
        run_all(Listed(todo), executor, table, record)
        status = finish(sweep, jobs, **facts)
        if f.test and status == 0:
            unscored = [job for job in jobs if not job.read().get("test")]
            scoring = [dataclasses.replace(job, test=True) for job in unscored]
            run_all(Listed(scoring), executor, Table(len(scoring), 0), record)
            for job in (unscored := [job for job in unscored if not job.read().get("test")]):
                lines = (job.read().get("test_error") or "?").strip().splitlines()
                print(f"test is not scored: {job.directory}: {lines[-1]}", file=sys.stderr)
            if unscored:
                return 1
            sweep.update(**facts, test="scored for every run, when all were finished")
            print(f"test is scored: imat report {sweep.root}")
        return status


def _search(f, argv, module, sweep: Sweep, making: _Making, start: Callable, facts: dict) -> int:
    if not hasattr(module, "search"):
        raise UsageError(f"--trials: {module.__file__} has no search(trial) that says the space")
    if f.grid or argv[1:] or f.test or f.seeds not in (None, 1):
        raise UsageError(
            "--trials goes with neither --grid, KEY=VALUE, --seeds nor --test: a search tries one "
            "seed on validation; sweep what it finds over seeds, and score that on test. "
            "--config.KEY=VALUE holds for all trials"
        )
    if f.retry_failed:
        raise UsageError("--trials: a trial that failed is over; --retry_failed is of a --grid")
    metric = selection(f.config)
    check_metric(sweep, metric)
    base = plan.Run({}, f.config.to_dict(), fingerprint(f.config.dataset), rundir.code_version())

    jobs: list[Job] = []

    def job(overrides: Mapping, trial: Mapping) -> Job:
        [(overrides, config)] = plan.expand(f.config, [overrides], [{}], 1)
        made = making(overrides, config, trial)
        making.note(made)
        jobs.append(made)
        return made

    if f.dry_run:
        print(f"{f.trials} trials of {updates(f.config)} updates each, less what is pruned")
        return 0
    sweep.root.mkdir(parents=True, exist_ok=True)
    search = Search(sweep.root, f.storage, module.search, job, metric, base.key, f.trials)
    record = lambda: sweep.update(**facts, search=search.facts())  # noqa: E731
    executor, table = start(), Table(f.trials, 0)
    with contextlib.closing(search), _stopping(executor, record):
        run_all(search, executor, table, record)
        status = finish(sweep, jobs, **facts, search=search.facts())
        best = search.facts().get("best")
        if best:
            print(f"best: trial {best['trial']}, {best['value']:.4f}: {best['overrides']}")
        return status


if __name__ == "__main__":
    run(main, define_flags)
