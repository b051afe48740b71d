"""Checks while building: what they say, and that they are silent where nothing is amiss."""

import numpy as np
import pytest

from imat_jax.data import builder
from imat_jax.data.corpus import Corpus, Modality, Utterance
from imat_jax.data.dataset import Dataset


def build(tmp_path, frames, extractor="x", groups=True, kind="category"):
    """60 utterances of two classes; `frames(label, rng)` makes the audio of one."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    audio = [frames(y, rng).astype(np.float32) for y in label]
    corpus = Corpus(
        name="made",
        utterances=[
            Utterance(
                id=f"u{i}",
                row=i,
                annotations={kind: str(y) if kind == "category" else 2.0 * y - 1},
                split="train" if i < 40 else "valid",
                group=f"g{i}" if groups else "",
            )
            for i, y in enumerate(label)
        ],
        modalities={"audio": Modality(dim=3, extractor=extractor)},
        read=lambda row: {"audio": audio[row]},
    )
    builder.build(corpus, tmp_path / "d", progress=False)
    return Dataset.open(tmp_path / "d").metadata


def noise(y, rng):
    return rng.standard_normal((rng.integers(1, 9), 3))


def test_nothing_is_said_of_sound_data(tmp_path):
    metadata = build(tmp_path, noise)
    assert metadata["warnings"] == []
    assert metadata["checks"]["linear_probe"]["audio"]["score"] < 0.9


@pytest.mark.parametrize("kind", ["category", "sentiment"])
def test_features_that_hold_the_label(tmp_path, kind):
    metadata = build(tmp_path, lambda y, rng: noise(y, rng) + 9 * np.eye(3)[1] * y, kind=kind)
    (said,) = metadata["warnings"]
    assert said.startswith("audio: a linear model on utterance means alone reaches")
    assert metadata["checks"]["linear_probe"]["audio"]["score"] == 1.0


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (lambda y, rng: np.zeros((4, 3)), "audio: all features of all utterances are 0"),
        (lambda y, rng: noise(y, rng) * [1, 0, 1], "audio: 1 of 3 features are constant"),
        (lambda y, rng: np.ones((2, 3)), "audio: every feature is constant"),
        (lambda y, rng: np.zeros((0, 3)), "audio: missing in all utterances"),
        (lambda y, rng: noise(y, rng) * y, "audio: all features are 0 in 30 of 60 utterances"),
    ],
)
def test_empty_and_constant_modalities(tmp_path, frames, message):
    warnings = build(tmp_path, frames)["warnings"]
    assert any(w.startswith(message) for w in warnings), warnings


def test_facet_and_unknown_groups_are_flagged(tmp_path):
    warnings = build(tmp_path, noise, extractor="FACET 4.2", groups=False)["warnings"]
    assert any("FACET features contain emotions" in w for w in warnings)
    assert any("groups unknown" in w for w in warnings)
