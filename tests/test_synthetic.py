"""The embedded corpus: its ceilings are exact, and a sequence gives its symbol away."""

import itertools

import numpy as np
import pytest

from imat_jax.data.corpus import MODALITIES, subsets
from imat_jax.data.sources import synthetic


def test_joint_is_a_distribution():
    table = synthetic.joint()
    assert (table > 0).all()
    assert table.sum() == pytest.approx(1, abs=1e-15)


def best_by_enumeration(modalities):
    """The best of all decision functions of the symbols seen, tried one by one."""
    table, axes = synthetic.joint(), [1 + MODALITIES.index(m) for m in modalities]
    seen = list(itertools.product(range(2), repeat=len(axes)))
    best = 0.0
    for decisions in itertools.product(range(4), repeat=len(seen)):
        accuracy = 0.0
        for symbols, label in zip(seen, decisions, strict=True):
            part = table[label]
            for axis, symbol in sorted(zip(axes, symbols, strict=True), reverse=True):
                part = part.take(symbol, axis=axis - 1)
            accuracy += part.sum()
        best = max(best, accuracy)
    return best


@pytest.mark.parametrize("modalities", [s for s in subsets() if len(s) < 3])
def test_ceilings_are_those_of_the_best_decision_function(modalities):
    got = synthetic.bayes_accuracy(modalities)
    assert got == pytest.approx(best_by_enumeration(modalities), abs=1e-12)


def test_every_modality_is_needed():
    ceiling = {s: synthetic.bayes_accuracy(s) for s in subsets()}
    assert ceiling[MODALITIES] == pytest.approx(1 - synthetic.LABEL_NOISE, abs=1e-12)
    assert max(v for s, v in ceiling.items() if len(s) == 2) < 0.65
    assert max(v for s, v in ceiling.items() if len(s) == 1) < 0.5


def test_the_bayes_rule_attains_its_ceiling_on_a_large_sample():
    drawn = synthetic.symbols(1, "train", 200_000)
    for subset in subsets():
        decision = synthetic.bayes_rule(subset)[tuple(drawn[m] for m in MODALITIES)]
        accuracy = (decision == drawn["label"]).mean()
        assert accuracy == pytest.approx(synthetic.bayes_accuracy(subset), abs=0.005)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_sequence_gives_its_symbol_away_without_error(modality):
    marker, *codes = synthetic.codes(0, modality)
    for index in range(200):
        symbol = index % 2
        frames, event = synthetic.sequence(0, "train", index, modality, symbol)
        fewest, most = synthetic.SHAPES[modality][1]
        assert fewest <= len(frames) <= most
        np.testing.assert_array_equal(frames @ marker > synthetic.AMPLITUDE / 2, event)
        read = (frames[event] @ np.stack(codes, axis=1)).mean(axis=0).argmax()
        assert read == symbol


def test_it_is_the_same_every_time_and_differs_by_seed():
    sizes = {"train": 3, "valid": 1, "test": 1}
    first = synthetic.corpus(sizes).read(2)
    again = synthetic.corpus(sizes).read(2)
    other = synthetic.corpus(sizes, seed=1).read(2)
    np.testing.assert_array_equal(first["audio"], again["audio"])
    assert first["audio"].shape != other["audio"].shape or (first["audio"] != other["audio"]).any()
