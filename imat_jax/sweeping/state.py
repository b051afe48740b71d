"""What a sweep knows of its runs, on disk.

    SWEEP/sweep.json              all that was tried, with validation scores; kept up to date
    SWEEP/runs/NAME-KEY/          a run directory, as of `train`, and besides
        job.json                  status, seconds, and of a failure its last lines
        job.lock                  held while job.json is written, by whichever process
        log.txt                   what the run printed, over all attempts

A run has one worker at a time: it holds a lock on RUN/lock, which the system releases when it dies.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import json
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from imat_jax import rundir, tasks
from imat_jax.sweeping import plan

TAIL = 25  # lines of a failed run's log that are kept with it
OVER = ("finished", "failed", "pruned")


@dataclasses.dataclass(frozen=True)
class Job:
    """One thing for a worker to do, in a form that can be sent.

    Attributes:
      directory: of the run.
      cwd: of the sweep; the config's paths are relative to it.
      track: names of `tracking.TRACKERS`.
      trial: {storage, study, trial} of the search that wants it, or None.
      test: score the test split of the finished run, instead of training.
    """

    directory: str
    cwd: str
    run: plan.Run
    track: tuple[str, ...] = ()
    trial: Mapping[str, Any] | None = None
    test: bool = False

    def read(self) -> dict[str, Any]:
        """Its job.json; a run that was never started is "waiting"."""
        return read(pathlib.Path(self.directory))

    def write(self, **changes: Any) -> None:
        run, path = self.run, pathlib.Path(self.directory)
        path.mkdir(parents=True, exist_ok=True)
        parts = {"key": run.key, "content": run.content, "group": run.group, "code": run.code}
        fixed = parts | {"overrides": dict(run.overrides)}
        with locked(path / "job.lock"):  # not RUN/lock, which a worker holds all the time
            rundir.write_json(path / "job.json", fixed | self.read() | changes)

    def tail(self) -> str:
        """The last lines of what the run printed."""
        path = pathlib.Path(self.directory) / "log.txt"
        text = path.read_text(errors="replace") if path.is_file() else ""
        lines = [line.rpartition("\r")[2] for line in text.splitlines()]
        return "\n".join(lines[-TAIL:])


def read(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / "job.json"
    if not path.is_file():
        return {"status": "waiting", "seconds": 0.0, "attempts": 0}
    return json.loads(path.read_text())


def results(directory: pathlib.Path) -> dict[str, Any]:
    """The run's results.json; empty before it has any."""
    path = directory / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Alone in it, of all processes that see the file; waits for the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Sweep:
    """The sweep in `root`."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def directories(self) -> list[pathlib.Path]:
        return sorted(p.parent for p in self.root.glob("runs/*/job.json"))

    def place(self, run: plan.Run, other_code: bool = False) -> tuple[pathlib.Path, str]:
        """(directory of `run`, the version of the code that finished it where that is not this).

        Args:
          other_code: take the finished run of another version of the code, where there is one.
        """
        existing = [*self.root.glob(f"runs/*-{run.key}")]
        own = existing[0] if existing else self.root / "runs" / run.name
        if read(own)["status"] == "finished":
            return own, ""
        for directory in self.directories():
            job = read(directory)
            if job.get("content") == run.content and job["code"] != run.code:
                if job["status"] == "finished":
                    return (directory if other_code else own), job["code"]
        return own, ""

    def update(self, **facts: Any) -> dict[str, Any]:
        """Write sweep.json from the runs' own files, with `facts` added; returns it."""
        with locked(self.root / "lock"):
            path = self.root / "sweep.json"
            before = json.loads(path.read_text()) if path.is_file() else {}
            summary = before | facts | summarize(self.directories(), self.root)
            rundir.write_json(path, summary)
        return summary


def summarize(directories: list[pathlib.Path], root: pathlib.Path) -> dict[str, Any]:
    """Every configuration that was ever tried in this sweep, best validation score first."""
    # {configuration: {version of the code: {config and dataset: run}}}
    groups: dict[str, dict] = collections.defaultdict(lambda: collections.defaultdict(dict))
    tested, metric, attempted = 0, None, set()
    for directory in directories:
        job, scores = read(directory), results(directory)
        tested += "test" in scores
        if scores:
            metric = scores["selected"]["metric"]
        if job["attempts"]:
            attempted.add(job["group"])
        version = job.get("counts_as", job["code"])
        groups[job["group"]][version][job["content"]] = (directory, job, scores)
    counted = [list(_version(versions).values()) for versions in groups.values()]
    configurations = [_configuration(runs, root) for runs in counted]
    statuses = [job["status"] for runs in counted for _, job, _ in runs]
    sign = -1 if metric and tasks.higher_is_better(metric) else 1
    unscored = lambda c: (c["mean"] is None, sign * (c["mean"] or 0))  # noqa: E731
    return {
        "metric": f"valid/{metric}",
        "configurations_tried": len(attempted),
        "runs": dict(collections.Counter(statuses)),
        "runs_of_other_code": len(directories) - len(statuses),
        "runs_with_test_scores": tested,
        "configurations": sorted(configurations, key=unscored),
    }


def _version(versions: Mapping[str, dict]) -> dict:
    """The runs of a configuration that count: of one version of the code, for others mean others.

    One of which all are finished; else, or of several such, the present one; else most finished.
    """

    def rank(version: str) -> tuple:
        done = [job["status"] == "finished" for _, job, _ in versions[version].values()]
        return all(done), version == rundir.code_version(), sum(done)

    return versions[max(versions, key=rank)]


def _configuration(runs: list, root: pathlib.Path) -> dict[str, Any]:
    """One configuration over its seeds; no mean while a seed is missing, or it would flatter."""
    scores = [r["selected"]["valid"] for _, job, r in runs if job["status"] == "finished"]
    whole = len(scores) == len(runs)
    overrides = {k: v for k, v in runs[0][1]["overrides"].items() if k != "seed"}
    return {
        "overrides": overrides,
        "seeds": len(runs),
        "mean": statistics.fmean(scores) if whole else None,
        "std": statistics.stdev(scores) if whole and len(scores) > 1 else None,
        "code": sorted({job["code"] for _, job, _ in runs}),
        "after_test": any(job.get("after_test") for _, job, _ in runs),
        "runs": {str(d.relative_to(root)): job["status"] for d, job, _ in runs},
    }
