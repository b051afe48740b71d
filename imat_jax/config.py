"""The `--config` flag, and configs as data: JSON, differences, errors in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import ml_collections
from ml_collections import config_flags

from imat_jax.cli import UsageError


def define_flag() -> None:
    """`--config=configs/NAME.py[:key=value,…]` and `--config.key=value`.

    Raises:
      UsageError: the command line names a config file, argument or key that does not exist. Said
        here because ml_collections says it with a traceback and without the keys that do exist.
    """
    for value in _values("config"):
        path, _, arg = value.partition(":")
        keys = flatten(_load(pathlib.Path(path), arg))
        for key in _keys():
            if key not in keys and not any(k.startswith(f"{key}.") for k in keys):
                _unknown(key, keys)
    config_flags.DEFINE_config_file(
        "config", None, "Experiment: configs/NAME.py[:key=value,…].", lock_config=True
    )


def _values(flag: str) -> list[str]:
    following = zip(sys.argv, [*sys.argv[1:], ""], strict=True)
    joined = [a.partition("=")[2] for a in sys.argv if re.match(rf"--?{flag}=", a)]
    return joined + [b for a, b in following if re.fullmatch(rf"--?{flag}", a)]


def _keys() -> list[str]:
    """The KEY of every --config.KEY on the command line."""
    found = (re.match(r"--?config\.([\w.]+)", a) for a in sys.argv)
    return [match[1] for match in found if match]


def _load(path: pathlib.Path, arg: str) -> ml_collections.ConfigDict:
    if not path.is_file():
        there = ", ".join(sorted(str(p) for p in path.parent.glob("*.py"))) or "nothing"
        raise UsageError(f"--config={path}: no such file; in its folder there is {there}")
    # Experiments import their neighbours as `configs.NAME`, whatever the current directory.
    sys.path.insert(0, str(path.absolute().parent.parent))
    spec = importlib.util.spec_from_file_location("imat_experiment", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(arg)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def _unknown(key: str, keys: Mapping[str, Any]) -> NoReturn:
    part, _, _ = key.rpartition(".")
    while part and not any(k.startswith(f"{part}.") for k in keys):
        part, _, _ = part.rpartition(".")
    prefix = f"{part}." if part else ""
    known = sorted({k.removeprefix(prefix).partition(".")[0] for k in keys if k.startswith(prefix)})
    raise UsageError(f"no config key {key!r}; {part or 'the config'} has {', '.join(known)}")


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
      UsageError: a name that is no modality or that the dataset does not have, or features of
        another width than the config says.
    """
    names = config.modalities.split("+") if config.modalities else list(available)
    for name in names:
        if name not in available:
            raise UsageError(
                f"modalities={config.modalities}: the dataset {config.dataset} has "
                f"{'+'.join(available)}, not {name!r}"
            )
    dims = {m: dim for m, dim in available.items() if m in names}
    for m, dim in dims.items():
        wanted = config.model.features[m]
        if wanted not in (0, dim):
            raise UsageError(
                f"model.features.{m} is {wanted}, but {m} in {config.dataset} has {dim} features; "
                "take a dataset with features of the encoder that the config is for"
            )
    return dims
