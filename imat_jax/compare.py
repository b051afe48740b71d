"""Why a number moved: python -m imat_jax.compare RUN OTHER_RUN

Lists what two run directories differ in: config, environment (versions, devices, code), dataset,
and results. What is not listed is the same.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from imat_jax import config as configs
from imat_jax.cli import UsageError, run

# Of dataset.json, what the rest follows from.
DATASET = ("protocol", "task", "class_names", "dtype", "modalities", "sources", "nonfinite")


def define_flags() -> None:
    pass


def environment_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two environment.json, a line a key: `packages.jax: '0.9' -> '0.10'`.

    Only keys that both have: an older record may be shorter. The command does not count.
    """
    old, new = configs.flatten(old), configs.flatten(new)
    both = (old.keys() & new.keys()) - {"command"}
    return configs.difference({k: old[k] for k in both}, {k: new[k] for k in both})


def difference(old: pathlib.Path, new: pathlib.Path) -> dict[str, list[str]]:
    """{"config" | "environment" | "dataset" | "results": what changed} of two run directories.

    Raises:
      UsageError: a directory holds no run.
    """
    files = {}
    for name in ("config", "environment", "dataset", "results"):
        files[name] = [_read(folder, name) for folder in (old, new)]
    files["dataset"] = [{k: v for k, v in d.items() if k in DATASET} for d in files["dataset"]]
    of_environment = environment_difference(*files.pop("environment"))
    found = {name: configs.difference(*pair) for name, pair in files.items()}
    return {
        "config": found["config"],
        "environment": of_environment,
        "dataset": found["dataset"],
        "results": found["results"],
    }


def _read(folder: pathlib.Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text(), parse_constant=str)  # nan is not equal to itself
    if name == "results":  # not finished
        return {}
    raise UsageError(f"{folder} is not a run directory: it has no {name}.json")


def main(argv: list[str]) -> None:
    if len(argv) != 3:
        raise UsageError("name two run directories")
    found = difference(*map(pathlib.Path, argv[1:]))
    for name, lines in found.items():
        print(f"{name}: {'the same' if not lines else ''}")
        for line in lines:
            print(f"  {line}")
    if found["results"] and not any(found[k] for k in ("config", "environment", "dataset")):
        print(
            "nothing recorded differs: look for uncommitted code (git_dirty), flags in XLA_FLAGS, "
            "or another model of the same kind of device (docs/reproduce.md)"
        )


if __name__ == "__main__":
    run(main, define_flags)
