"""The `--config` flag, and configs as data: JSON, differences, errors in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NoReturn

import ml_collections
from ml_collections import config_flags

from imat_jax.cli import UsageError

# Keys that runs of before they existed do not have, with the values that mean "as it was then".
LATER = {
    "accumulate": 1, "mesh.fsdp_min": 2**14,
    "model.remat": "none", "model.attention": "auto", "model.directions": "all",
    "model.text_encoder": True, "model.context": 0, "model.bidirectional": False,
    "task.class_weights": "", "task.focal": 0.0,
    "tune.text": False, "tune.text_encoder": "", "tune.lr_scale": 0.1,
}  # fmt: skip


def define_flag() -> None:
    """`--config=configs/NAME.py[:key=value,…]` and `--config.key=value`.

    Raises:
      UsageError: the command line names a config file, argument or key that does not exist. Said
        here because ml_collections says it with a traceback and without the keys that do exist.
    """
    for value in _values("config"):
        path, _, arg = value.partition(":")
        keys = flatten(_load(path, arg))
        for key in _keys():
            if key not in keys and not any(k.startswith(f"{key}.") for k in keys):
                _unknown(key, keys)
    config_flags.DEFINE_config_file(
        "config", None, "Experiment: configs/NAME.py[:key=value,…].", lock_config=True
    )


def named() -> str:
    """The file that --config names."""
    values = _values("config")
    if not values:
        raise UsageError("--config=configs/NAME.py says what to run")
    return values[-1].partition(":")[0]


def _values(flag: str) -> list[str]:
    following = zip(sys.argv, [*sys.argv[1:], ""], strict=True)
    joined = [a.partition("=")[2] for a in sys.argv if re.match(rf"--?{flag}=", a)]
    return joined + [b for a, b in following if re.fullmatch(rf"--?{flag}", a)]


def _keys() -> list[str]:
    """The KEY of every --config.KEY on the command line."""
    found = (re.match(r"--?config\.([\w.]+)", a) for a in sys.argv)
    return [match[1] for match in found if match]


def override(
    config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A copy of `config` with other numbers, as `--config.KEY=VALUE` gives them.

    Args:
      values: {"model.width": 64, …}; strings are read as the key's type.

    Raises:
      UsageError: there is no such key, or the value is not of its type.
    """
    new, known = ml_collections.ConfigDict(config.to_dict()), flatten(config)
    for key, value in values.items():
        if key not in known:
            _unknown(key, known)
        try:
            new.update_from_flattened_dict({key: _typed(value, known[key])})
        except (TypeError, ValueError) as error:
            kind = type(known[key]).__name__
            raise UsageError(f"{key}={value!r} is no {kind}, as {known[key]!r} is") from error
    return new


def _typed(value: Any, like: Any) -> Any:
    if not isinstance(value, str) or isinstance(like, str):
        return value
    if isinstance(like, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    return type(like)(value)


def load_file(path: str | os.PathLike) -> ModuleType:
    """The experiment file as a module: `get_config`, and `sweep` or `search` where it has them.

    Raises:
      UsageError: there is no such file, or it cannot be imported.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        there = ", ".join(sorted(str(p) for p in path.parent.glob("*.py"))) or "nothing"
        raise UsageError(f"--config={path}: no such file; in its folder there is {there}")
    # Experiments import their neighbours as `configs.NAME`, whatever the current directory.
    sys.path.insert(0, str(path.absolute().parent.parent))
    spec = importlib.util.spec_from_file_location("imat_experiment", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    return module


def _load(path: str, arg: str) -> ml_collections.ConfigDict:
    module = load_file(path)
    try:
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
    found = json.loads(path.read_text())
    for key, value in LATER.items():
        *parts, last = key.split(".")
        node = found
        for part in parts:
            node = node.setdefault(part, {})
        node.setdefault(last, value)
    return ml_collections.ConfigDict(found)


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
