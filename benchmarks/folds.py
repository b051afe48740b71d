"""Folds, each tuned on its own validation split: python benchmarks/folds.py SWEEP_OF_A_FOLD …

Of each sweep (`imat sweep … --test`, one a fold, all over the same values) the configuration with
the best mean over seeds on validation is taken, and its mean on test printed; then the mean over
folds. No choice has seen the test split of its fold.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib

import numpy as np

from imat_jax import tasks


def chosen(sweep: pathlib.Path, metric: str) -> tuple[str, float, list[float]]:
    """(overrides, mean on validation, test of each seed) of the configuration that wins."""
    found = collections.defaultdict(list)
    for file in sorted(sweep.glob("runs/*/results.json")):
        results = json.loads(file.read_text())
        config = json.loads((file.parent / "config.json").read_text()) | {"seed": None}
        key = json.dumps(config, sort_keys=True)
        found[key].append((results["valid"][metric], results["test"][metric], file.parent.name))
    sign = 1 if tasks.higher_is_better(metric) else -1
    best = max(found.values(), key=lambda runs: sign * np.mean([valid for valid, *_ in runs]))
    name = best[0][2].partition(",seed=")[0]
    return name, float(np.mean([valid for valid, *_ in best])), [test for _, test, _ in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="+", type=pathlib.Path)
    parser.add_argument("--metric", default="acc")
    args = parser.parse_args()
    means = []
    for sweep in args.sweep:
        name, valid, test = chosen(sweep, args.metric)
        means.append(np.mean(test))
        listed = " ".join(f"{value:.3f}" for value in test)
        print(f"{sweep}: {name}, valid {valid:.3f}, test {means[-1]:.3f} (seeds: {listed})")
    deviation = np.std(means, ddof=1) if len(means) > 1 else 0.0
    print(f"{args.metric} over {len(means)} folds: {np.mean(means):.3f} ± {deviation:.3f}")


if __name__ == "__main__":
    main()
