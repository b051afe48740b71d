"""Published numbers, beside ours only where protocol and test split are the same."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Mapping

from imat_jax.tasks import higher_is_better

FILE = pathlib.Path(__file__).with_name("literature.csv")


@dataclasses.dataclass(frozen=True)
class System:
    """A published row: its numbers, by our metrics' names, and where they are from."""

    name: str
    year: str
    values: Mapping[str, float]
    source: str
    url: str
    note: str


def systems(protocol: str, examples: int) -> list[System]:
    """What was published for this protocol on a test split of that many utterances.

    A number is in the file only if its source says which metric it is: Acc-2 without a word on
    zeros is not, nor F1 without a word on its weights.
    """
    with FILE.open(newline="") as file:
        lines = [
            line
            for line in csv.DictReader(file)
            if line["protocol"] == protocol and int(line["examples"]) == examples
        ]
    known = ("protocol", "examples", "system", "year", "source", "url", "note")
    return [
        System(
            line["system"],
            line["year"],
            {k: float(v) for k, v in line.items() if k not in known and v},
            line["source"],
            line["url"],
            line["note"],
        )
        for line in lines
    ]


def best(found: list[System], metric: str) -> tuple[float, str] | None:
    """The best value of `metric` and whose it is."""
    values = [(s.values[metric], s.name) for s in found if metric in s.values]
    if not values:
        return None
    return max(values) if higher_is_better(metric) else min(values)
