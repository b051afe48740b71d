"""Metrics against the field's own numbers, hand loops, scikit-learn, and their degenerate cases."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from imat_jax import metrics
from imat_jax.metrics import UndefinedMetricWarning

MEANS = ("acc", "bacc", "wf1", "macro_f1")
GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "metrics.npz"))


def announced(function, *args, **kwargs):
    """The result and {key: reason} of the warnings, which must be for exactly the nan entries."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    if function is metrics.ccc:
        result = {"ccc": result}
    assert all(w.category is UndefinedMetricWarning for w in caught), [str(w) for w in caught]
    reasons = dict(str(w.message).split(" is undefined: ") for w in caught)
    assert len(reasons) == len(caught)
    assert reasons.keys() == {key for key, value in result.items() if math.isnan(value)}
    assert all(type(value) is float for value in result.values())
    return result, reasons


def scored(function, *args, **kwargs):
    return announced(function, *args, **kwargs)[0]


def same(a, b, rel=1e-12):
    assert a == pytest.approx(b, rel=rel, abs=rel, nan_ok=True)


# ---- Oracles: plain loops, in integers and fractions as far as they go --------------------------


def loop_f1(true, decision, c):
    """F1 of class c, None if it is neither true nor decided."""
    pairs = [(t == c, d == c) for t, d in zip(true, decision, strict=True)]
    tp, fp, fn = (pairs.count(pair) for pair in ((True, True), (False, True), (True, False)))
    return Fraction(2 * tp, 2 * tp + fp + fn) if tp + fp + fn else None


def loop_scores(true, decision):
    true, decision, recalls = [int(t) for t in true], [int(d) for d in decision], []
    if not true:
        return dict.fromkeys(MEANS, math.nan)
    for c in set(true):
        of_c = [d == c for t, d in zip(true, decision, strict=True) if t == c]
        recalls.append(Fraction(sum(of_c), len(of_c)))
    f1 = {c: loop_f1(true, decision, c) for c in {*true, *decision}}
    return {
        "acc": sum(t == d for t, d in zip(true, decision, strict=True)) / len(true),
        "bacc": float(sum(recalls) / len(recalls)),
        "wf1": float(sum(Fraction(true.count(c), len(true)) * f1[c] for c in f1)),
        "macro_f1": float(sum(f1.values()) / len(f1)),
    }


def loop_auc(present, score):
    both = [(a, b) for a in score[present] for b in score[~present]]
    return sum(1 if a > b else 0.5 if a == b else 0 for a, b in both) / len(both)


def loop_moments(y, p):
    """Mean absolute error, Pearson r and CCC from exact moments, nan where undefined."""
    n, y, p = len(y), [Fraction(float(v)) for v in y], [Fraction(float(v)) for v in p]
    my, mp = sum(y) / n, sum(p) / n
    var_y, var_p = sum((v - my) ** 2 for v in y) / n, sum((v - mp) ** 2 for v in p) / n
    cov = sum((a - my) * (b - mp) for a, b in zip(y, p, strict=True)) / n
    spread = var_y + var_p + (my - mp) ** 2
    return {
        "mae": float(sum(abs(a - b) for a, b in zip(y, p, strict=True)) / n),
        "corr": float(cov) / math.sqrt(var_y) / math.sqrt(var_p) if var_y and var_p else math.nan,
        "ccc": float(2 * cov / spread) if spread else math.nan,
    }


def loop_sentiment(label, pred):
    y, p = [float(v) for v in label], [float(v) for v in pred]
    out = {key: loop_moments(y, p)[key] for key in ("mae", "corr")}
    for limit, key in ((3, "acc7"), (2, "acc5"), (1, "acc3")):
        # Python's round, too, takes a half to the even integer.
        classes = [[round(max(-limit, min(limit, v))) for v in x] for x in (y, p)]
        out[key] = loop_scores(*classes)["acc"]
    has0 = [(a >= 0, b >= 0) for a, b in zip(y, p, strict=True)]
    non0 = [(a > 0, b > 0) for a, b in zip(y, p, strict=True) if a != 0]
    for suffix, pairs in (("has0", has0), ("non0", non0)):
        true, decision = [a for a, _ in pairs], [b for _, b in pairs]
        right, swapped = loop_scores(true, decision), loop_scores(decision, true)
        out |= {f"acc2_{suffix}": right["acc"], f"wf1_{suffix}": right["wf1"]}
        out[f"wf1_{suffix}_legacy_swapped"] = swapped["wf1"]
    return out


