"""Tables over runs: python -m imat_jax.report RUN_OR_FOLDER… [--split=test] [--output=DIR]

Finds every results.json below the paths given. Runs that differ in nothing but the seed make one
row: mean ± standard deviation over seeds, and how many. The best constant answer stands below each
dataset, and the best possible accuracy where it is known. Unfinished runs are listed.
"""

from __future__ import annotations

import collections
import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from imat_jax import config as configs
from imat_jax import rundir
from imat_jax.cli import UsageError, run
from imat_jax.data.corpus import MODALITIES

# The columns of each task, by the metrics' names.
COLUMNS = {
    "sentiment": ("mae", "corr", "acc7", "acc2_has0", "acc2_non0", "wf1_has0", "wf1_non0"),
    "multiclass": ("acc", "bacc", "wf1", "macro_f1"),
    "multilabel": ("bacc", "wf1", "macro_f1", "auc"),
    "binary_pairs": ("acc", "wf1", "bacc"),
    "dimensions": ("ccc", "mae", "corr"),
}


def define_flags() -> None:
    flags.DEFINE_string("split", "test", "Split to report.")
    flags.DEFINE_string("output", None, "Directory for report.md; default: print only.")


def collect(paths: list[str]) -> tuple[list[dict[str, Any]], list[pathlib.Path]]:
    """({config, dataset, results} of every finished run below `paths`, the unfinished runs).

    Raises:
      UsageError: there is no run below a path.
    """
    finished, unfinished = [], []
    for path in paths:
        found = sorted(p.parent for p in pathlib.Path(path).rglob("config.json"))
        if not found:
            raise UsageError(f"{path}: no run directory there, nor below it")
        for workdir in found:
            if not (workdir / "results.json").is_file():
                unfinished.append(workdir)
                continue
            names = ("config", "dataset", "results")
            files = {n: json.loads((workdir / f"{n}.json").read_text()) for n in names}
            finished.append(files | {"workdir": workdir})
    return finished, unfinished


def markdown(runs: list[dict[str, Any]], split: str) -> str:
    """One table a dataset and task, one row a config."""
    tables: dict[Any, dict[str, list]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for one in runs:
        if split not in one["results"]:
            raise UsageError(f"{one['workdir']} has no results on {split!r}")
        config = {k: v for k, v in one["config"].items() if k != "seed"}
        key = (one["results"]["protocol"], one["results"]["dataset"], one["dataset"]["task"])
        tables[key][json.dumps(config, sort_keys=True)].append(one)
    return "\n\n".join(_table(key, rows, split) for key, rows in tables.items())


def _table(key: tuple[str, str, str], rows: dict[str, list], split: str) -> str:
    protocol, _, task = key
    columns = COLUMNS[task]
    first = next(iter(rows.values()))[0]
    lines = [
        f"**{protocol}**, {split}, {first['results'][split]['examples']} utterances",
        "",
        "| model | parameters | seeds | " + " | ".join(f"`{c}`" for c in columns) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    names = _names(rows)
    for config in sorted(rows, key=lambda c: (names[c].count("+"), names[c])):
        runs = rows[config]
        cells = [_cell([r["results"][split][c] for r in runs]) for c in columns]
        if "ceiling" in runs[0]["results"]:
            cells[0] += f" (best possible {runs[0]['results']['ceiling'][split]:.3f})"
        size = runs[0]["results"]["parameters"]
        lines.append(f"| {names[config]} | {size:,} | {len(runs)} | " + " | ".join(cells) + " |")
    trivial = first["results"]["trivial"][split]
    constant = " | ".join(_cell([trivial[c]]) for c in columns)
    lines.append(f"| best constant answer | | | {constant} |")
    return "\n".join(lines)


def _names(rows: dict[str, list]) -> dict[str, str]:
    """Model and modalities; and, where two rows share those, the keys in which they differ."""
    base = {}
    for config, runs in rows.items():
        modalities = "+".join(m for m in MODALITIES if m in runs[0]["results"]["modalities"])
        base[config] = f"{runs[0]['config']['model']['name']} {modalities}"
    names = {}
    for config, name in base.items():
        twins = [json.loads(c) for c, n in base.items() if n == name and c != config]
        changed = {
            line.partition(":")[0]
            for twin in twins
            for line in configs.difference(twin, json.loads(config))
        }
        flat = configs.flatten(json.loads(config))
        names[config] = " ".join([name, *(f"`{k}={flat.get(k)}`" for k in sorted(changed))])
    return names


def _cell(values: list[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UsageError("name run directories, or directories that hold them")
    runs, unfinished = collect(argv[1:])
    text = markdown(runs, flags.FLAGS.split)
    if unfinished:
        text += "\n\nnot finished: " + ", ".join(map(str, unfinished))
    print(text)
    if flags.FLAGS.output:
        path = pathlib.Path(flags.FLAGS.output) / "report.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_text(path, text + "\n")


if __name__ == "__main__":
    run(main, define_flags)
