"""The reliability diagram: confidence against accuracy, or coverage asked against reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from imat_jax import plots


def draw(results: Mapping[str, Any], path: str | os.PathLike) -> None:
    """One column a question of `calibration.calibrate`'s results."""
    questions = results["questions"]
    figure, axes = plt.subplots(
        2, len(questions), figsize=(max(4.4 * len(questions), 5), 5.2), squeeze=False,
        sharex=True, height_ratios=[3, 1],
    )  # fmt: skip
    for (above, below), (name, one) in zip(axes.T, questions.items(), strict=True):
        above.plot([0, 1], [0, 1], lw=1, color="tab:gray")
        above.set_title(name)
        if "temperature" in one:
            _classes(above, below, one)
        else:
            above.plot(one["diagram"]["coverage"], one["diagram"]["reached"], "o-", ms=3)
            above.set_ylabel("share covered")
            below.set_visible(False)
            above.set_xlabel("coverage asked")
            above.tick_params(labelbottom=True)
    figure.suptitle(f"{results['split']}, calibrated on validation")
    plots.save(figure, path)


def _classes(above, below, one: Mapping[str, Any]) -> None:
    width = 1 / one["bins"]
    for when, color in (("before", "tab:orange"), ("after", "tab:blue")):
        found = {k: np.array(v, float) for k, v in one[when]["diagram"].items()}
        there = found["count"] > 0
        t = 1 if when == "before" else one["temperature"]
        ece = one[when]["ece_width"]
        above.plot(
            found["confidence"][there], found["accuracy"][there], "o-", ms=4, color=color,
            label=f"{when}: T = {t:.2f}, ECE {ece:.3f}",
        )  # fmt: skip
        middle = (np.arange(one["bins"]) + 0.5) * width
        share = found["count"] / found["count"].sum()
        below.stairs(share, np.append(middle - width / 2, 1), color=color, fill=False)
    above.set_ylabel("accuracy")
    above.legend(fontsize="small", loc="upper left")
    below.set_ylabel("share")
    below.set_xlabel("confidence")
