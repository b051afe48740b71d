"""The card of a dataset: python -m imat_jax.describe DATASET_DIR [--output=DIR] [--json]

Protocol, counts by split and class, lengths, features and where they come from, what the checks
found, how much padding batches would hold, and one example. `--output` writes it as Markdown, with
a histogram of the lengths.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags

from imat_jax import plots
from imat_jax.cli import UsageError, run
from imat_jax.data import loader, plan
from imat_jax.data.dataset import Dataset

PERCENTILES = (0, 5, 50, 95, 100)
BUCKETS = 4  # as configs/common.py
LIMIT = 1024  # frames; what is longer, the configs crop


def define_flags() -> None:
    flags.DEFINE_bool("json", False, "Print the whole metadata as JSON.")
    flags.DEFINE_string("output", None, "Directory to write card.md and lengths.png to.")


def card(path: str | os.PathLike) -> dict[str, list[list[str]] | list[str]]:
    """{heading: lines, or a table: rows of cells under a head} of the dataset at `path`."""
    dataset = Dataset.open(path)
    meta = dataset.metadata
    if not meta:
        raise UsageError(f"{path}: a TFDS dataset, but not one of `imat build`: no metadata")
    task = meta["task"]
    if meta["class_names"]:
        task += f" ({', '.join(meta['class_names'])})"
    sections: dict[str, Any] = {
        "Dataset": [
            f"{path}: {meta['protocol']}",
            f"task: {task}",
            f"fingerprint: {dataset.fingerprint[:16]}",
            *(f"source: {name}, sha256 {digest}" for name, digest in meta["sources"].items()),
        ],
        "Splits": list(_splits(meta)),
        "Frames an utterance": list(_lengths(dataset)),
        "Features": list(_features(meta)),
        "Checks": list(_checks(meta)),
        "Padding": list(_padding(dataset)),
        "First example": list(_example(dataset)),
    }
    ceilings = meta["facts"].get("bayes_accuracy", {})
    if ceilings:
        pairs = [[subset, f"{accuracy:.3f}"] for subset, accuracy in ceilings.items()]
        sections["Best possible accuracy"] = [["modalities", "accuracy"], *pairs]
    return sections


def table(path: str | os.PathLike) -> str:
    """The card for a terminal."""
    parts = []
    for heading, content in card(path).items():
        rows = [row if isinstance(row, list) else [row] for row in content]
        columns = range(max(map(len, rows), default=0))
        cells = [row for row in rows if len(row) > 1]
        widths = [max((len(row[k]) for row in cells if len(row) > k), default=0) for k in columns]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip()
            for row in rows
        ]
        parts.append("\n".join([heading, *(f"  {line}" for line in lines)]))
    return "\n\n".join(parts)


def markdown(path: str | os.PathLike) -> str:
    """The card as Markdown."""
    parts = []
    for heading, content in card(path).items():
        lines = [f"## {heading}", ""]
        if content and isinstance(content[0], list):
            head, *rows = content
            lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            lines += [f"| {' | '.join(row + [''] * (len(head) - len(row)))} |" for row in rows]
        else:
            lines += [f"- {line}" for line in content]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _splits(meta: Mapping[str, Any]) -> Iterator[list[str]]:
    names = meta["class_names"] if meta["task"] == "multiclass" else []
    columns = meta["class_names"] or ["label"]
    yield ["split", "utterances", *(names or (f"{c}: mean ± std" for c in columns))]
    for split, facts in meta["splits"].items():
        if names:
            cells = [str(n) for n in facts["classes"].values()]
        else:
            pairs = zip(facts["label_mean"], facts["label_std"], strict=True)
            cells = [f"{mean:.3f} ± {std:.3f}" for mean, std in pairs]
        yield [split, str(facts["examples"]), *cells]


def _lengths(dataset: Dataset) -> Iterator[list[str]]:
    yield ["split", "modality", *(f"{p} %" for p in PERCENTILES), "missing"]
    for split in dataset.splits:
        index = dataset.index(split)
        for m in dataset.dims:
            lengths = index[f"{m}_length"]
            cells = [str(int(q)) for q in np.percentile(lengths, PERCENTILES)]
            yield [split, m, *cells, str(int((lengths == 0).sum()))]


def _features(meta: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["modality", "width", "extractor", "checkpoint", "layer", "rate", "stored as"]
    for m, info in meta["modalities"].items():
        rate = f"{info['rate_hz']:g} Hz" if info["rate_hz"] else "unknown"
        weights = re.sub(r"(sha256:\w{12})\w+", r"\1…", info["checkpoint"])
        named = [info["extractor"], weights, info["layer"]]
        yield [m, str(info["dim"]), *named, rate, meta["dtype"]]


def _checks(meta: Mapping[str, Any]) -> Iterator[str]:
    for warning in meta["warnings"]:
        yield f"WARNING {warning}"
    found = meta["nonfinite"]
    for m in meta["modalities"]:
        yield f"{m}: {found[m]} non-finite values (policy: {found['policy']})"
    for m, result in meta["checks"]["linear_probe"].items():
        yield (
            f"{m}: a linear model on utterance means reaches {result['metric']} "
            f"{result['score']:.3f} on {result['examples']} other utterances"
        )


def _padding(dataset: Dataset) -> Iterator[str]:
    names = tuple(dataset.dims)
    limits = dict.fromkeys(names, LIMIT)
    shapes = loader.buckets_for(dataset, names, limits, BUCKETS)
    yield f"{len(shapes)} shapes (frames of {', '.join(names)}): {' '.join(map(str, shapes))}"
    for split in dataset.splits:
        lengths = loader.cropped_lengths(dataset, split, names, list(limits.values()))
        assigned = plan.assign(lengths, shapes)
        batches = [(shape, np.flatnonzero(assigned == k)) for k, shape in enumerate(shapes)]
        real = plan.padding(lengths, [(s, rows) for s, rows in batches if len(rows)])
        shares = ", ".join(f"{m} {share:.0%}" for m, share in zip(names, real, strict=True))
        yield f"{split}: real frames in a batch: {shares}"


def _example(dataset: Dataset) -> Iterator[str]:
    record = dataset.source(dataset.splits[0])[0]
    for key in ("id", "group", "order", "label", "annotation", "transcript"):
        value = record.get(key, "")
        said = value.decode() if isinstance(value, bytes) else str(value)
        said = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)
        yield f"{key}: {said[:200]}"
    for m in dataset.dims:
        values = np.asarray(record[m][0][:4], np.float32) if len(record[m]) else []
        shown = " ".join(f"{v:.3g}" for v in values)
        yield f"{m}: {tuple(record[m].shape)}, starts {shown} …"


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UsageError("one dataset directory, please: imat describe DATASET_DIR")
    if flags.FLAGS.json:
        print(json.dumps(Dataset.open(argv[1]).metadata, indent=1))
    else:
        print(table(argv[1]))
    if flags.FLAGS.output:
        output = pathlib.Path(flags.FLAGS.output)
        output.mkdir(parents=True, exist_ok=True)
        dataset = Dataset.open(argv[1])
        lengths = {s: dataset.index(s) for s in dataset.splits}
        plots.lengths(lengths, list(dataset.dims), output / "lengths.png")
        text = markdown(argv[1]) + "\n![lengths](lengths.png)\n"
        (output / "card.md").write_text(text)
        print(f"\n{output}/card.md, {output}/lengths.png")


if __name__ == "__main__":
    run(main, define_flags)
