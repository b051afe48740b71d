"""The files of a run directory: config, environment, metrics line by line, results."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

import imat_jax
from imat_jax import config as configs
from imat_jax import distributed, tracking
from imat_jax.cli import UsageError
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets",
            "array-record", "numpy", "ml-collections", "ml_dtypes")  # fmt: skip


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def room(workdir: pathlib.Path) -> Iterator[None]:
    """That there is no room left in it for what is written within is bad input, of one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(
            f"cannot write to {workdir}: {error}. Make room there; the same command then goes on"
        ) from error


def write_text(path: pathlib.Path, text: str) -> None:
    """Write under a temporary name, then rename: readers see the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: pathlib.Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def start(workdir: pathlib.Path, config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Make the run directory, or check that the one that exists is of this very run.

    Raises:
      UsageError: `workdir` holds a run with another config or another dataset; or processes of
        this run differ in config or dataset, or do not see the same `workdir`.
    """
    distributed.agree("config", json.dumps(config.to_dict(), sort_keys=True))
    distributed.agree(f"dataset in {config.dataset}", dataset.fingerprint)
    if (workdir / "config.json").is_file():
        changed = configs.difference(configs.load(workdir).to_dict(), config.to_dict())
        before = json.loads((workdir / "environment.json").read_text())["dataset"]
        if before != dataset.fingerprint:
            changed.append(f"fingerprint of {config.dataset}: {before} -> {dataset.fingerprint}")
        if changed:
            raise UsageError(
                f"{workdir} holds a run that differs in {'; '.join(changed)}. "
                "Take another --workdir, or delete this one"
            )
    elif distributed.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "dataset.json", dict(dataset.metadata))
        write_json(workdir / "environment.json", environment(dataset))
        write_json(workdir / "config.json", config.to_dict())  # last: it makes a run directory
    distributed.agree("run directory", "made")
    if not (workdir / "config.json").is_file():
        raise UsageError(
            f"{workdir} is not the directory that process 0 sees; "
            "take a --workdir on a file system that all processes share"
        )


def check_dataset(workdir: pathlib.Path, dataset: Dataset) -> None:
    """Raises `UsageError` where `dataset` is not the one that the run in `workdir` learned from."""
    before = json.loads((workdir / "environment.json").read_text())["dataset"]
    if before != dataset.fingerprint:
        raise UsageError(
            f"{dataset.path} is not the dataset that {workdir} learned from: its fingerprint was "
            f"{before[:12]} and is {dataset.fingerprint[:12]}. Build that one again"
        )


@functools.cache
def code_version() -> str:
    """Hash of the package's source files: the same in a checkout, changed or not, and installed."""
    root = pathlib.Path(imat_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def environment(dataset: Dataset) -> dict[str, Any]:
    """Versions, devices, code and data: what a number depends on besides the config."""
    git = pathlib.Path(__file__).parent

    def ask(*args: str) -> str:
        try:
            call = subprocess.run(["git", *args], cwd=git, capture_output=True, text=True)
        except FileNotFoundError:
            return ""
        return call.stdout.strip() if call.returncode == 0 else ""

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [str(d.device_kind) for d in jax.devices()],
        "processes": jax.process_count(),
        "code": code_version(),
        "git_commit": ask("rev-parse", "HEAD") or "unknown",
        "git_dirty": bool(ask("status", "--porcelain")),
        "dataset": dataset.fingerprint,
        "command": sys.argv,
    }


class MetricWriter:
    """`metrics.jsonl` (numbers that a rerun repeats bit by bit), `timing.jsonl`, TensorBoard.

    Args:
      step: the step the run (re)starts at; lines that a killed run wrote after it are removed, and
        so they come out the same as if it had never been killed.
      trackers: of `tracking`; get the same numbers.

    Only the first process's writes anything.
    """

    def __init__(self, workdir: pathlib.Path, step: int, trackers: Sequence[tracking.Tracker] = ()):
        self._files, self._trackers = {}, trackers
        if not distributed.is_first():
            return
        for name in ("metrics", "timing"):
            path = workdir / f"{name}.jsonl"
            _truncate(path, step)
            self._files[name] = path.open("a")
        # Not by SummaryWriter: its thread dies of a full disk, and the run then waits for it.
        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        if step:  # what a killed run wrote after it is not to be shown
            self._event(step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float], file: str = "metrics") -> None:
        if not self._files:
            return
        values = {k: float(v) for k, v in values.items()}
        self._files[file].write(json.dumps({"step": step} | values) + "\n")
        self._files[file].flush()
        for key, value in values.items():
            self._event(step, summary=summary.scalar(key, value))
        self._board.flush()
        tracking.tell(self._trackers, "write", step, values)

    def _event(self, step: int, **content: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._files:
            self._board.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`; one that was cut off by a kill is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _truncate(path: pathlib.Path, step: int) -> None:
    """Keep what happened before the state of `step`: updates up to it, validations before it."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        entry = json.loads(line)
        validation = any(key.startswith("valid/") for key in entry)
        if entry["step"] < step or (entry["step"] == step and not validation):
            kept.append(line)
    write_text(path, "".join(kept))
