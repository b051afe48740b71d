"""PNG plots of a run: training curves, confusion matrix or scatter."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from imat_jax import metrics, tasks


def training(lines: list[dict[str, float]], selection: str, path: str | os.PathLike) -> None:
    """Training loss by step above, the validation metric that selects below.

    Args:
      lines: of `metrics.jsonl`.
      selection: the metric's name, without `valid/`.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True)
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    valid = [line for line in lines if "valid/loss" in line]
    if train:
        above.plot(*zip(*train, strict=True), lw=0.8, color="tab:gray", label="training, one batch")
    steps = [line["step"] for line in valid]
    above.plot(steps, [line["valid/loss"] for line in valid], color="tab:blue", label="validation")
    above.set_ylabel("loss")
    above.legend()
    scores = [line[f"valid/{selection}"] for line in valid]
    below.plot(steps, scores, color="tab:blue")
    best = np.nanargmax(scores) if tasks.higher_is_better(selection) else np.nanargmin(scores)
    below.plot(
        steps[best], scores[best], "o", color="tab:red", label=f"selected: {scores[best]:.3f}"
    )
    below.set_ylabel(f"validation {selection}")
    below.set_xlabel("updates")
    below.legend()
    save(figure, path)


def predictions(
    task: tasks.Task, label: np.ndarray, outputs: np.ndarray, path: str | os.PathLike, split: str
) -> None:
    """Confusion matrix of classes; for each real value its scatter; for emotions present or not
    the distribution of the probabilities.

    Args:
      label: [N] or [N, K]; outputs: [N, K'].
    """
    decoded = task.decode(outputs)
    if task.name == "multiclass":
        figure = _confusion(label, decoded, task.class_names)
    else:
        columns, values = label.reshape(len(label), -1), decoded.reshape(len(label), -1)
        names = task.class_names or ("sentiment",)
        figure, axes = plt.subplots(
            1, len(names), figsize=(4.2 * len(names), 4), squeeze=False, sharey=True
        )
        for axis, name, y, p in zip(axes[0], names, columns.T, values.T, strict=True):
            if task.name in ("sentiment", "dimensions"):
                axis.scatter(y, p, s=8, alpha=0.5)
                ends = [min(y.min(), p.min()), max(y.max(), p.max())]
                axis.plot(ends, ends, lw=0.8, color="tab:gray")
                axis.set_xlabel(f"{name}, label")
            else:
                axis.hist([p[y <= 0], p[y > 0]], bins=20, range=(0, 1), label=["absent", "present"])
                axis.set_xlabel(f"{name}, predicted")
                axis.legend()
        axes[0, 0].set_ylabel(
            "predicted" if task.name in ("sentiment", "dimensions") else "utterances"
        )
    figure.suptitle(f"{split}, {len(label)} utterances")
    save(figure, path)


def _confusion(label: np.ndarray, decision: np.ndarray, names: tuple[str, ...]):
    counts = metrics.confusion(label, decision, len(names))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.55 * len(names)
    figure, axis = plt.subplots(figsize=(size + 0.8, size))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*counts.shape):
        color = "white" if share[i, j] > 0.5 else "black"
        axis.text(j, i, f"{counts[i, j]}\n{share[i, j]:.0%}", ha="center", va="center",
                  color=color, fontsize=8)  # fmt: skip
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("predicted")
    axis.set_ylabel("label")
    return figure


def save(figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG, under a temporary name first, and close it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    figure.tight_layout()
    figure.savefig(partial, dpi=120)
    plt.close(figure)
    partial.replace(path)


def lengths(
    index: Mapping[str, Mapping], modalities: Sequence[str], path: str | os.PathLike
) -> None:
    """Histogram of the frames an utterance, one panel a modality.

    Args:
      index: {split: {"M_length": [N]}}, as `Dataset.index` gives it.
    """
    figure, axes = plt.subplots(1, len(modalities), figsize=(3.2 * len(modalities), 2.8))
    for axis, m in zip(np.atleast_1d(axes), modalities, strict=True):
        by_split = {s: np.asarray(columns[f"{m}_length"]) for s, columns in index.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(by_split.values())), bins=30)
        for split, values in by_split.items():
            axis.hist(values, edges, histtype="step", density=True, label=split)
        axis.set_xlabel(f"{m}: frames")
        axis.set_yticks([])
    np.atleast_1d(axes)[0].legend(fontsize="small")
    save(figure, path)
