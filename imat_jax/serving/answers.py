"""What is said of an utterance, with every set of modalities, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imat_jax.analysis.shapley import shapley
from imat_jax.artifact import Answer, Artifact
from imat_jax.data.corpus import DataError, subsets

Frames = Mapping[str, np.ndarray]  # {modality: [T, D]}


def present(frames: Frames) -> tuple[str, ...]:
    """The modalities of which there is anything."""
    return tuple(m for m, x in frames.items() if len(x))


def rows(frames: Frames) -> list[Frames]:
    """`frames` less what is outside of each of the `subsets` of what is there; whole last."""
    return [{m: frames[m] for m in subset} for subset in subsets(present(frames))]


def named(artifact: Artifact, answers: Sequence[Answer], frames: Frames) -> dict[str, Any]:
    """{"text+audio": {name: value}}, of the answers to `rows(frames)`."""
    names = ("+".join(subset) for subset in subsets(present(frames)))
    pairs = zip(names, answers, strict=True)
    return {name: _by_name(artifact, answer.values) for name, answer in pairs}


def explained(artifact: Artifact, answers: Sequence[Answer], frames: Frames) -> dict[str, Any]:
    """The prediction and what it rests on, of the answers to `rows(frames)`.

    "contributions" are Shapley values of the modalities that are there: with "base", what is
    answered where nothing is seen, they add up to the prediction; of an artefact that does not
    know that, neither is there.
    """
    here = present(frames)
    found: dict[str, Any] = {
        "prediction": prediction(artifact, answers[-1].values),
        "subsets": named(artifact, answers, frames),
        "missing": [m for m in artifact.modalities if m not in here],
        "frames": {m: answers[-1].frames.get(m, 0) for m in artifact.modalities},
    }
    base = artifact.manifest["base"]
    if base is not None:
        value = {(): np.asarray(base, float)}
        value |= {s: a.values for s, a in zip(subsets(here), answers, strict=True)}
        parts = zip(here, shapley(here, value), strict=True)
        found["base"] = _by_name(artifact, value[()])
        found["contributions"] = {m: _by_name(artifact, part) for m, part in parts}
    return found


def prediction(artifact: Artifact, values: np.ndarray) -> dict[str, Any]:
    return {"values": _by_name(artifact, values)} | artifact.labels(values)


def _by_name(artifact: Artifact, values: np.ndarray) -> dict[str, float]:
    if not np.isfinite(values).all():  # JSON has no such numbers
        raise DataError("the features are so large that the model has no finite answer to them")
    return dict(zip(artifact.values, np.round(values, 6).tolist(), strict=True))


def words(tokens: Sequence[str], answer: Answer) -> list[dict[str, Any]]:
    """[{"word", "weight"}]: how the other modalities spread their attention over the words.

    Means over the pairs ending in text; weights of a word's pieces, which begin with "##", are
    added, and those of what the tokenizer puts around the text are left out. [] of a model without
    such attention, or where tokens and frames are not as many.
    """
    pairs = [w for pair, w in answer.attention.items() if pair.endswith("<-text")]
    if not pairs or len(tokens) != len(pairs[0]):
        return []
    found: list[dict[str, Any]] = []
    for token, weight in zip(tokens, np.mean(pairs, axis=0).tolist(), strict=True):
        if token.startswith("##") and found:
            found[-1]["word"] += token.removeprefix("##")
            found[-1]["weight"] += weight
        elif not (token[:1] in "[<" and token[-1:] in "]>"):
            found.append({"word": token, "weight": weight})
    total = sum(word["weight"] for word in found) or 1.0
    return [{"word": w["word"], "weight": round(w["weight"] / total, 4)} for w in found]


def envelope(wave: np.ndarray, rate: int, hz: int = 50) -> dict[str, Any]:
    """{"hz", "peaks"}: the loudest sample of every 1 / hz seconds, from 0 to 1."""
    size = rate // hz
    padded = np.pad(np.abs(wave), (0, -len(wave) % size)).reshape(-1, size)
    return {"hz": hz, "peaks": np.round(padded.max(axis=1), 3).tolist()}


def shares(box: Iterable[float] | None, width: int, height: int) -> list[float] | None:
    """A box in pixels as shares of the picture's sides, within it."""
    if box is None:
        return None
    scaled = np.asarray(list(box)) / (width, height, width, height)
    return np.round(np.clip(scaled, 0, 1), 4).tolist()
