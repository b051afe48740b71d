"""What a compiled program sends between devices, read from its HLO text."""

from __future__ import annotations

import collections
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
# `%name = (f32[2,3]{1,0}, …) all-reduce(…), …, replica_groups=…`; with `-start`, asynchronous.
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_WHILE = re.compile(r"body=%?([\w.-]+).*?known_trip_count\D+(\d+)")


def collectives(text: str, devices: int) -> dict[str, float]:
    """{kind: bytes that one device sends in one run of the program}, by ring algorithms.

    Of n devices that hold b bytes of result each, a ring sends 2 (n-1)/n b for an all-reduce,
    (n-1)/n b for an all-gather and an all-to-all, (n-1) b for a reduce-scatter, b for a permute.

    Args:
      text: `compiled.as_text()`; loops count as often as they run.
      devices: of the whole mesh, the group of a collective that names none.
    """
    trips = {body: int(n) for body, n in _WHILE.findall(text)}
    sent: dict[str, float] = collections.defaultdict(float)
    times = 1
    for line in text.splitlines():
        if line and not line[0].isspace():  # a computation begins: `%name (…) -> … {`
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0]
            times = trips.get(name, 1)
        found = _COLLECTIVE.search(line)
        if not found:
            continue
        result, kind, start = found.groups()
        size = _size(result) / (2 if start and kind == "all-gather" else 1)  # operand beside result
        n = _group(line, devices)
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        sent[kind] += times * size * share.get(kind, (n - 1) / n)
    return dict(sent)


def _size(shapes: str) -> float:
    """Bytes of `f32[2,3]{1,0}`, or of a tuple of such."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(
        _BYTES[kind] * math.prod(map(int, filter(None, dims.split(",")))) for kind, dims in found
    )


def _group(line: str, devices: int) -> int:
    """How many devices take part together."""
    if explicit := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return explicit[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(iota[2])
    return devices
