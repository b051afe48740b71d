"""Protocols: who is tested on what, and what is said when it is not the published set."""

import dataclasses

import numpy as np
import pytest

from imat_jax.data import builder, ids, protocols
from imat_jax.data.corpus import Corpus, DataError, Modality, Utterance
from imat_jax.data.dataset import Dataset
from imat_jax.data.sources import npz

SESSIONS = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}
RAW = ("neu", "sad", "ang", "hap", "exc", "fru", "xxx")


def corpus(utterances, **kw):
    return Corpus(
        name="made",
        utterances=[dataclasses.replace(u, row=i) for i, u in enumerate(utterances)],
        modalities={"audio": Modality(dim=2)},
        read=lambda row: {"audio": np.full((3, 2), row, np.float32)},
        label_names={
            "dimensions": ("valence", "arousal", "dominance"),
            "emotions": ids.EMOTIONS,
            "pairs": ("neutral", "happy", "sad", "angry"),
        },
        **kw,
    )


def iemocap(a_session=14):
    """`a_session` utterances of each session, all kinds of emotion in turn."""
    return corpus(
        Utterance(
            id=f"Ses0{s}F_impro01_F{i:03d}",
            row=0,
            annotations={"category": RAW[i % len(RAW)], "dimensions": [2.5, 3.0, 3.5]},
            group=f"Ses0{s}F_impro01",
        )
        for s in SESSIONS
        for i in range(a_session)
    )


@pytest.mark.parametrize("fold", range(1, 6))
def test_validation_is_never_the_session_that_is_tested(fold):
    applied = protocols.apply(iemocap(), "iemocap-4way-loso", fold)
    sessions = {
        s: {protocols.session(u) for u in utterances} for s, utterances in applied.splits().items()
    }
    assert sessions["test"] == {fold}
    assert len(sessions["valid"]) == 1 and len(sessions["train"]) == 3
    assert not sessions["valid"] & sessions["test"] and not sessions["train"] & sessions["valid"]
    assert {u.annotations["category"] for u in applied.utterances} == {*RAW} - {"fru", "xxx"}
    label = {u.annotations["category"]: applied.class_names[u.label] for u in applied.utterances}
    assert label == dict(neu="neutral", sad="sad", ang="angry", hap="happy", exc="happy")
    assert any(f"published are {SESSIONS[fold]}" in w for w in applied.warnings)


def test_the_same_corpus_under_other_protocols():
    vad = protocols.apply(iemocap(), "iemocap-vad", 2)
    assert vad.task == "dimensions" and vad.utterances[0].label == [2.5, 3.0, 3.5]
    six = protocols.apply(iemocap(), "iemocap-6way")
    assert {protocols.session(u) for u in six.splits()["test"]} == {5}
    assert "excited" in {six.class_names[u.label] for u in six.utterances}


def sseft():
    """Four of valid are in test, as in the published manifests."""
    emotions = ("neu", "sad", "ang", "hap", "exc")
    rows = [("train", f"{i}_s_1_x", emotions[i % 5]) for i in range(20)]
    rows += [("valid", f"{i}_s_5_x", emotions[i]) for i in range(4)]
    rows += [("test", f"{i}_s_5_x", emotions[i % 5]) for i in range(10)]
    return corpus(Utterance(name, 0, {"category": c}, split) for split, name, c in rows)


def test_the_published_iemocap_split_leaks_and_says_so(tmp_path):
    published = protocols.apply(sseft(), "iemocap-binary-published")
    assert any("selection leaks" in w for w in published.warnings)
    assert {s: len(v) for s, v in published.splits().items()} == {
        "train": 16,
        "valid": 4,
        "test": 8,
    }
    builder.build(published, tmp_path / "d", progress=False)
    warnings = Dataset.open(tmp_path / "d").metadata["warnings"]
    assert any("selection leaks" in w for w in warnings)


def test_the_disjoint_one_does_not(tmp_path):
    disjoint = protocols.apply(sseft(), "iemocap-binary")
    splits = disjoint.splits()
    assert len(splits["test"]) == 4
    assert not {u.id for u in splits["test"]} & {u.id for u in splits["valid"]}
    assert splits["train"][0].label == [1, 0, 0, 0]
    builder.build(disjoint, tmp_path / "d", progress=False)  # no group is in two splits
    undecided = dataclasses.replace(sseft(), task="")
    with pytest.raises(DataError, match="is in split 'valid' and"):
        builder.build(undecided, tmp_path / "e", progress=False)