def loop_sims(label, pred):
    """Classes by their half-open intervals, in float32 as the code of record compares them."""
    y, p = (np.clip(np.asarray(x, np.float32), -1, 1) for x in (label, pred))
    out = {key: loop_moments(y, p)[key] for key in ("mae", "corr")}
    for key, inner in (("acc2", [0]), ("acc3", [-0.1, 0.1]), ("acc5", [-0.7, -0.1, 0.1, 0.7])):
        edge = np.float32([-1.01, *inner, 1.01])
        classes = [[[a < v <= b for a, b in pairwise(edge)].index(True) for v in x] for x in (y, p)]
        scores = loop_scores(*classes)
        out |= {key: scores["acc"]} | ({"wf1": scores["wf1"]} if key == "acc2" else {})
    return out


def with_means(rows):
    """{name: {key: value}} as KEY/NAME and, as KEY, the mean over the names."""
    flat = {f"{key}/{name}": value for name, row in rows.items() for key, value in row.items()}
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    return flat | {key: np.mean([row[key] for row in rows.values()]) for key in keys}


# ---- The field's code ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "which", "limit", "keys"),
    [
        (metrics.sentiment, "mmsa", 9, "acc2_has0 wf1_has0 acc2_non0 wf1_non0 acc5 acc7 mae corr"),
        (metrics.sims, "sims", 9, "acc2 acc3 acc5 wf1 mae corr"),
        (metrics.sims, "sims", 1, "acc2 acc3 acc5 wf1 mae corr"),  # it clips by itself
    ],
)
def test_the_numbers_of_mmsa(function, which, limit, keys):
    """`keys` are ours in the order of the file's own names (`mmsa_names`, `sims_names`)."""
    ours = scored(function, *(np.clip(GOLDEN[key], -limit, limit) for key in ("label", "pred")))
    assert [round(ours[key], 4) for key in keys.split()] == GOLDEN[f"{which}_values"].tolist()


def test_the_lines_that_mult_prints_with_its_swapped_f1():
    ours = scored(metrics.sentiment, GOLDEN["label"], GOLDEN["pred"])
    lines = [line.split(":") for line in str(GOLDEN["mult_text"]).splitlines() if ":" in line]
    theirs = {name: float(value) for name, value in lines}
    assert round(ours["mae"], 7) == theirs["MAE"]  # printed from float32
    for name, key in (("mult_acc_7", "acc7"), ("mult_acc_5", "acc5"), ("Accuracy", "acc2_non0")):
        same(ours[key], theirs[name])
    same(ours["corr"], theirs["Correlation Coefficient"])
    same(ours["wf1_non0_legacy_swapped"], theirs["F1 score"])
    same(ours["wf1_non0_legacy_swapped"], float(GOLDEN["f1_non0_swapped"]))
    assert abs(ours["wf1_non0"] - theirs["F1 score"]) > 1e-4


def test_the_frozen_numbers_of_the_emotion_tasks():
    ours = scored(metrics.multilabel, GOLDEN["multilabel_true"], GOLDEN["multilabel_prob"])
    for key, theirs in (("bacc", "weighted_accuracy"), ("wf1", "weighted_f1")):
        same([ours[f"{key}/{k}"] for k in range(6)], GOLDEN[f"multilabel_{theirs}"].tolist())
        same(ours[key], GOLDEN[f"multilabel_{theirs}"].mean())
    ours = scored(metrics.multiclass, GOLDEN["class_true"], GOLDEN["class_logits"])
    names = ("accuracy", "macro_recall", "weighted_f1", "macro_f1")
    same(
        ours, {key: float(GOLDEN[f"class_{name}"]) for key, name in zip(MEANS, names, strict=True)}
    )


