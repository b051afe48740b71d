"""What an experiment is expected to give: EXPECTED in configs/NAME.py, read, judged, tabled.

build        flags of `imat_jax.build` for its dataset; --input is in the folder $IMAT_DATA
protocol     of the dataset; splits: {split: utterances}; sources: {file: its SHA-256}
seeds        of each run; minutes: about, for all of it on two cores
runs         {argument of the config: {metric: {mean, low, high}}}, on test: what was measured,
             and the range in which the mean over the seeds is to lie
environment  what it was measured with, keys of environment.json; notes: for the reader
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imat_jax import config as configs
from imat_jax.cli import UsageError
from imat_jax.data.dataset import Dataset

KEYS = ("build", "protocol", "splits", "sources", "seeds", "minutes", "runs", "notes",
        "environment")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One mean over seeds beside its range."""

    run: str
    metric: str
    mean: float
    measured: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        return self.low <= self.mean <= self.high

    def __str__(self) -> str:
        word = "as expected" if self.holds else "NOT AS EXPECTED"
        return (
            f"{self.run}, {self.metric}: {self.mean:.4f}; {self.low:.3f} to {self.high:.3f} "
            f"expected, {self.measured:.3f} measured: {word}"
        )


@dataclasses.dataclass(frozen=True)
class Expected:
    """EXPECTED of the config file at `path`; the attributes are described above."""

    path: pathlib.Path
    build: Sequence[str]
    protocol: str
    splits: Mapping[str, int]
    sources: Mapping[str, str]
    seeds: Sequence[int]
    minutes: float
    runs: Mapping[str, Mapping[str, Mapping[str, float]]]
    notes: str
    environment: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def dataset(self) -> str:
        """The directory of the dataset; the same for all runs."""
        return configs.load_file(self.path).get_config(next(iter(self.runs))).dataset

    def judge(self, run: str, results: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """The verdicts on a run from the results.json of its seeds."""
        return [
            Verdict(
                run, metric, float(np.mean([r["test"][metric] for r in results])),
                range_["mean"], range_["low"], range_["high"],
            )
            for metric, range_ in self.runs[run].items()
        ]  # fmt: skip

    def check(self, dataset: Dataset) -> None:
        """Raises `UsageError` where it is not the dataset that the ranges are for."""
        if dataset.metadata.get("sources", {}) != dict(self.sources):
            raise UsageError(
                f"{dataset.path} is made of {_files(dataset.metadata.get('sources', {}))}; "
                f"{self.path} is about {_files(self.sources)}. Build it with {self.command()}"
            )
        found = {name: v["examples"] for name, v in dataset.metadata.get("splits", {}).items()}
        protocol = dataset.metadata.get("protocol")
        if (protocol, found) != (self.protocol, dict(self.splits)):
            raise UsageError(
                f"{dataset.path} holds {protocol} with {_counts(found)}; {self.path} is about "
                f"{self.protocol} with {_counts(self.splits)}. Build it with {self.command()}"
            )

    def command(self, folder: str | os.PathLike = "$IMAT_DATA") -> str:
        """The command that builds the dataset from the files in `folder`."""
        build = (f.replace("--input=", f"--input={folder}/") for f in self.build)
        return " ".join(["python -m imat_jax.build", *build, f"--output={self.dataset}"])


def load(name: str | os.PathLike) -> Expected:
    """EXPECTED of `configs/NAME.py`, or of the config file that `name` is.

    Raises:
      UsageError: there is no such file, or it expects nothing, or not in this form.
    """
    path = pathlib.Path(name)
    path = path if path.suffix == ".py" else pathlib.Path("configs") / f"{name}.py"
    values = getattr(configs.load_file(path), "EXPECTED", None)
    if values is None:
        there = ", ".join(e.name for e in load_all(path.parent))
        raise UsageError(f"{path} has no EXPECTED; {there} have")
    if wrong := set(values) ^ set(KEYS):
        raise UsageError(f"{path}: EXPECTED has {', '.join(KEYS)}; not so {', '.join(wrong)}")
    for run, metrics in values["runs"].items():
        for metric, r in metrics.items():
            if not r["low"] <= r["mean"] <= r["high"]:
                raise UsageError(f"{path}: EXPECTED of {run}, {metric}: {r} is no range")
    return Expected(path, **values)


def load_all(folder: str | os.PathLike = "configs") -> list[Expected]:
    """Of every config in `folder` that expects something."""
    paths = sorted(pathlib.Path(folder).glob("*.py"))
    return [load(path) for path in paths if hasattr(configs.load_file(path), "EXPECTED")]


def document(expected: Iterable[Expected]) -> str:
    """docs/results.md."""
    lines = [
        "# Results, and the range in which to expect them",
        "",
        "Made from `EXPECTED` of the configs by `python -m imat_jax.reproduce "
        "--document=docs/results.md`; do not edit. Test split, mean over seeds, checkpoint "
        "selected on validation.",
    ]
    for one in expected:
        packages = one.environment["packages"]
        versions = ", ".join(f"{name} {version}" for name, version in packages.items())
        seeds = ", ".join(map(str, one.seeds))
        lines += [
            "",
            f"## {one.name}: {one.protocol}",
            "",
            f"    {one.command()}",
            f"    python -m imat_jax.reproduce {one.name}",
            "",
            f"{_counts(one.splits)} utterances; seed{'s' * (len(one.seeds) > 1)} {seeds}; about "
            f"{one.minutes:g} minutes on two cores. Measured on {one.environment['devices'][0]} "
            f"with {versions}.",
            "",
            "| run | metric | measured | expected range |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{run}` | `{metric}` | {r['mean']:.3f} | {r['low']:.3f} to {r['high']:.3f} |"
            for run, metrics in one.runs.items()
            for metric, r in metrics.items()
        ]
        lines += ["", one.notes]
    return "\n".join(lines) + "\n"


def _files(sources: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({digest[:12]})" for name, digest in sources.items()) or "no file"


def _counts(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in splits.items()) or "no splits"
