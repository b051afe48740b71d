"""Shapley values, attributions, and the pages that show them."""

import dataclasses
import html.parser
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import run as call
from test_sharding import small

from imat_jax import experiment, inference, sharding, tasks
from imat_jax.analysis import attribution, explain, explain_page, explain_plots, runs, targets
from imat_jax.analysis.shapley import shapley
from imat_jax.encoders import bert

PLAYERS = ("text", "audio", "vision")


@st.composite
def games(draw):
    """Players, and values [2] of every subset of them."""
    players = PLAYERS[: draw(st.integers(1, 3))]
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    sizes = range(len(players) + 1)
    every = [s for n in sizes for s in itertools.combinations(players, n)]
    return players, {s: rng.standard_normal(2) for s in every}


def orders(players, value):
    """What a player adds to those before it, mean over all orders: the other definition."""
    total = dict.fromkeys(players, 0.0)
    for order in itertools.permutations(players):
        for i, p in enumerate(order):
            before, after = (tuple(q for q in players if q in order[:n]) for n in (i, i + 1))
            total[p] += (value[after] - value[before]) / math.factorial(len(players))
    return np.stack([total[p] for p in players])


@given(games(), games())
def test_shapley_axioms(game, other):
    players, value = game
    phi = shapley(players, value)
    np.testing.assert_allclose(phi, orders(players, value), atol=1e-12)
    np.testing.assert_allclose(phi.sum(axis=0), value[players] - value[()], atol=1e-12)
    if other[0] == players:
        both = {s: value[s] + 2 * other[1][s] for s in value}
        np.testing.assert_allclose(
            shapley(players, both), phi + 2 * shapley(players, other[1]), atol=1e-12
        )
    # The last player changes nothing; then all players are alike.
    null = {s: value[tuple(p for p in s if p != players[-1])] for s in value}
    np.testing.assert_allclose(shapley(players, null)[-1], 0, atol=1e-12)
    alike = {s: np.full(2, float(len(s) ** 2)) for s in value}
    np.testing.assert_allclose(shapley(players, alike), len(players), atol=1e-12)


def test_shapley_by_hand():
    """Two right gloves and one left: a pair is worth 1; the left glove gets 2/3 of it."""
    worth = {s: float("text" in s and len(s) > 1) for n in range(4)
             for s in itertools.combinations(PLAYERS, n)}  # fmt: skip
    np.testing.assert_allclose(shapley(PLAYERS, worth), [2 / 3, 1 / 6, 1 / 6])


