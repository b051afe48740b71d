"""An explanation as one PNG: what is predicted, what each modality brings, and the frames."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from imat_jax import plots

FOR, AGAINST, ATTENTION, BAR = "#0b6e69", "#b5420a", "Purples", "#3d5a98"


def draw(one: Any, path: str | os.PathLike) -> None:
    """Write the PNG of one `explain.Explanation`: attention in strips, integrated gradients."""
    found = one.found
    panels: list[tuple[str, dict[str, np.ndarray] | np.ndarray]] = []
    for m in one.shapley:
        pairs = {p: w for p, w in found.attention.items() if p.endswith(f"<-{m}")}
        panels += [(m, pairs)] if pairs else []
        panels += [(m, found.integrated[m])] if m in found.integrated else []
    heights = [1.5] + [0.22 * len(v) if isinstance(v, dict) else 0.7 for _, v in panels]
    figure = plt.figure(figsize=(9, 1.2 + sum(heights) + 0.35 * len(heights)))
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    _values(figure.add_subplot(grid[0, 0]), one)
    _shapley(figure.add_subplot(grid[0, 1]), one)
    for k, (m, values) in enumerate(panels):
        _frames(figure.add_subplot(grid[k + 1, :]), one, m, values)
    said = f"{one.answer} {one.values[one.answer]:.3f}, label {one.label}"
    quote = textwrap.shorten(one.transcript, 160, placeholder=" …")
    quote = f"\n“{textwrap.fill(quote, 90)}”" if quote else ""
    figure.suptitle(f"{one.id}: {said}{quote}", fontsize="medium", parse_math=False)
    plots.save(figure, path)


def _values(axis, one: Any) -> None:
    names = list(one.values)
    colors = [BAR if name == one.answer else "#a9b4cc" for name in names]
    axis.barh(range(len(names)), list(one.values.values()), color=colors)
    axis.set_yticks(range(len(names)), names, fontsize="small", parse_math=False)
    axis.invert_yaxis()
    if not one.regression:
        axis.set_xlim(0, 1)
    axis.set_title("score" if one.regression else "probability", fontsize="small")


def _shapley(axis, one: Any) -> None:
    names, gains = ["seeing nothing", *one.shapley], [one.base, *one.shapley.values()]
    starts = np.concatenate([[0], np.cumsum(gains)[:-1]])
    colors = [BAR] + [FOR if gain >= 0 else AGAINST for gain in gains[1:]]
    axis.barh(range(len(names)), gains, left=starts, color=colors)
    labels = [f"{names[0]} {gains[0]:.3f}"]
    labels += [f"{m} {gain:+.3f}" for m, gain in one.shapley.items()]
    axis.set_yticks(range(len(names)), labels, fontsize="small")
    axis.invert_yaxis()
    axis.axvline(0, lw=0.6, color="tab:gray")
    axis.set_title(f"Shapley values of “{one.answer}”", fontsize="small", parse_math=False)


def _frames(axis, one: Any, m: str, values: dict[str, np.ndarray] | np.ndarray) -> None:
    """Attention of each query modality as a strip, or one row of bars; time below the bars."""
    tokens, seconds = one.tokens if m == "text" else None, one.seconds[m]
    rows = list(values.values()) if isinstance(values, dict) else [values]
    edges = np.arange(len(rows[0]) + 1) * (seconds or 1)
    axis.set_xlim(0, edges[-1])
    axis.tick_params(labelsize="x-small")
    if isinstance(values, dict):
        scaled = np.stack([row / max(row.max(), 1e-12) for row in rows])
        axis.pcolormesh(edges, np.arange(len(rows) + 1), scaled, cmap=ATTENTION, vmin=0, vmax=1)
        names = [f"{pair.split('<-')[0]} ← {m}" for pair in values]
        axis.set_yticks(np.arange(len(rows)) + 0.5, names, fontsize="small")
        axis.set_xticks([])
        axis.invert_yaxis()
        return
    colors = [FOR if value >= 0 else AGAINST for value in rows[0]]
    axis.bar(edges[:-1], rows[0], width=0.9 * edges[1], align="edge", color=colors)
    axis.axhline(0, lw=0.6, color="tab:gray")
    axis.set_yticks([])
    signs = ("raises", "lowers") if one.regression else ("for", "against")
    axis.set_ylabel(
        f"{m}: {signs[0]},\n{signs[1]}", rotation=0, ha="right", va="center", fontsize="small"
    )
    if tokens and len(tokens) <= 40:
        shown = [token.removeprefix("##") if len(token) > 2 else token for token in tokens]
        axis.set_xticks(edges[:-1] + 0.5, shown, rotation=60, ha="right", fontsize="x-small",
                        parse_math=False)  # fmt: skip
    else:
        axis.set_xlabel("seconds" if seconds else "frame", fontsize="x-small")
