"""Checks of a corpus on its way into a dataset: what should make its user suspicious."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm

from imat_jax.data.corpus import Corpus, Utterance
from imat_jax.data.records import Summary

SUSPICIOUS = 0.9  # a linear model on the means of one modality; the field's best is well below
SAMPLE = 1000  # utterances that the probe is fitted on, and scored on at most


def run(
    corpus: Corpus, metadata: dict[str, Any], summaries: Sequence[Summary], *, progress: bool
) -> dict[str, Any]:
    """Findings for the metadata; what deserves a sentence is appended to `metadata["warnings"]`."""
    say = metadata["warnings"].append
    found: dict[str, Any] = {"zero_utterances": {}, "constant_features": {}}
    utterances = len(corpus.utterances)
    if not any(u.group for u in corpus.utterances):
        say("groups unknown: whether a speaker or video is in two splits cannot be checked")
    for m in corpus.modalities:
        present = sum(n > 0 for s in summaries for n in s.lengths[m])
        zero = found["zero_utterances"][m] = sum(s.zero[m] for s in summaries)
        if not present:
            say(f"{m}: missing in all utterances")
        elif zero == present:
            say(f"{m}: all features of all utterances are 0")
        elif zero:
            say(f"{m}: all features are 0 in {zero} of {utterances} utterances")
        if zero < present and "statistics" in metadata:
            std = np.asarray(metadata["statistics"][m]["std"])
            constant = found["constant_features"][m] = int((std == 0).sum())
            if constant == len(std):
                say(f"{m}: every feature is constant over the training split")
            elif constant:
                say(f"{m}: {constant} of {len(std)} features are constant over the training split")
        if metadata["nonfinite"][m]:
            say(
                f"{m}: {metadata['nonfinite'][m]} non-finite values were replaced by 0, the first "
                f"in {metadata['nonfinite'][f'{m}_first']}"
            )
        if "facet" in corpus.modalities[m].extractor.lower():
            say(
                f"{m}: FACET features contain emotions predicted by a supervised model; do not "
                "compare them with features that do not"
            )
    found["linear_probe"] = probe(corpus, progress=progress)
    for m, result in found["linear_probe"].items():
        if result["score"] > SUSPICIOUS:
            say(
                f"{m}: a linear model on utterance means alone reaches {result['metric']} "
                f"{result['score']:.3f}; does {m} contain the label?"
            )
    return found


def probe(corpus: Corpus, *, progress: bool = False) -> dict[str, dict[str, Any]]:
    """Ridge regression on the mean features of each modality alone, scored on other utterances.

    Fitted on a sample of train, scored on a sample of valid, else of test; nothing is selected.

    Returns:
      {modality: {"metric", "score", "examples"}}; none without two splits. The metric is the
      balanced accuracy of classes, of each pair or emotion on average, the accuracy of the sign of
      a sentiment that is not 0, or the correlation of dimensions on average.
    """
    splits = corpus.splits()
    other = next((s for s in ("valid", "test") if s in splits), None)
    if "train" not in splits or other is None:
        return {}
    fit, held = _spread(splits["train"]), _spread(splits[other])
    bar = tqdm.tqdm(total=len(fit) + len(held), desc="check", unit="utt", disable=not progress)
    with bar:
        x, y = _means(corpus, fit, bar), _targets(corpus, fit)
        x_held, y_held = _means(corpus, held, bar), _targets(corpus, held)
    results = {}
    for m in corpus.modalities:
        predicted = _ridge(x[m], y, x_held[m])
        metric, score = _score(corpus.task, y_held, predicted)
        results[m] = {"metric": metric, "score": round(score, 4), "examples": len(held)}
    return results


def _spread(utterances: Sequence[Utterance]) -> Sequence[Utterance]:
    return utterances[:: -(-len(utterances) // SAMPLE)]


def _means(corpus: Corpus, utterances: Sequence[Utterance], bar) -> dict[str, np.ndarray]:
    means = {m: np.zeros((len(utterances), i.dim)) for m, i in corpus.modalities.items()}
    for i, utterance in enumerate(utterances):
        for m, frames in corpus.read(utterance.row).items():
            if m in means and len(frames):
                clean = np.nan_to_num(np.asarray(frames, np.float64), posinf=0, neginf=0)
                means[m][i] = clean.mean(axis=0)
        bar.update()
    return means


def _targets(corpus: Corpus, utterances: Sequence[Utterance]) -> np.ndarray:
    """[N, K]: one column a class, emotion or dimension."""
    label = np.asarray([u.label for u in utterances])
    if corpus.task == "multiclass":
        return np.eye(len(corpus.class_names))[label]
    label = label.reshape(len(label), -1).astype(float)
    return (label > 0).astype(float) if corpus.task in ("multilabel", "binary_pairs") else label


def _ridge(x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> np.ndarray:
    mean, std = x.mean(axis=0), x.std(axis=0)
    z, z_new = ((a - mean) / np.where(std > 0, std, 1) for a in (x, x_new))
    centre = y.mean(axis=0)
    gram = z.T @ z + 0.1 * len(z) * np.eye(z.shape[1])
    return z_new @ np.linalg.solve(gram, z.T @ (y - centre)) + centre


def _score(task: str, y: np.ndarray, predicted: np.ndarray) -> tuple[str, float]:
    if task == "multiclass":
        guess, truth = predicted.argmax(axis=1), y.argmax(axis=1)
        return "bacc", float(np.mean([(guess[truth == k] == k).mean() for k in np.unique(truth)]))
    if task == "sentiment":
        some = y[:, 0] != 0
        if not some.any():
            return "acc2_non0", float("nan")
        return "acc2_non0", float(((y > 0) == (predicted > 0))[some, 0].mean())
    columns = [(a, b) for a, b in zip(y.T, predicted.T, strict=True) if a.std() > 0]
    if not columns:
        return "bacc", float("nan")
    if task == "dimensions":
        scores = [np.corrcoef(a, b)[0, 1] if b.std() > 0 else 0.0 for a, b in columns]
        return "corr", float(np.mean(scores))
    half = [((a > 0) == (b > a.mean()), a > 0) for a, b in columns]
    return "bacc", float(np.mean([(r[p].mean() + r[~p].mean()) / 2 for r, p in half]))
