"""One run of a sweep, in the process that calls; the same whichever executor started that.

Nothing is printed: what the run says goes to RUN/log.txt, how it ended to RUN/job.json. A process
that does several runs compiles once for those that differ in nothing but the seed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping

import jax
import ml_collections

from imat_jax import evaluate, experiment, rundir, train
from imat_jax.cli import UsageError
from imat_jax.data.corpus import DataError
from imat_jax.sweeping import search
from imat_jax.sweeping.state import OVER, Job, locked

SCORED = ("valid",)  # what a sweep sees of a run: never the test split
_prepared: dict[str, train.Prepared] = {}  # of the latest group only


def work(job: Job) -> str:
    """Do it, unless it is done; returns the status: finished, failed, pruned or stopped."""
    directory = pathlib.Path(job.directory)
    os.chdir(job.cwd)
    with locked(directory / "lock"):
        before = job.read()
        if not job.test and (before["status"] == "finished" or _settled(before, job)):
            return before["status"]  # another worker did it meanwhile
        start = time.perf_counter()
        if not job.test:
            where = {"host": socket.gethostname(), "pid": os.getpid()}
            job.write(status="running", attempts=before["attempts"] + 1, **where)
        with _printing_to(directory / "log.txt"):
            status = _run(job, directory)
        seconds = before["seconds"] + time.perf_counter() - start
        if job.test:
            job.write(**({"test": True} if status == "finished" else {"test_error": job.tail()}))
        else:
            error = {"error": job.tail()} if status == "failed" else {}
            job.write(status=status, seconds=seconds, **error)
        return status


def _settled(before: Mapping, job: Job) -> bool:
    """A search takes for an answer what was pruned or failed; a list of runs wants them done."""
    return job.trial is not None and before["status"] in OVER


def _run(job: Job, directory: pathlib.Path) -> str:
    try:
        with rundir.room(directory):
            _score_test(job, directory) if job.test else _train(job, directory)
    except train.Pruned:
        return "pruned"
    except SystemExit as end:  # SIGTERM; or a scheduler that will run this job again
        if end.code != train.PREEMPTED:
            raise
        return "stopped"
    except (UsageError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return "failed"
    except Exception:
        traceback.print_exc()
        return "failed"
    return "finished"


def _train(job: Job, directory: pathlib.Path) -> None:
    config = ml_collections.ConfigDict(dict(job.run.config))
    group = job.run.group
    if group not in _prepared:
        if _prepared:  # programs of other configs would pile up
            _prepared.clear()
            jax.clear_caches()
        _prepared[group] = train.prepare(config, SCORED)
    train.train(
        config, directory, scored=SCORED, track=job.track, prepared=_prepared[group],
        validated=search.pruner(job.trial) if job.trial else None,
    )  # fmt: skip


def _score_test(job: Job, directory: pathlib.Path) -> None:
    config = ml_collections.ConfigDict(dict(job.run.config))
    evaluate.evaluate(experiment.make(config), directory, ["test"])


@contextlib.contextmanager
def _printing_to(path: pathlib.Path) -> Iterator[None]:
    """Standard output and error, also those of libraries in C, are added to the file."""
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1), os.dup2(file, 2)
    try:
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        for number in [file, *kept]:
            os.close(number)
