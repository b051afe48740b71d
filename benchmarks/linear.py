"""The linear row of the README: python benchmarks/linear.py DATASET_DIR [MODALITIES …]

Logistic or ridge regression on the mean and deviation over time of each feature, standardised with
the training split, its regularisation picked on validation; then scored once on test.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from imat_jax import metrics
from imat_jax.cli import UsageError, fail
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset

STRENGTHS = np.logspace(-4, 1, 11)


def moments(dataset: Dataset, split: str, modalities: list[str]) -> np.ndarray:
    """[N, 2 D]: mean and deviation over frames; zeros for a missing modality."""
    rows = []
    for record in dataset.source(split):
        parts = []
        for m in modalities:
            frames = record[m].astype(np.float64)
            frames = frames if len(frames) else np.zeros((1, dataset.dims[m]))
            parts += [frames.mean(axis=0), frames.std(axis=0)]
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def fit(dataset: Dataset, modalities: list[str]) -> tuple[float, dict[str, float]]:
    """(regularisation chosen on validation, test metrics)."""
    task = dataset.metadata.get("task")
    if task not in ("multiclass", "sentiment"):
        raise UsageError(f"{dataset.path}: for multiclass and sentiment, not for the task {task}")
    unknown = [m for m in modalities if m not in dataset.dims]
    if unknown:
        raise UsageError(f"{dataset.path} has {'+'.join(dataset.dims)}, not {unknown[0]!r}")
    label = {s: dataset.index(s)["label"] for s in ("train", "valid", "test")}
    scaler = StandardScaler()
    x = {"train": scaler.fit_transform(moments(dataset, "train", modalities))}
    x |= {s: scaler.transform(moments(dataset, s, modalities)) for s in ("valid", "test")}
    classes = len(dataset.metadata["class_names"])
    tried = []
    for strength in STRENGTHS:
        if task == "multiclass":
            model = LogisticRegression(C=strength, max_iter=5000).fit(x["train"], label["train"])
            score = metrics.multiclass(label["valid"], of_all(model, x["valid"], classes))["acc"]
        else:
            model = Ridge(alpha=1 / strength).fit(x["train"], label["train"])
            score = -metrics.sentiment(label["valid"], model.predict(x["valid"]))["mae"]
        tried.append((score, strength, model))
    _, strength, model = max(tried, key=lambda t: t[0])
    if task == "multiclass":
        return strength, metrics.multiclass(label["test"], of_all(model, x["test"], classes))
    return strength, metrics.sentiment(label["test"], model.predict(x["test"]))


def of_all(model: LogisticRegression, x: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities [N, classes]; 0 for what the training split has no example of."""
    probabilities = np.zeros((len(x), classes))
    probabilities[:, model.classes_] = model.predict_proba(x)
    return probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("modalities", nargs="*", help="such as audio+vision; default all")
    args = parser.parse_args()
    dataset = Dataset.open(args.dataset)
    for subset in args.modalities or ["+".join(dataset.dims)]:
        strength, scores = fit(dataset, subset.split("+"))
        listed = "  ".join(f"{k} {v:.3f}" for k, v in scores.items() if "/" not in k)
        print(f"linear, {subset} (regularisation {1 / strength:.3g}): {listed}")


if __name__ == "__main__":
    try:
        main()
    except (UsageError, DataError) as error:
        fail(error)
