"""Folds, each tuned on its own validation split: python benchmarks/folds.py SWEEP_OF_A_FOLD …

Of each sweep (`imat sweep … --test`, one a fold, all over the same values) the configuration with
the best mean over seeds on validation is taken, and its mean on test printed; then the mean over
folds. The choice within a sweep has not seen the test split of its fold; what its values were
picked by before is another matter.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import numpy as np


def chosen(sweep: pathlib.Path) -> tuple[str, float, list[float]]:
    """(overrides, mean on validation, test of each seed) of the configuration that wins."""
    if not (sweep / "sweep.json").is_file():
        sys.exit(f"{sweep} is not the directory of a sweep")
    summary = json.loads((sweep / "sweep.json").read_text())
    best = summary["configurations"][0]
    if any(one["mean"] is None for one in summary["configurations"]):
        sys.exit(f"{sweep}: not all runs are finished; the command of the sweep goes on")
    metric = summary["metric"].removeprefix("valid/")
    found = [json.loads((sweep / run / "results.json").read_text()) for run in best["runs"]]
    if any("test" not in results for results in found):
        sys.exit(f"{sweep}: not scored on test; imat sweep … --test")
    name = ",".join(f"{key}={value}" for key, value in best["overrides"].items())
    return name, best["mean"], [results["test"][metric] for results in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    means = []
    for sweep in args.sweep:
        name, valid, test = chosen(sweep)
        means.append(np.mean(test))
        listed = " ".join(f"{value:.3f}" for value in test)
        print(f"{sweep}: {name}, valid {valid:.3f}, test {means[-1]:.3f} (seeds: {listed})")
    deviation = np.std(means, ddof=1) if len(means) > 1 else 0.0
    print(f"over {len(means)} folds: {np.mean(means):.3f} ± {deviation:.3f}")


if __name__ == "__main__":
    main()
