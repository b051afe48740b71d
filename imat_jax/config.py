"""The `--config` flag, and configs as data: JSON, differences, errors in one line."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_flags

from imat_jax.cli import UsageError


def define_flag() -> None:
    """`--config=configs/NAME.py[:key=value,…]` and `--config.key=value`."""
    for arg in sys.argv:
        # Experiments import their neighbours as `configs.NAME`, whatever the current directory.
        match = re.match(r"--?config=([^:]+\.py)", arg)
        if match:
            sys.path.insert(0, str(pathlib.Path(match[1]).absolute().parent.parent))
    config_flags.DEFINE_config_file(
        "config", None, "Experiment: configs/NAME.py[:key=value,…].", lock_config=True
    )


def flatten(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """{"model.width": 64, …}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def difference(old: Mapping, new: Mapping) -> list[str]:
    """What changed, a line a key: `optim.lr: 0.001 -> 0.01`."""
    old, new = flatten(old), flatten(new)
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]


def load(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """The config of the run in `workdir`."""
    path = pathlib.Path(workdir) / "config.json"
    if not path.is_file():
        raise UsageError(f"{workdir} is not a run directory: it has no config.json")
    return ml_collections.ConfigDict(json.loads(path.read_text()))


def modalities(config, available: Mapping[str, int]) -> dict[str, int]:
    """{modality: feature width} of those that the config asks for.

    Raises:
      UsageError: a name that is no modality or that the dataset does not have.
    """
    names = config.modalities.split("+")
    for name in names:
        if name not in available:
            raise UsageError(
                f"modalities={config.modalities}: the dataset {config.dataset} has "
                f"{'+'.join(available)}, not {name!r}"
            )
    return {m: dim for m, dim in available.items() if m in names}