@given(st.integers(0, 2**20))
def test_odds_are_of_the_probabilities(seed):
    outputs = np.random.default_rng(seed).standard_normal((5, 4)).astype(np.float32)
    task = tasks.make("multiclass", list("abcd"))
    prob = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(targets.odds(task, jnp.asarray(outputs)),
                               np.log(prob / (1 - prob)), rtol=1e-3, atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(targets.values(task, outputs), prob, rtol=1e-4)
    np.testing.assert_array_equal(targets.chosen(task, jnp.asarray(outputs)), prob.argmax(axis=1))
    task = tasks.make("binary_pairs", ["joy", "fear"])
    described = tasks.describe(task, outputs[0])["values"]
    np.testing.assert_allclose(
        targets.values(task, outputs)[0], list(described.values()), rtol=1e-4
    )


def test_odds_do_not_level_off_where_a_class_is_sure():
    task = tasks.make("multiclass", list("abc"))
    slope = jax.grad(lambda x: targets.odds(task, x)[0, 0])(jnp.asarray([[60.0, 0.0, 1.0]]))
    np.testing.assert_allclose(slope[0, 0], 1)
    task = tasks.make("sentiment")
    assert targets.values(task, np.asarray([[0.5], [-2]])).ravel().tolist() == [0.5, -2]
    assert targets.constant(task, np.asarray([1.0, 2, 9])).tolist() == [2]
    task = tasks.make("sentiment", loss="ordinal")
    outputs = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_allclose(
        targets.odds(task, jnp.asarray(outputs))[:, 0], task.decode(outputs), rtol=1e-5
    )
    task = tasks.make("multilabel", ["joy", "fear"])
    assert targets.constant(task, np.asarray([[0, 1], [2, 1]])).tolist() == [0.5, 1]


@pytest.fixture(scope="module")
def opened(finished):
    experiment, params = runs.open_run(finished[0])
    # One shape is enough to compile here.
    return dataclasses.replace(experiment, buckets=experiment.buckets[-1:]), params


@pytest.fixture(scope="module")
def attributed(opened):
    return attribution.attribute(*opened, "test", rows=[3, 1, 30])


def test_attributions_are_of_the_frames_that_were_read(opened, attributed):
    experiment, params = opened
    assert [one.row for one in attributed] == [1, 3, 30]
    clean = inference.outputs(
        inference.make_step(experiment), params, experiment.split("test"), experiment
    )
    for one in attributed:
        np.testing.assert_allclose(one.outputs, clean[one.row], rtol=1e-4, atol=1e-5)
        assert one.answer == clean[one.row].argmax()
        lengths = dict(zip(experiment.dims, experiment.split("test").lengths[one.row], strict=True))
        assert set(one.attention) == {"text<-audio", "audio<-text"}
        for pair, weights in one.attention.items():
            assert len(weights) == lengths[pair.split("<-")[1]]
            assert (weights >= 0).all() and 0 < weights.sum() <= 1 + 1e-5
        for found in (one.gradient, one.integrated):
            assert {m: len(v) for m, v in found.items()} == lengths


def test_gradients_are_what_happens_to_the_odds(opened, attributed):
    """A frame moved a little; and all frames moved all the way to the mean."""
    experiment, params = opened
    one = attributed[0]
    split = experiment.split("test")
    step = next(i for i, (_, rows) in enumerate(split.plan(0)) if one.row in rows)
    batch, i = split[step], split.plan(0)[step][1].tolist().index(one.row)
    statistics = experiment.dataset.metadata["statistics"]
    features = {m: batch[m].astype(np.float32) for m in experiment.dims}
    away = {m: x - np.asarray(statistics[m]["mean"], np.float32) for m, x in features.items()}
    forward = inference.make_step(experiment)

    def odds(moved):
        changed = {m: features[m] - moved.get(m, np.float32(0)) * away[m] for m in features}
        outputs = forward(params, sharding.put(batch | changed, experiment.mesh))
        return float(targets.odds(experiment.task, jnp.asarray(outputs))[i, one.answer])

    t, h = int(np.abs(one.gradient["audio"]).argmax()), np.float32(0.05)
    nudge = np.zeros((1, features["audio"].shape[1], 1), np.float32)
    nudge[0, t] = h
    slope = (odds({"audio": -nudge}) - odds({"audio": nudge})) / (2 * h)
    assert slope == pytest.approx(one.gradient["audio"][t], rel=0.05)
    everything = dict.fromkeys(features, np.float32(1))
    total = sum(values.sum() for values in one.integrated.values())
    assert total == pytest.approx(odds({}) - odds(everything), rel=0.02, abs=1e-3)


def test_in_context_an_answer_is_explained_by_its_own_frames(tiny_dataset):
    config = small(tiny_dataset, **{"model.context": 2, "batch_size": 16})
    run = experiment.make(config)
    params, split, row = run.params(jax.random.key(0)), run.split("test"), 17
    rows = [row, int(split.plan(0)[0][1][0])]  # and the very first of its group
    found = {one.row: one for one in attribution.attribute(run, params, "test", rows)}
    assert found[rows[1]].context == {}
    one = found[row]
    assert set(one.context) <= {-2, -1}
    assert sum(one.context.values()) == pytest.approx(1, abs=1e-5)

    number = next(i for i, (_, members) in enumerate(split.plan(0)) if row in members)
    batch, members = split[number], split.plan(0)[number][1]
    at = len(split.around(members)[0]) + members.tolist().index(row)
    moved = {m: batch[m].copy() for m in run.dims}
    for m in moved:
        moved[m][at] = run.dataset.metadata["statistics"][m]["mean"]
    forward = inference.make_step(run)
    outputs = [forward(params, sharding.put(batch | x, run.mesh)) for x in ({}, moved)]
    np.testing.assert_allclose(one.outputs, outputs[0][at], rtol=1e-4, atol=1e-5)
    odds, mean = (float(targets.odds(run.task, jnp.asarray(x))[at, one.answer]) for x in outputs)
    total = sum(values.sum() for values in one.integrated.values())
    assert total == pytest.approx(odds - mean, rel=0.02, abs=1e-3)


@pytest.fixture(scope="module")
def explained(opened):
    return explain.explain(*opened, "test", [0, 7], "whole")


def test_modalities_share_what_is_predicted(opened, explained, finished):
    found, facts = explained
    for one in found:
        assert one.base + sum(one.shapley.values()) == pytest.approx(
            one.values[one.answer], abs=1e-5
        )
        assert sum(one.values.values()) == pytest.approx(1, abs=1e-5)
    results = json.loads((finished[0] / "results.json").read_text())
    assert sum(facts["shapley_of_metric"].values()) == pytest.approx(
        results["test"]["acc"] - results["trivial"]["test"]["acc"]
    )


class Checker(html.parser.HTMLParser):
    """Tags that do not match, and things that load, run or cannot be read aloud."""

    VOID = ("meta", "rect", "line", "br")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "srcset", "onclick", "onload", "xlink:href"} & set(attrs)
        assert not attrs.get("href", "").startswith(("http", "//", "data", "java"))
        if tag == "svg":
            assert attrs["role"] == "img" and attrs["aria-label"]
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open and "@import" not in page and "url(" not in page
    return checker


