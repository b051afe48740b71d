"""How sure a run is, and how sure it may be: imat calibrate --workdir=RUN [--split=test]

From the predictions that `imat evaluate` left. Of classes: ECE, NLL and Brier score before and
after a temperature fitted on validation, and conformal sets; of scores: conformal intervals. All is
calibrated on validation and verified on another split. Writes RUN/calibration.json and
RUN/plots/calibration-SPLIT.png. See docs/calibration.md for what the promise is worth.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from imat_jax import config as configs
from imat_jax import experiment as experiments
from imat_jax import rundir
from imat_jax.analysis import calibration_plots, confidence, conformal
from imat_jax.cli import UsageError, run
from imat_jax.tasks import Task

CLASSES = ("multiclass", "multilabel", "binary_pairs")


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Run directory.", required=True)
    flags.DEFINE_string("split", "test", "Split to verify on.")
    flags.DEFINE_integer("bins", 15, "Bins of ECE and of the diagram.", 1)
    flags.DEFINE_list("coverage", ["0.8", "0.9", "0.95"], "Coverages of sets and intervals.")
    flags.DEFINE_enum("sets", "lac", conformal.SCORES, "Conformal score of classes.")


def questions(task: Task, label: np.ndarray, outputs: np.ndarray) -> dict[str, tuple]:
    """{name: (logits [N, C], label [N] int)}: one question with C answers, or a yes/no an emotion.

    Of regressions {name: (score [N], label [N])}.
    """
    if task.name == "multiclass":
        return {"class": (outputs, label)}
    names = task.class_names or ("sentiment",)
    if task.name == "binary_pairs":
        pairs = outputs.reshape(len(outputs), -1, 2)
        return {n: (pairs[:, i], label[:, i].astype(int)) for i, n in enumerate(names)}
    if task.name == "multilabel":  # the logit of presence against 0
        pairs = np.stack([np.zeros_like(outputs), outputs], axis=-1)
        return {n: (pairs[:, i], (label[:, i] > 0).astype(int)) for i, n in enumerate(names)}
    score, label = (x.reshape(len(outputs), -1) for x in (task.decode(outputs), label))
    return {n: (score[:, i], label[:, i]) for i, n in enumerate(names)}


def of_classes(
    valid: tuple, test: tuple, coverages: Sequence[float], bins: int, kind: str
) -> dict[str, Any]:
    """Calibration of one question: (logits [N, C], label [N]) of validation and of another split.

    The conformal sets are of the probabilities as the model gives them (T = 1), so that nothing but
    the choice of the checkpoint has seen the calibration examples before.
    """
    temperature = confidence.fit_temperature(*valid)
    result: dict[str, Any] = {"temperature": temperature, "bins": bins}
    for when, t in (("before", 1.0), ("after", temperature)):
        prob, label = confidence.probabilities(test[0], t), test[1]
        top, correct = prob.max(axis=1), prob.argmax(axis=1) == label
        result[when] = {
            "nll": confidence.nll(*test, t),
            "brier": confidence.brier(prob, label),
            "acc": float(correct.mean()),
            "confidence": float(top.mean()),
        }
        for binning in confidence.BINNINGS:
            result[when][f"ece_{binning}"] = confidence.ece(top, correct, bins, binning)
            result[when][f"ece_{binning}_by_chance"] = confidence.ece_by_chance(top, bins, binning)
        found = confidence.reliability(top, correct, bins)
        result[when]["diagram"] = {k: _plain(v) for k, v in found.items()}
    prob = {"valid": confidence.probabilities(valid[0]), "test": confidence.probabilities(test[0])}
    result["conformal"] = []
    for coverage in coverages:
        limit = conformal.threshold(prob["valid"], valid[1], coverage, kind)
        inside = conformal.sets(prob["test"], limit, kind)
        size = inside.sum(axis=1)
        result["conformal"].append(
            _verified(inside[np.arange(len(test[1])), test[1]], len(valid[1]), coverage)
            | {
                "score": kind,
                "threshold": _plain(limit),
                "mean_size": float(size.mean()),
                "sizes": {str(n): float((size == n).mean()) for n in np.unique(size)},
            }
        )
    return result


def of_scores(valid: tuple, test: tuple, coverages: Sequence[float]) -> dict[str, Any]:
    """Intervals of one score: (score [N], label [N]) of validation and of another split."""
    result: dict[str, Any] = {"conformal": []}
    for coverage in coverages:
        radius = conformal.radius(valid[1], valid[0], coverage)
        covered = np.abs(test[1] - test[0]) <= radius
        result["conformal"].append(
            _verified(covered, len(valid[1]), coverage)
            | {"score": "absolute residual", "radius": _plain(radius)}
        )
    grid = np.round(np.arange(0.05, 1, 0.05), 2)
    radii = np.array([conformal.radius(valid[1], valid[0], c) for c in grid])
    reached = (np.abs(test[1] - test[0])[:, None] <= radii[None]).mean(axis=0)
    result["diagram"] = {"coverage": _plain(grid), "reached": _plain(reached)}
    return result


def _verified(covered: np.ndarray, calibration: int, coverage: float) -> dict[str, Any]:
    low, high = conformal.expected(calibration, len(covered), coverage)
    return {
        "coverage": coverage,
        "reached": float(covered.mean()),
        "expected_low": low,
        "expected_high": high,
        "calibrated_on": calibration,
        "verified_on": len(covered),
    }


def _plain(value: Any) -> Any:
    """For JSON, which has neither nan nor infinity: None."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    return value if np.isfinite(value) else None


