"""Does attribution find the frames that matter? python benchmarks/attribution.py --workdir=RUN

On the embedded corpus it is known which frames carry the symbol of a modality: the event frames
(`data/sources/synthetic.py`). Prints, for each modality and each way of attributing, how often the
frame with the most is an event frame (the pointing game of Zhang et al. 2018), and the AUC of event
against other frames within an utterance, beside chance. Of utterances that the run gets right.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
import scipy.stats

from imat_jax import rundir
from imat_jax.analysis import attribution, runs, targets
from imat_jax.cli import UsageError, fail
from imat_jax.data.corpus import DataError
from imat_jax.data.sources import synthetic
from imat_jax.experiment import Experiment

PROTOCOL = "synthetic-4way"


def events(experiment: Experiment, split: str, rows: Iterable[int]) -> list[dict[str, np.ndarray]]:
    """{modality: [T] bool}: which frames are the event, made again by the generator of the corpus.

    Raises:
      UsageError: the features made with them are not those of the dataset: it is another corpus.
    """
    other = UsageError(f"{experiment.config.dataset} is not the embedded corpus")
    metadata = experiment.dataset.metadata
    if metadata["protocol"] != PROTOCOL or "seed" not in metadata["facts"]:
        raise other
    seed = metadata["facts"]["seed"]
    index, source = experiment.dataset.index(split), experiment.dataset.source(split)
    drawn = synthetic.symbols(seed, split, len(index["id"]))
    found = []
    for row in rows:
        record, number = source[row], int(str(index["id"][row]).rpartition("-")[2])
        event = {}
        for m in experiment.dims:
            frames, event[m] = synthetic.sequence(seed, split, number, m, int(drawn[m][number]))
            stored = record[m]
            if not np.array_equal(frames.astype(stored.dtype), stored):
                raise other
        found.append(event)
    return found


def auc(score: np.ndarray, event: np.ndarray) -> float:
    """Chance that an event frame has more than another frame, ties half; both must be there."""
    ranks = scipy.stats.rankdata(score)
    inside, outside = event.sum(), (~event).sum()
    return float((ranks[event].sum() - inside * (inside + 1) / 2) / (inside * outside))


def ways(one: attribution.Attribution, m: str) -> dict[str, np.ndarray]:
    """{way: [frames of m]}, more for what matters more."""
    looks = {p: w for p, w in one.attention.items() if p.endswith(f"<-{m}")}
    found = {f"attention of {p.partition('<-')[0]}": w for p, w in looks.items()}
    if looks:
        found["attention, mean"] = np.mean(list(looks.values()), axis=0)
    found["|gradient x input|"] = np.abs(one.gradient[m])
    found["|integrated gradients|"] = np.abs(one.integrated[m])
    found["integrated gradients"] = one.integrated[m]
    return found


def score(
    found: list[attribution.Attribution], known: list[dict[str, np.ndarray]]
) -> dict[str, dict[str, Mapping[str, float]]]:
    """{modality: {way: {"top", "auc", "utterances"}}}, "chance" one of the ways."""
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for one, event in zip(found, known, strict=True):
        for m, inside in event.items():
            if inside.all():
                continue  # nothing to find
            rows = table.setdefault(m, {"chance": {"top": [], "auc": []}})
            rows["chance"]["top"].append(float(inside.mean()))
            rows["chance"]["auc"].append(0.5)
            for way, values in ways(one, m).items():
                cells = rows.setdefault(way, {"top": [], "auc": []})
                cells["top"].append(float(inside[values.argmax()]))
                cells["auc"].append(auc(values, inside))
    return {
        m: {
            way: {k: float(np.mean(v)) for k, v in cells.items()}
            | {"utterances": len(cells["top"])}
            for way, cells in rows.items()
        }
        for m, rows in table.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=500, help="the first so many utterances")
    args = parser.parse_args()
    experiment, params = runs.open_run(args.workdir)
    label = experiment.dataset.index(args.split)["label"]
    rows = range(min(args.count, len(label)))
    known = events(experiment, args.split, rows)
    found = attribution.attribute(experiment, params, args.split, rows)
    outputs = np.stack([one.outputs for one in found])
    right = np.asarray(targets.chosen(experiment.task, outputs)) == label[: len(found)]
    found = [one for one, good in zip(found, right, strict=True) if good]
    table = score(found, [known[one.row] for one in found])
    print(f"{args.workdir}, {args.split}: {len(found)} of {len(right)} utterances are right")
    for m, rows in table.items():
        print(f"\n{m:<26}{'top frame is an event':>24}{'AUC':>8}")
        for way, cells in rows.items():
            print(f"  {way:<24}{cells['top']:>24.3f}{cells['auc']:>8.3f}")
    rundir.write_json(args.workdir / "attribution.json", table)


if __name__ == "__main__":
    try:
        main()
    except (UsageError, DataError) as error:
        fail(error)