# ---- Hand loops and scikit-learn ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_value_on_a_cut_is_below_it_in_every_precision(dtype):
    """0.1 of float32 is more than 0.1 of float64: the cut must be rounded as the values are."""
    on_cut, below = np.array([[-0.7, -0.1, 0.1, 0.7], [-0.9, -0.3, 0.0, 0.3]]).astype(dtype)
    ours = scored(metrics.sims, below, on_cut)
    assert ours["acc3"] == ours["acc5"] == 1.0
    bits, prob = [[0], [1], [0]], np.array([[0.3], [0.32], [0.2]]).astype(dtype)
    assert scored(metrics.multilabel, bits, prob, threshold=0.3)["acc"] == 1.0
    assert scored(metrics.dimensions, bits, prob, ["valence"], threshold=0.3)["acc"] == 1.0


def test_multiclass_per_class():
    """fear is never found, joy only decided, disgust neither; equal logits go to the lowest."""
    logits = np.array([[9, 0, 0, 0], [5, 5, 0, 0], [0, 7, 7, 7], [0, 1, 1, 0]])  # 0 0 1 1
    names = ("neutral", "joy", "fear", "disgust")
    ours, reasons = announced(metrics.multiclass, [0, 0, 0, 2], logits, class_names=names)
    expected = {"acc": 1 / 2, "bacc": 1 / 3, "wf1": 3 / 4 * 4 / 5, "macro_f1": 4 / 5 / 3}
    f1, recall = (4 / 5, 0, 0, math.nan), (2 / 3, math.nan, 0, math.nan)
    expected |= {f"f1/{name}": value for name, value in zip(names, f1, strict=True)}
    expected |= {f"recall/{name}": value for name, value in zip(names, recall, strict=True)}
    same(ours, expected)
    assert reasons["f1/disgust"] == "no utterance is of this class or was taken for it"


def test_confusion_rows_are_true_classes_and_padding_is_not_counted():
    weight = [1, 1, 1, 1, 1, 1, 0]
    counts = metrics.confusion([0, 0, 1, 2, 2, 2, -1], [0, 1, 1, 0, 0, 2, 9], 3, weight=weight)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert counts.dtype.kind == metrics.confusion([], [], 2).dtype.kind == "i"


@pytest.mark.parametrize("threshold", [0.5, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]])
def test_multilabel(threshold):
    rng = np.random.default_rng(0)
    label = np.maximum(rng.integers(-5, 10, (120, 6)), 0) / 3  # intensities 0…3
    prob = np.round(0.25 + 0.4 * (label > 0) + 0.25 * rng.normal(size=(120, 6)), 1)  # many ties
    prob = np.clip(prob, 0, 1).astype(np.float32)
    true, decision = label > 0, prob > np.resize(np.float32(threshold), 6)
    per_emotion = {}
    for j, name in enumerate("abcdef"):
        t, d = true[:, j], decision[:, j]
        loops = per_emotion[name] = loop_scores(t, d) | {"auc": loop_auc(t, prob[:, j])}
        # "Weighted accuracy" as MME2E and Tong et al. write it.
        num_p, num_n, tp, tn = t.sum(), (~t).sum(), (t & d).sum(), (~t & ~d).sum()
        same(loops["bacc"], (tp * num_n / num_p + tn) / (2 * num_n))
        same(loops["bacc"], sk.balanced_accuracy_score(t, d))
        same(loops["wf1"], sk.f1_score(t, d, average="weighted"))
        same(loops["macro_f1"], sk.f1_score(t, d, average="macro"))
        same(loops["auc"], sk.roc_auc_score(t, prob[:, j]))
    expected = with_means(per_emotion)
    same(expected["acc"], np.mean(true == decision))  # right bits / (N K)
    sets = [[set(np.flatnonzero(x)) for x in row] for row in zip(true, decision, strict=True)]
    expected["strict_acc"] = sk.accuracy_score(true, decision)
    expected["subset_acc"] = sum(t == d or (bool(d) and d <= t) for t, d in sets) / 120
    expected["intersect_acc"] = sum(t == d or bool(t & d) for t, d in sets) / 120
    same(scored(metrics.multilabel, label, prob, threshold, names="abcdef"), expected)


