"""The embedded corpus: ragged SSL-shaped sequences whose best possible accuracy is known.

Someone says something kind or unkind (text), means it or is ironic (vision), calmly or not (audio):

    polarity p in {-, +}        text     uniform
    irony    q in {no, yes}     vision   P(yes) = 0.35
    arousal  r in {low, high}   audio    P(high | q = no) = 0.6, P(high | q = yes) = 0.2
    valence = p, turned over by irony;   label = (valence, arousal), one of four emotions,
                                         replaced by another at random in 6 % of the utterances

Text without vision mistakes every ironic utterance, vision alone knows no valence, audio alone no
valence either: every modality helps and no two suffice. The joint distribution of the label and the
three symbols is a table of 4 x 2 x 2 x 2 numbers, so the accuracy of the best possible classifier
that sees a subset S of the modalities is an exact finite sum:

    sum over symbols s_S of max over labels y of P(y, s_S)            (`bayes_accuracy`)

That is the ceiling of a model, since a sequence gives its symbol away without error: the symbol is
a code vector added to a few *event* frames, which also carry a marker; *distractor* frames carry
code vectors of random symbols without the marker; the background is autocorrelated Gaussian noise,
orthogonal to codes and marker. So one has to find the right frames, not to average all of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import scipy.signal

from imat_jax.data.corpus import MODALITIES, Corpus, Modality, Utterance, subsets

CLASS_NAMES = ("sadness", "calm", "anger", "joy")  # valence + 2 * arousal
IRONY = 0.35
AROUSAL = (0.6, 0.2)  # P(high | sincere), P(high | ironic)
LABEL_NOISE = 0.06

# {modality: (feature width, fewest and most frames, frames of an event, distractors, rate in Hz)}
SHAPES = {
    "text": (48, (4, 24), 1, 2, None),
    "audio": (40, (20, 96), 4, 2, 20.0),
    "vision": (32, (10, 48), 3, 2, 10.0),
}
AMPLITUDE = 4.0  # of marker and code, against noise of deviation 1 in each dimension
PERSISTENCE = 0.6  # correlation of neighbouring background frames


def joint() -> np.ndarray:
    """P(label, polarity, arousal, irony), [4, 2, 2, 2]; axes 1 to 3 are text, audio, vision."""
    table = np.zeros((4, 2, 2, 2))
    for p, r, q in itertools.product(range(2), repeat=3):
        chance = 0.5 * (IRONY if q else 1 - IRONY) * (AROUSAL[q] if r else 1 - AROUSAL[q])
        table[:, p, r, q] = chance * LABEL_NOISE / 3
        table[(p ^ q) + 2 * r, p, r, q] = chance * (1 - LABEL_NOISE)
    return table


def bayes_rule(modalities: Sequence[str]) -> np.ndarray:
    """Best decision for every combination of symbols, [2, 2, 2], seeing only `modalities`."""
    hidden = tuple(1 + i for i, m in enumerate(MODALITIES) if m not in modalities)
    seen = joint().sum(axis=hidden, keepdims=True)  # P(label, symbols seen)
    return np.broadcast_to(seen.argmax(axis=0), (2, 2, 2))


def bayes_accuracy(modalities: Sequence[str]) -> float:
    """Accuracy of the best possible classifier that sees only `modalities`; exact."""
    hidden = tuple(1 + i for i, m in enumerate(MODALITIES) if m not in modalities)
    return float(joint().sum(axis=hidden).max(axis=0).sum())


def symbols(seed: int, split: str, size: int) -> dict[str, np.ndarray]:
    """Labels and symbols of a split: `label`, `text`, `audio`, `vision`, each int [size]."""
    rng = np.random.default_rng([seed, *split.encode()])
    flat = rng.choice(32, size=size, p=joint().ravel())
    return dict(zip(("label", *MODALITIES), np.unravel_index(flat, (4, 2, 2, 2)), strict=True))


@functools.cache
def codes(seed: int, modality: str) -> np.ndarray:
    """Orthonormal marker and code vectors, [3, D]: marker, symbol 0, symbol 1."""
    dim = SHAPES[modality][0]
    rng = np.random.default_rng([seed, *modality.encode()])
    return np.linalg.qr(rng.standard_normal((dim, 3)))[0].T


def sequence(
    seed: int, split: str, index: int, modality: str, symbol: int
) -> tuple[np.ndarray, np.ndarray]:
    """The frames [T, D] float32 of one utterance, and which of them are the event, bool [T]."""
    dim, (fewest, most), width, distractors, _ = SHAPES[modality]
    rng = np.random.default_rng([seed, index, *split.encode(), *modality.encode()])
    length = int(rng.integers(fewest, most + 1))
    innovation = rng.standard_normal((length, dim)) * np.sqrt(1 - PERSISTENCE**2)
    innovation[0] = rng.standard_normal(dim)  # starts at its stationary deviation, 1
    noise = scipy.signal.lfilter([1], [1, -PERSISTENCE], innovation, axis=0)
    basis = codes(seed, modality)
    frames = noise - (noise @ basis.T) @ basis
    # Spans of `width` frames on a grid, so that they never overlap: the event, then distractors.
    slots = rng.permutation(length // width)[: 1 + distractors] * width
    event = np.zeros(length, bool)
    event[slots[0] : slots[0] + width] = True
    frames[event] += AMPLITUDE * (basis[0] + basis[1 + symbol])
    for start in slots[1:]:
        frames[start : start + width] += AMPLITUDE * basis[1 + rng.integers(2)]
    return frames.astype(np.float32), event


def corpus(sizes: dict[str, int] | None = None, seed: int = 0) -> Corpus:
    """The embedded corpus, the same for the same arguments on any machine.

    Args:
      sizes: examples a split; default 4000 train, 1000 valid, 2000 test.
      seed: of everything.
    """
    sizes = sizes or {"train": 4000, "valid": 1000, "test": 2000}

    drawn = {split: symbols(seed, split, size) for split, size in sizes.items()}
    places = [(split, i) for split, size in sizes.items() for i in range(size)]
    utterances = [
        Utterance(
            id=f"{split}-{i:06d}",
            row=row,
            annotations={"category": CLASS_NAMES[drawn[split]["label"][i]]},
            split=split,
            group=f"{split}-{i // 10:05d}",
            order=i % 10,
        )
        for row, (split, i) in enumerate(places)
    ]

    def read(row: int) -> dict[str, np.ndarray]:
        split, i = places[row]
        return {m: sequence(seed, split, i, m, int(drawn[split][m][i]))[0] for m in MODALITIES}

    def attained(split: str, modalities: Sequence[str]) -> float:
        decision = bayes_rule(modalities)[tuple(drawn[split][m] for m in MODALITIES)]
        return float((decision == drawn[split]["label"]).mean())

    ceiling = {"+".join(s): round(bayes_accuracy(s), 6) for s in subsets()}
    attained_by_bayes = {
        split: {"+".join(s): attained(split, s) for s in subsets()} for split in sizes
    }
    return Corpus(
        name="synthetic",
        protocol="synthetic-4way",
        label_names={"category": CLASS_NAMES},
        modalities={
            m: Modality(dim=shape[0], extractor="synthetic", rate_hz=shape[4])
            for m, shape in SHAPES.items()
        },
        utterances=utterances,
        read=read,
        facts={
            "seed": seed,
            "bayes_accuracy": ceiling,
            "bayes_accuracy_on_split": attained_by_bayes,
        },
    )