def test_pairs_are_put_in_the_order_of_the_protocol():
    made = corpus(
        [Utterance("a", 0, {"pairs": [1, 0, 0, 1]}, s) for s in ("train", "valid", "test")],
    )
    applied = protocols.apply(made, "iemocap-binary-published")
    assert applied.class_names == ("neutral", "sad", "angry", "happy")
    assert applied.utterances[0].label == [1, 0, 1, 0]


def test_actors():
    made = corpus(
        Utterance(f"03-01-01-01-01-01-{a:02d}", 0, {"category": "calm"}) for a in range(1, 25)
    )
    splits = protocols.apply(made, "ravdess-8way").splits()
    assert {s: len(v) for s, v in splits.items()} == {"train": 16, "valid": 4, "test": 4}
    tested = []
    for fold in range(1, 7):
        splits = protocols.apply(made, "ravdess-8way-6fold", fold).splits()
        assert [len(v) for v in splits.values()] == [16, 4, 4]
        tested += [protocols.actor(u) for u in splits["test"]]
    assert sorted(tested) == list(range(1, 25))


def test_what_is_missing_is_said_by_id():
    wanted = protocols.fold_list("mosei")
    everything = [
        Utterance(f"{video}[{k}]", 0, {"sentiment": 0.0, "emotions": [0] * 6}, group=video)
        for videos in wanted.values()
        for video, segments in videos.items()
        for k in segments
    ]
    lost = next(i for i, u in enumerate(everything) if u.id.endswith("[3]"))
    applied = protocols.apply(corpus(everything[:lost] + everything[lost + 1 :]), "mosei-sentiment")
    assert any(f"train lacks utterances: {everything[lost].id}" in w for w in applied.warnings)
    complete = protocols.apply(corpus(everything), "mosei-emotion6")
    assert not any("lacks utterances" in w for w in complete.warnings)
    assert complete.task == "multilabel" and len(complete.class_names) == 6


def test_meld_dialogues_are_told_apart_by_their_split():
    made = corpus(
        Utterance(f"dia0_utt{k}", 0, {"category": "joy"}, split, f"{split}/dia0", k)
        for split in ("train", "valid", "test")
        for k in range(2)
    )
    applied = protocols.apply(made, "meld-7way")
    assert any("train lacks 1037 videos or dialogues: 1, 2," in w for w in applied.warnings)
    assert any("train lacks utterances: 0[2]" in w for w in applied.warnings)


def test_the_standard_folds_of_mosi(corpora):
    applied = protocols.apply(npz.corpus(corpora / "mosi_text_audio.npz"), "mosi-sentiment")
    sizes = {s: len(v) for s, v in applied.splits().items()}
    assert sizes == {"train": 1284, "valid": 229, "test": 686}
    assert applied.warnings == ()


@pytest.mark.parametrize(
    ("name", "fold", "message"),
    [
        ("mosi", None, "no protocol 'mosi'; there are mosi-sentiment, "),
        ("iemocap-4way-loso", None, "has 5 folds: give --fold=1"),
        ("iemocap-4way-loso", 6, "has 5 folds"),
        ("iemocap-6way", 1, "one split and no folds"),
        ("mosi-sentiment", None, "no utterance is left under mosi-sentiment: 70 without a sent"),
        ("ravdess-8way", None, "no RAVDESS actor"),
        ("meld-7way", None, "no utterance is left"),
    ],
)
def test_what_does_not_go_together_is_said(name, fold, message):
    made = iemocap()
    if name == "ravdess-8way":
        made = corpus([Utterance("x", 0, {"category": "calm"})])
    with pytest.raises(DataError, match=message):
        protocols.apply(made, name, fold)


def test_a_validation_split_can_be_held_out_by_group():
    made = corpus(
        Utterance(f"u{i}", 0, {"sentiment": 0.0}, "train" if i < 180 else "test", f"g{i // 3}")
        for i in range(200)
    )
    held = protocols.hold_out(made, 0.2)
    splits = held.splits()
    assert 15 < len(splits["valid"]) < 60 and len(splits["test"]) == 20
    assert not {u.group for u in splits["valid"]} & {u.group for u in splits["train"]}
    with pytest.raises(DataError, match="a validation split already"):
        protocols.hold_out(held, 0.2)