def test_multilabel_set_accuracies():
    label = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 0]])
    prob = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]])
    ours = scored(metrics.multilabel, label, prob)
    assert ours["strict_acc"] == 2 / 7  # rows 0 and 2
    assert ours["subset_acc"] == 3 / 7  # and row 3; nothing decided (row 4) is no subset
    assert ours["intersect_acc"] == 4 / 7  # and row 5, where the false alarm comes before the hit
    assert ours == scored(metrics.multilabel, label > 0, prob > 0, names=("0", "1", "2"))


def test_binary_pairs():
    rng = np.random.default_rng(4)
    label = np.eye(4, dtype=int)[rng.choice(4, 150, p=[0.4, 0.3, 0.2, 0.1])]
    logits = np.round(rng.normal(size=(150, 4, 2)) + np.eye(2)[label])
    decision = logits[..., 1] > logits[..., 0]
    assert np.mean(logits[..., 0] == logits[..., 1]) > 0.1  # many ties, and they mean "no"
    expected = with_means({j: loop_scores(label[:, j], decision[:, j]) for j in range(4)})
    same(scored(metrics.binary_pairs, label, logits), expected)
    same(expected["acc"], np.mean(decision == label))  # right bits / (N K)
    never = scored(metrics.binary_pairs, label, np.broadcast_to([1.0, 0.0], (150, 4, 2)))
    assert (never["acc"], never["bacc"]) == (0.75, 0.5)  # the trivial baseline of one-hot labels


def test_dimensions():
    rng = np.random.default_rng(5)
    label = rng.integers(2, 11, (90, 3)) / 2  # ratings 1…5 in halves
    pred = label + rng.normal(size=(90, 3)) * [0.3, 0.8, 1.5] + [0, 0.2, -0.4]
    pred[:9], threshold = 3.0, [3.0, 2.5, 3.5]
    per_dimension = {}
    for j, name in enumerate(("valence", "arousal", "dominance")):
        loops = per_dimension[name] = loop_moments(label[:, j], pred[:, j])
        same(metrics.ccc(label[:, j], pred[:, j]), loops["ccc"])
        high, decided = ([v > threshold[j] for v in x[:, j]] for x in (label, pred))
        loops |= loop_scores(high, decided)
        del loops["wf1"]
    expected = with_means(per_dimension)
    same(scored(metrics.dimensions, label, pred, threshold=threshold), expected)
    plain = {k: v for k, v in expected.items() if k.split("/")[0] in ("ccc", "mae", "corr")}
    same(scored(metrics.dimensions, label, pred), plain)


# ---- Degenerate sets and exact decisions --------------------------------------------------------


def test_zeros_and_minus_zeros():
    ours = scored(metrics.sentiment, [-0.0, 0.0, 1.0, -1.0], [0.0, -0.0, -0.0, -0.0])
    assert ours["acc2_has0"] == 0.75  # -0.0 >= 0, so only the label -1 is missed
    assert ours["acc2_non0"] == 0.5  # both zero labels are left out; -0.0 is not positive
    reasons = announced(metrics.sentiment, [0.0, -0.0, 0.0, 0.0], [-1.0, 0.0, 0.2, 1.0])[1]
    assert reasons.pop("corr") == "label is constant over the 4 utterances"
    assert reasons.keys() == {"acc2_non0", "wf1_non0", "wf1_non0_legacy_swapped"}
    assert set(reasons.values()) == {"no utterances with a non-zero label"}


