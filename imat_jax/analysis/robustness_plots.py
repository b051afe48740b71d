"""Pictures of robustness: curves over damage, bars over subsets of modalities."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from imat_jax import plots

TITLES = {
    "frames": "share of frames lost, at random",
    "burst": "share of frames lost, in one burst",
    "modalities": "chance that a modality is lost",
    "noise": "noise, in deviations of the features",
}


def curves(table: Mapping[str, Any], facts: Mapping[str, Any], path: str | os.PathLike) -> None:
    """One panel a kind of damage, one line a row; a band of one deviation where it has runs."""
    figure, axes = plt.subplots(1, len(TITLES), figsize=(14, 3.6), sharey=True)
    for axis, (kind, title) in zip(axes, TITLES.items(), strict=True):
        for name, row in table.items():
            curve = row["curves"][kind]
            values = np.asarray(curve["scores"])  # [runs, levels]
            mean = values.mean(axis=0)
            [line] = axis.plot(curve["levels"], mean, "o-", ms=3.5, label=name)
            if len(values) > 1:
                spread = values.std(axis=0, ddof=1)
                axis.fill_between(
                    curve["levels"], mean - spread, mean + spread, color=line.get_color(), alpha=0.2
                )
        axis.axhline(facts["constant"], color="tab:gray", lw=1, ls=":", label="constant answer")
        axis.set_xlabel(title)
    axes[0].set_ylabel(f"{facts['split']} {facts['metric']}")
    axes[0].legend(fontsize="small")
    plots.save(figure, path)


def subsets(table: Mapping[str, Any], facts: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Bars of each subset, one a row of the table; ticks where the best possible is known."""
    names = list(dict.fromkeys(s for row in table.values() for s in row["subsets"]))
    height = 0.8 / len(table)
    figure, axis = plt.subplots(figsize=(7, 1.4 + 0.35 * len(names) * max(1, len(table) / 2)))
    for i, (label, row) in enumerate(table.items()):
        there = [k for k, name in enumerate(names) if name in row["subsets"]]
        values = [row["subsets"][names[k]] for k in there]
        axis.barh(
            [k + (i - (len(table) - 1) / 2) * height for k in there],
            [np.mean(v) for v in values], height,
            xerr=[np.std(v, ddof=1) if len(v) > 1 else 0 for v in values], label=label,
        )  # fmt: skip
    for k, name in enumerate(names) if facts["ceiling"] else ():
        best = facts["ceiling"][name]
        label = "best possible" if k == 0 else None
        axis.plot([best, best], [k - 0.45, k + 0.45], color="black", lw=1.5, label=label)
    axis.axvline(facts["constant"], color="tab:gray", lw=1, ls=":", label="constant answer")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(f"{facts['split']} {facts['metric']}")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    plots.save(figure, path)