def test_pages_stand_alone_and_can_be_read_aloud(explained, tmp_path):
    names = explain.write(*explained, tmp_path / "out")
    assert names == ["test-000000", "test-000007"]
    for name in names:
        page = checked((tmp_path / "out" / f"{name}.html").read_text())
        assert page.seen.count("h1") == 1 and page.seen.count("h2") == 4
        assert page.seen.count("details") == 2  # text and audio
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    index = checked((tmp_path / "out" / "index.html").read_text())
    assert "test-000007" in index.text
    saved = json.loads((tmp_path / "out" / "explain.json").read_text())
    first = saved["explained"][0]
    assert first["id"] == "test-000000" and len(first["integrated"]["text"]) > 0
    assert not list(tmp_path.rglob("*partial*"))


def made_up(**changes):
    """An explanation of a score, with words, of a text without frames of sound."""
    tokens = ["[CLS]", "<b>", "good", "##ness", "&", "[SEP]"]
    values = np.linspace(-1, 1, len(tokens))
    frames = attribution.Attribution(
        0, np.asarray([1.25]), 0, {}, {"text": values}, {"text": -values}
    )
    fields = dict(
        id="a<script>alert('1')</script>", split="test", run="r", transcript="<i>good</i> & “so”",
        label="-0.50", values={"sentiment": -1.25}, answer="sentiment", base=0.5,
        shapley={"text": -1.75, "audio": 0.0}, seconds={"text": None, "audio": 0.05},
        tokens=tokens, found=frames, regression=True,
    )  # fmt: skip
    return explain.Explanation(**fields | changes)


def test_a_score_with_words_and_a_missing_modality(tmp_path):
    one = made_up()
    page = explain_page.page(one)
    text = " ".join(checked(page).text)
    assert "<script>alert('1')</script>" in text and "<i>good</i> & “so”" in text  # as text
    assert "-1.25" in text and "This utterance has none" in text
    assert "<li class='up on'" in page or "<li class='on'" in page  # goodness is one word
    explain_plots.draw(one, tmp_path / "one.png")
    unnamed = explain_page.page(made_up(tokens=None))
    assert "does not say which words" in unnamed and checked(unnamed)


def test_a_page_says_which_utterances_were_attended_to():
    one = made_up()
    assert "around it" not in explain_page.page(one)
    found = dataclasses.replace(one.found, context={-2: 0.25, 1: 0.75})
    page = explain_page.page(dataclasses.replace(one, found=found))
    cells = [text.strip() for text in checked(page).text]
    assert "The utterances around it" in cells
    assert cells[cells.index("2 before") + 1] == "0.250"
    assert cells[cells.index("1 after") + 1] == "0.750"
    alone = dataclasses.replace(one, found=dataclasses.replace(found, context={}))
    assert "first of its group" in explain_page.page(alone)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8))
def test_every_utterance_has_files_of_its_own(ids):
    names = explain.file_names(ids)
    assert len({name.lower() for name in names}) == len(ids)
    for name in names:
        assert name and name.lower() != "index" and not set(name) & set("/\\\0:") and name[0] != "."


def test_words_are_those_of_the_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "##ness", "bad", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    strings = bert.token_strings(tmp_path)
    assert strings("Goodness bad.") == ["[CLS]", "Good", "##ness", "bad", "##.", "[SEP]"]
    assert strings("  ") == []
    assert len(strings("Goodness bad.")) == len(bert.tokenizer(tmp_path)("Goodness bad."))


def test_an_utterance_that_is_not_there_is_one_line(finished):
    done = call("explain", f"--workdir={finished[0]}", "--ids=test-000003,nobody")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--ids=nobody: test of" in done.stderr and "it has test-000000" in done.stderr