def test_correlation_and_concordance_of_constants():
    for n in (3, 7, 10, 1000):  # the mean of n times 0.1 is not always 0.1
        constant, varied = np.full(n, 0.1), np.linspace(-1, 0.5, n)
        for function in (metrics.sentiment, metrics.sims):
            why = {"corr": f"pred is constant over the {n} utterances"}
            assert announced(function, varied, constant)[1] == why
        assert metrics.ccc(varied, constant) == 0.0
        with pytest.warns(UndefinedMetricWarning, match="^ccc is undefined: .* same constant$"):
            assert math.isnan(metrics.ccc(constant, constant))
    assert scored(metrics.sentiment, np.arange(6) / 3, np.arange(6) / 3)["corr"] <= 1  # and no ulp
    assert "corr" in announced(metrics.sims, [-0.5, 0.0, 0.5], [1.1, 1.5, 3.0])[1]  # after clipping


def test_one_class_only():
    ours = scored(metrics.sentiment, [1.0, 2.0, 3.0], [1.0, -1.0, 2.0])
    same(ours["wf1_non0"], 4 / 5)  # the F1 of the positives
    same(ours["wf1_non0_legacy_swapped"], 2 / 3 * 4 / 5)  # the negatives' F1 of 0 weighs 1/3
    label, prob = [[1, 0], [0, 0], [1, 0]], [[0.9, 0.1], [0.2, 0.2], [0.7, 0.8]]
    ours, reasons = announced(metrics.multilabel, label, prob, names=("happy", "fear"))
    one_class = "the labels hold one class only"
    assert reasons == {"auc/fear": one_class, "auc": "it is undefined for fear"}
    assert ours["auc/happy"] == 1.0
    assert ours["bacc/fear"] == 2 / 3  # the recall of the only class there is
    absent = scored(metrics.binary_pairs, [[0], [0]], [[[1, 0]], [[1, 0]]])
    assert set(absent.values()) == {1.0}  # nothing present, nothing decided


def test_ties_round_to_the_even_integer_and_their_float32_neighbours_do_not():
    tie, away = np.float32([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5], [1, 1, 3, -1, -1, -3]])
    assert scored(metrics.sentiment, [0, 2, 2, 0, -2, -2], tie)["acc7"] == 1.0
    assert scored(metrics.sentiment, away, tie)["acc7"] == 0.0
    assert scored(metrics.sentiment, away, np.nextafter(tie, away))["acc7"] == 1.0


# Empty sets and wrong inputs, of every family: shapes of label and output, output's name, keywords
FAMILIES = {
    metrics.sentiment: ((6,), (6,), "pred", {}),
    metrics.sims: ((6,), (6,), "pred", {}),
    metrics.ccc: ((6,), (6,), "pred", {}),
    metrics.multiclass: ((6,), (6, 3), "logits", {"class_names": "abc"}),
    metrics.multilabel: ((6, 3), (6, 3), "prob", {}),
    metrics.binary_pairs: ((6, 3), (6, 3, 2), "logits", {}),
    metrics.dimensions: ((6, 3), (6, 3), "pred", {"threshold": 0.5}),
}


@pytest.fixture(params=FAMILIES, ids=lambda function: function.__name__)
def family(request):
    """A function of label and output, valid inputs for it, and the name of the output."""
    label, output, name, keywords = FAMILIES[request.param]
    rng = np.random.default_rng(0)
    function = partial(announced, request.param, **keywords)
    return function, rng.integers(0, 2, label), rng.uniform(size=output), name