def predictions(workdir: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(label, outputs) of a split, as `imat evaluate` left them; raises `UsageError` if not."""
    path = workdir / "predictions" / f"{split}.npz"
    if not path.is_file():
        raise UsageError(
            f"{path} is not there; `imat evaluate --workdir={workdir} --split=valid,{split}` "
            "makes it"
        )
    with np.load(path, allow_pickle=False) as archive:
        return archive["label"], archive["outputs"]


def table(results: Mapping[str, Any]) -> str:
    """What `calibrate` found, as text."""
    lines = []
    for name, one in results["questions"].items():
        lines.append(f"{name}, {results['split']}")
        if "temperature" in one:
            lines.append(f"  temperature {one['temperature']:.3f}, fitted on validation")
            lines.append(f"  {'':<28}{'before':>10}{'after':>10}{'if right':>10}")
            for key in ("acc", "confidence", "nll", "brier", "ece_width", "ece_mass"):
                label = f"{key}, {one['bins']} bins" if key.startswith("ece") else key
                line = f"  {label:<28}" + "".join(
                    f"{one[w][key]:>10.4f}" for w in ("before", "after")
                )
                chance = one["after"].get(f"{key}_by_chance")
                lines.append(line + ("" if chance is None else f"{chance:>10.4f}"))
        for c in one["conformal"]:
            said = f"mean size {c['mean_size']:.2f}" if "mean_size" in c else _interval(c)
            lines.append(
                f"  {c['coverage']:.0%} {c['score']}: {said}; covers {c['reached']:.3f} "
                f"(expected {c['expected_low']:.3f} to {c['expected_high']:.3f})"
            )
    return "\n".join(lines)


def _interval(c: Mapping[str, Any]) -> str:
    return f"± {c['radius']:.3f}" if c["radius"] is not None else "± inf: too few to calibrate on"


def calibrate(
    workdir: pathlib.Path, split: str, coverages: Sequence[float], bins: int, kind: str
) -> dict[str, Any]:
    """Calibration of the run in `workdir`; returns it and writes it there.

    Raises:
      UsageError: no run, or no predictions on validation or `split`.
    """
    config = configs.load(workdir)
    metadata = json.loads((workdir / "dataset.json").read_text())
    task = experiments.make_task(config, metadata)
    valid = questions(task, *predictions(workdir, "valid"))
    test = questions(task, *predictions(workdir, split))
    found = {}
    for name in test:
        if task.name in CLASSES:
            found[name] = of_classes(valid[name], test[name], coverages, bins, kind)
        else:
            found[name] = of_scores(valid[name], test[name], coverages)
    results = {"split": split, "calibrated_on": "valid", "task": task.name, "questions": found}
    with rundir.room(workdir):
        rundir.write_json(workdir / "calibration.json", results)
        calibration_plots.draw(results, workdir / "plots" / f"calibration-{split}.png")
    return results


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    workdir = pathlib.Path(f.workdir)
    if f.split in ("train", "valid"):
        raise UsageError(f"--split={f.split} has been used to fit; verify on another")
    try:
        coverages = [float(c) for c in f.coverage]
    except ValueError:
        coverages = []
    if not coverages or not all(0 < c < 1 for c in coverages):
        raise UsageError(f"--coverage={','.join(f.coverage)}: take numbers between 0 and 1")
    print(table(calibrate(workdir, f.split, coverages, f.bins, f.sets)))
    print(f"{workdir}/calibration.json plots/calibration-{f.split}.png")


if __name__ == "__main__":
    run(main, define_flags)
