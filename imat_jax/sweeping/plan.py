"""Which runs a sweep has: overrides times grid times seeds, and the key of each."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imat_jax import config as configs
from imat_jax.cli import UsageError


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      overrides: what it has other than the sweep's config, {"model.width": 64, "seed": 0}.
      config: all of its config, as plain data.
      dataset: fingerprint of its dataset.
      code: `rundir.code_version()`.
    """

    overrides: Mapping[str, Any]
    config: Mapping[str, Any]
    dataset: str
    code: str

    @property
    def key(self) -> str:
        """Hash of config, dataset and code: runs with the same give the same numbers."""
        return _hash(self.config, self.dataset, self.code)

    @property
    def content(self) -> str:
        """Hash of config and dataset, whatever the code."""
        return _hash(self.config, self.dataset)

    @property
    def group(self) -> str:
        """The same for runs that differ in nothing but the seed."""
        return group(self.config, self.dataset)

    @property
    def name(self) -> str:
        """Its directory's name: the overrides for people, and the key."""
        last = {key: key.rpartition(".")[2] for key in self.overrides}
        words = []
        for key, value in self.overrides.items():
            short = key if [*last.values()].count(last[key]) > 1 else last[key]
            words.append(f"{short}={value:.4g}" if isinstance(value, float) else f"{short}={value}")
        return f"{re.sub(r'[^A-Za-z0-9_.=+,-]', '_', ','.join(words))[:100]}-{self.key}"


def group(config: Mapping[str, Any], dataset: str) -> str:
    return _hash({k: v for k, v in config.items() if k != "seed"}, dataset)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def grid(items: Sequence[str]) -> list[dict[str, str]]:
    """["model.width=32,64", "optim.lr=1e-3"] -> the override dicts of their product.

    Raises:
      UsageError: an item is not KEY=VALUE,… or comes twice.
    """
    axes: dict[str, list[str]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        if not equals or not values or key in axes or key == "seed":
            raise UsageError(f"--grid takes KEY=VALUE,VALUE, each KEY once, not {item!r}")
        axes[key] = values.split(",")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def expand(
    config, given: Iterable[Mapping[str, Any]], product: Iterable[Mapping[str, Any]], seeds: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(overrides, config) of every run: `given` × `product` × seeds 0, 1, …; duplicates once.

    Args:
      given: override dicts of the config's `sweep()`, or [{}]. One that has a seed keeps it.

    Raises:
      UsageError: a key that does not exist, or a value of another type; or `selection`.
    """
    found = {}
    for one, other in itertools.product(given, list(product)):
        both = {**one, **other}
        if "selection" in both:
            raise UsageError(
                "selection cannot be swept: scores of different metrics do not rank; "
                "--config.selection=METRIC sets it for all runs"
            )
        for seed in [both["seed"]] if "seed" in both else range(seeds):
            new = configs.override(config, both | {"seed": seed})
            flat = configs.flatten(new)
            overrides = {key: flat[key] for key in [*both, "seed"]}
            found.setdefault(_hash(new.to_dict()), (overrides, new.to_dict()))
    return list(found.values())