def test_no_utterances_give_nan_for_every_key(family):
    function, label, output, _ = family
    empty, padding = function(label[:0], output[:0]), function(label, output, weight=[0] * 6)
    for nothing, reasons in (empty, padding):
        assert nothing.keys() == reasons.keys() == function(label, output)[0].keys()
        assert all(why.startswith(("no utterance", "it is undef")) for why in reasons.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_number_is_an_error_and_not_a_wrong_answer(family, bad):
    function, label, output, name = family
    for broken, start in ((output.copy(), name), (label.astype(float), "label")):
        broken.flat[-1] = bad
        with pytest.raises(ValueError, match=rf"^{start} \(shape \(6,.* holds 1 non-finite"):
            function(*((label, broken) if start == name else (broken, output)))
    for dtype in ("U", complex):
        with pytest.raises(ValueError, match=f"^{name} must hold real numbers"):
            function(label, output.astype(dtype))


def test_mismatched_shapes_are_an_error_and_never_broadcast(family):
    function, label, output, name = family
    pairs = [(label[:-1], output), (label, output[:-1]), (label[..., None], output)]
    pairs += [(label, output[..., None]), (label[0], output), (label[:1], output), (0, output)]
    for a, b in pairs:
        with pytest.raises(ValueError, match=f"^label and {name} must have shapes") as error:
            function(a, b)
        assert str(error.value).endswith(f"got {np.shape(a)} and {np.shape(b)}")


def test_weights_are_zero_or_one_a_row(family):
    function, label, output, _ = family
    for bad in (0.5, -1, 2, np.nan):
        with pytest.raises(ValueError, match=r"^weight \(shape \(6,\)\) must be 0 or 1"):
            function(label, output, weight=[1, 1, 1, 1, 1, bad])
    for weight in ([1] * 5, np.ones((6, 1)), 1):
        with pytest.raises(ValueError, match=r"^weight must have shape \(6,\), got"):
            function(label, output, weight=weight)


def test_other_wrong_inputs():
    x = np.zeros((2, 3))
    for call, message in (
        (lambda: metrics.multiclass([0, 3], x), r"^label \(shape \(2,\)\) .* from 0 to 2"),
        (lambda: metrics.multiclass([-1, 0], x), "^label .* integers from 0 to 2"),
        (lambda: metrics.multiclass([0.5, 1], x), "^label .* integers from 0 to 2"),
        (lambda: metrics.confusion([0, 1], [0, 2], 2), "^decision .* integers from 0 to 1"),
        (lambda: metrics.multiclass([0, 0], x[:, :1]), r"^logits .* two classes .* \(2, 1\)"),
        (lambda: metrics.multiclass([0, 0], x, class_names=()), "^class_names must be 3 different"),
        (lambda: metrics.binary_pairs(x, np.zeros((2, 3, 3))), r"^logits .* \[N, K, 2\], got"),
        (lambda: metrics.binary_pairs(x + 2, np.zeros((2, 3, 2))), "^label .* from 0 to 1"),
        (lambda: metrics.multilabel(x, x - 0.01), "^prob .* not logits"),
        (lambda: metrics.multilabel(x, x + 1.01), "^prob .* not logits"),
        (lambda: metrics.multilabel(x, x, [0.5, 0.5]), "^threshold must be one number"),
        (lambda: metrics.multilabel(x, x, np.nan), "^threshold .* 1 non-finite"),
        (lambda: metrics.dimensions(x, x, threshold=[[1, 1, 1]]), "^threshold must be one number"),
        (lambda: metrics.dimensions(x, x, ("a", "b", "a")), "^names must be 3 different"),
        (lambda: metrics.multilabel(x[:, :0], x[:, :0]), "^names .* at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# ---- Properties ---------------------------------------------------------------------------------

quick = settings(max_examples=60, deadline=None)
score = st.sampled_from([k / 6 for k in range(-24, 25)] + [-0.0]) | st.floats(-4, 4, width=32)
scores = st.lists(st.tuples(score, score), min_size=1, max_size=30).map(lambda x: np.float32(x).T)


@st.composite
def tasks(draw):
    """A function, its label, its output, the output that repeats the label, and keywords."""
    n, k = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    step = draw(st.sampled_from([0.01, 0.5]))  # the coarse one makes ties and constants
    real = np.round(rng.uniform(-4, 4, (n, k)) / step) * step
    guess = np.round((real + rng.normal(size=(n, k))) / step) * step
    bits, label = rng.integers(0, 2, (n, k)), rng.integers(0, k, n)
    names = {"names": list("abcd")[:k]}
    cases = [
        (metrics.sentiment, real[:, 0], guess[:, 0], real[:, 0], {}),
        (metrics.sims, real[:, 0], guess[:, 0], real[:, 0], {}),
        (metrics.ccc, real[:, 0], guess[:, 0], real[:, 0], {}),
        (metrics.multiclass, label, guess, np.eye(k)[label], {}),
        (metrics.multilabel, real, np.clip(guess / 8 + 0.5, 0, 1), 1.0 * (real > 0), names),
        (metrics.binary_pairs, bits, np.stack([real, guess], -1), np.eye(2)[bits], names),
        (metrics.dimensions, real, guess, real, names | {"threshold": 0.5}),
    ]
    return draw(st.sampled_from(cases))


@quick
@given(tasks(), st.data())
def test_order_and_padding_do_not_matter(task, data):
    function, label, output, _, keywords = task
    plain, n = scored(function, label, output, **keywords), len(label)
    order = data.draw(st.permutations(range(n)))
    same(scored(function, label[order], output[order], **keywords), plain, rel=1e-9)
    places = data.draw(st.lists(st.integers(0, n), max_size=6))
    padded = (np.insert(x.astype(float), places, np.nan, axis=0) for x in (label, output))
    weight = np.insert(np.ones(n), places, 0).astype(data.draw(st.sampled_from([np.float32, bool])))
    same(scored(function, *padded, weight=weight, **keywords), plain, rel=0)


@quick
@given(tasks())
def test_ranges_and_the_truth_itself_scores_best(task):
    function, label, output, truth, keywords = task
    for key, value in scored(function, label, output, **keywords).items():
        low, high = -1 if key.startswith(("corr", "ccc")) else 0, 99 if "mae" in key else 1 + 1e-12
        assert math.isnan(value) or low <= value <= high, key
    for key, value in scored(function, label, truth, **keywords).items():
        assert math.isnan(value) or abs(value - ("mae" not in key)) < 1e-12, key


@quick
@given(scores)
def test_any_scores_by_hand(pair):
    y, p = pair
    same(scored(metrics.sentiment, y, p), loop_sentiment(y, p), rel=1e-9)
    same(scored(metrics.sims, y, p), loop_sims(y, p), rel=1e-9)
    concordance = scored(metrics.ccc, y, p)["ccc"]
    same(concordance, loop_moments(y, p)["ccc"], rel=1e-9)
    assume(np.ptp(y) > 0 and np.ptp(p) > 0)
    assert metrics.ccc(y, y) == 1.0
    assert abs(concordance) <= abs(scored(metrics.sentiment, y, p)["corr"]) + 1e-9


@quick
@given(scores)
def test_weighted_f1_in_both_argument_orders(pair):
    """swapped - right = sum over the classes of (decided share - true share) times F1."""
    (y, p), ours = pair, scored(metrics.sentiment, *pair)
    assume(np.any(y != 0))
    has0, non0 = (y >= 0, p >= 0), (y[y != 0] > 0, p[y != 0] > 0)
    for suffix, true, decision in (("has0", *has0), ("non0", *non0)):
        right, swapped = ours[f"wf1_{suffix}"], ours[f"wf1_{suffix}_legacy_swapped"]
        same(right, sk.f1_score(true, decision, average="weighted"))
        same(swapped, sk.f1_score(decision, true, average="weighted"))
        shift = {c: np.mean(decision == c) - np.mean(true == c) for c in (False, True)}
        same(swapped - right, sum(shift[c] * (loop_f1(true, decision, c) or 0) for c in shift))


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_any_classes_by_hand_and_by_sklearn(pairs):
    label, decision = np.array(pairs).T
    ours = scored(metrics.multiclass, label, np.eye(5)[decision], class_names="abcde")
    f1 = {f"f1/{c}": loop_f1(label, decision, i) for i, c in enumerate("abcde")}
    expected = {key: math.nan if value is None else float(value) for key, value in f1.items()}
    expected |= loop_scores(label, decision)
    same({key: value for key, value in ours.items() if "recall" not in key}, expected)
    same(ours["wf1"], sk.f1_score(label, decision, average="weighted"))
    same(ours["macro_f1"], sk.f1_score(label, decision, average="macro"))
    present = np.unique(label)
    same(ours["bacc"], sk.recall_score(label, decision, labels=present, average="macro"))
    matrix = sk.confusion_matrix(label, decision, labels=range(5))
    assert np.array_equal(metrics.confusion(label, decision, 5), matrix)
