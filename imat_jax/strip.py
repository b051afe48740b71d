"""The picture of a prediction: faces, sound, words, emotion over time, and attention."""

from __future__ import annotations

import os
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from imat_jax import plots
from imat_jax.encoders import media
from imat_jax.encoders.encoder import SAMPLE_RATE
from imat_jax.tasks import Task

FACES = 10  # of the clip, evenly spread


def draw(prediction, task: Task, path: str | os.PathLike) -> None:
    """Write the PNG of one `predict.Prediction`; every row has the same time axis."""
    report, pairs = prediction.report, prediction.whole.attention
    heights = [1.0, 0.9, 1.8] + [0.28] * len(pairs)
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(9, 0.8 + sum(heights)), height_ratios=heights, sharex=True
    )
    duration = report["seconds"]
    _faces(axes[0], prediction.faces, duration)
    _sound(axes[1], report["file"], duration)
    _emotion(axes[2], report, task)
    for axis, (pair, weights) in zip(axes[3:], pairs.items(), strict=True):
        _bare(axis, pair.replace("<-", " ← "))
        edges = prediction.edges[pair.partition("<-")[2]]
        axis.pcolormesh(edges, [0, 1], weights[None], cmap="Purples", vmin=0)
    axes[0].set_xlim(0, duration)
    axes[-1].set_xlabel("seconds")
    said = report["prediction"].get("label") or ", ".join(
        f"{name} {value:.2f}" for name, value in report["prediction"]["values"].items()
    )
    words = textwrap.shorten(report["transcript"], 160, placeholder=" …")
    words = f"\n“{textwrap.fill(words, 90)}”" if words else "\nno words"
    title = f"{os.path.basename(report['file'])}: {said}{words}"
    figure.suptitle(title, fontsize="medium", parse_math=False)
    figure.align_ylabels(axes)
    plots.save(figure, path)


def times(duration: float) -> np.ndarray:
    """[FACES] seconds at which a face is shown."""
    return (np.arange(FACES) + 0.5) * duration / FACES


def _bare(axis, label: str) -> None:
    axis.set_yticks([])
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")


def _faces(axis, faces, duration: float) -> None:
    _bare(axis, "face")
    axis.set_ylim(0, 1)
    # Pictures are square on a figure of 8 : 1.
    width = min(duration / FACES, duration / 8)
    if not faces:
        axis.text(duration / 2, 0.5, "no picture", ha="center", va="center", color="tab:gray")
    for time in times(duration) if faces else ():
        face = min(faces, key=lambda f: abs(f.time - time))
        left, right = time - width / 2, time + width / 2
        if face.crop is None:
            axis.axvspan(left, right, color="0.9")
            axis.text(time, 0.5, "–", ha="center", va="center", color="tab:gray")
        else:
            axis.imshow(face.crop[::2, ::2], extent=(left, right, 0, 1), aspect="auto")


def _sound(axis, file: str, duration: float) -> None:
    _bare(axis, "sound")
    try:
        wave = media.audio(file)
    except media.MediaError:  # nothing that a run on faces or words would mind
        wave = np.zeros(0)
    if not len(wave):
        axis.text(duration / 2, 0, "no sound", ha="center", va="center", color="tab:gray")
        return
    step = max(len(wave) // 2000, 1)
    pieces = wave[: len(wave) // step * step].reshape(-1, step)
    seconds = np.arange(len(pieces)) * step / SAMPLE_RATE
    axis.fill_between(seconds, pieces.min(axis=1), pieces.max(axis=1), lw=0, color="tab:gray")


def _emotion(axis, report: dict, task: Task) -> None:
    windows = report["windows"]
    middle = [(w["start"] + w["end"]) / 2 for w in windows]
    for name, value in report["prediction"]["values"].items():
        [line] = axis.plot(
            middle, [w["prediction"]["values"][name] for w in windows], "o-", ms=3, lw=1.2,
            label=f"{name} {value:.2f}",
        )  # fmt: skip
        axis.axhline(value, color=line.get_color(), lw=0.6, ls=":")
    if task.name in ("multiclass", "multilabel", "binary_pairs"):
        axis.set_ylim(-0.03, 1.03)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="x-small", frameon=False)
    axis.set_ylabel(
        "windows;\nwhole: dotted", rotation=0, ha="right", va="center", fontsize="small"
    )
