"""Protocols: a corpus with a split rule, a label space, a task and its published counts.

A source keeps what the annotators said; a protocol decides who is tested on what. Applying one
changes no feature: it picks the utterances, their split and their label, and compares the counts
with those published.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imat_jax.data import ids
from imat_jax.data.corpus import UNSPLIT, Corpus, DataError, Utterance, split_name

Rule = Callable[[Utterance, int], str | None]  # (utterance, fold) -> split; None leaves it out


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to report on a corpus.

    Attributes:
      task: a name in `tasks.TASKS`.
      kind: the annotation that the label is made from, see `Utterance.annotations`.
      class_names: of the classes, or of the columns.
      classes: {name in the source, lower case: class}; a category that is not here is left out.
      rule: who is in which split; None: as the source has it.
      folds: number of folds; 0: there is one split.
      counts: published number of utterances: {split: n}, or {"all": n}, or {"fold 1": n of its
        test split, …}.
      fold_list: name of the list of ids in `folds/`, to say what is missing.
      valid_out_of_test: utterances of valid that the source has in test too stay in valid only.
      warning: what is wrong with it, for protocols that are kept because they were published.
    """

    name: str
    task: str
    kind: str
    class_names: tuple[str, ...] = ()
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rule: Rule | None = None
    folds: int = 0
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fold_list: str = ""
    valid_out_of_test: bool = False
    warning: str = ""
    reference: str = ""


@functools.cache
def fold_list(name: str) -> dict[str, dict[str, list[int] | None]]:
    """{split: {video or dialogue: its segments, None where the list has none}}."""
    text = importlib.resources.files("imat_jax.data").joinpath(f"folds/{name}.json").read_text()
    return json.loads(text)


def by_list(name: str) -> Rule:
    @functools.cache
    def split_of() -> dict[str, str]:
        return {group: split for split, groups in fold_list(name).items() for group in groups}

    return lambda utterance, fold: split_of().get(utterance.group)


def session(utterance: Utterance) -> int:
    """1 to 5, of IEMOCAP, from `Ses03F_impro01_M004` or SSE-FT's `12_s_3_ang`.

    Raises:
      DataError: an id of neither form.
    """
    match = re.search(r"Ses0([1-5])|_s_([1-5])_", utterance.id)
    if not match:
        raise DataError(f"{utterance.id!r}: no IEMOCAP session in this id, such as Ses03F_…")
    return int(match[1] or match[2])


def leave_one_session_out(utterance: Utterance, fold: int) -> str:
    """Fold k is tested on session k and validated on the next one."""
    return {fold: "test", fold % 5 + 1: "valid"}.get(session(utterance), "train")


def last_session(utterance: Utterance, fold: int) -> str:
    """Test on session 5; valid: every tenth dialogue of the others, by the letters of its name."""
    if session(utterance) == 5:
        return "test"
    return "valid" if sum(map(ord, utterance.group)) % 10 == 0 else "train"


def actor(utterance: Utterance) -> int:
    """1 to 24, of RAVDESS: the group, or the last number of `03-01-06-01-02-01-12`."""
    match = re.search(r"(\d+)$", utterance.group) or re.search(r"(\d+)$", utterance.id)
    if not match or not 1 <= int(match[1]) <= 24:
        raise DataError(f"{utterance.id!r}: no RAVDESS actor (1 to 24) in its group or id")
    return int(match[1])


def actors_16_4_4(utterance: Utterance, fold: int) -> str:
    number = actor(utterance)
    return "train" if number <= 16 else "valid" if number <= 20 else "test"


def six_folds_of_actors(utterance: Utterance, fold: int) -> str:
    """Fold k is tested on actors 4k - 3 to 4k and validated on the next four."""
    block = (actor(utterance) - 1) // 4 + 1
    return {fold: "test", fold % 6 + 1: "valid"}.get(block, "train")


def _aliases(**classes: str) -> dict[str, str]:
    """happy="hap exc" -> {"happy": "happy", "hap": "happy", "exc": "happy"}."""
    return {alias: c for c, names in classes.items() for alias in (c, *names.split())}


FOUR = dict(neutral="neu", sad="sadness", angry="ang anger")
BINARY = dict(
    task="binary_pairs",
    kind="category",
    class_names=("neutral", "sad", "angry", "happy"),
    classes=_aliases(**FOUR, happy="hap happiness"),
    reference="Siriwardhana et al. 2020, IEMOCAP: excited is left out, not merged",
)
MOSEI = dict(rule=by_list("mosei"), fold_list="mosei")
SIX = ("happy", "sad", "anger", "surprise", "disgust", "fear")
EIGHT = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
RAVDESS = dict(task="multiclass", kind="category", class_names=EIGHT, classes={c: c for c in EIGHT})

PROTOCOLS = {
    p.name: p
    for p in [
        Protocol(
            "mosi-sentiment", "sentiment", "sentiment", rule=by_list("mosi"), fold_list="mosi",
            counts={"train": 1284, "valid": 229, "test": 686},
            reference="CMU-MOSI, standard folds of CMU-MultimodalSDK",
        ),
        Protocol(
            "mosei-sentiment", "sentiment", "sentiment", **MOSEI,
            counts={"train": 16326, "valid": 1871, "test": 4659},
            reference="CMU-MOSEI, standard folds; counts of the feature files in use",
        ),
        Protocol(
            "mosei-emotion6", "multilabel", "emotions", SIX, **MOSEI,
            counts={"train": 16326, "valid": 1871, "test": 4659},
            reference="CMU-MOSEI, six emotions, present where the intensity is above 0",
        ),
        Protocol(
            "sims-sentiment", "dimensions", "sentiment", ("sentiment",),
            counts={"train": 1368, "valid": 456, "test": 457},
            reference="CH-SIMS, scores in [-1, 1]: not the classes of CMU-MOSI",
        ),
        Protocol(
            "iemocap-4way-loso", "multiclass", "category", ("neutral", "sad", "angry", "happy"),
            classes=_aliases(**FOUR, happy="hap happiness exc excited"),
            rule=leave_one_session_out, folds=5,
            counts={f"fold {k}": n for k, n in enumerate((1085, 1023, 1151, 1031, 1241), 1)},
            reference="5531 utterances, excited merged with happy, one session left out",
        ),
        Protocol(
            "iemocap-6way", "multiclass", "category",
            ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
            classes=_aliases(
                **FOUR, happy="hap happiness", excited="exc excitement",
                frustrated="fru frustration",
            ),
            rule=last_session, counts={"all": 7433, "test": 1623},
            reference="dialogue papers: session 5 is the test set",
        ),
        Protocol(
            "iemocap-vad", "dimensions", "dimensions", ("valence", "arousal", "dominance"),
            rule=leave_one_session_out, folds=5, counts={"all": 10039},
            reference="means of the annotators, 1 to 5; the midpoint is 3",
        ),
        Protocol("iemocap-binary", **BINARY, valid_out_of_test=True,
                 counts={"train": 3521, "valid": 399, "test": 543}),
        Protocol(
            "iemocap-binary-published", **BINARY,
            counts={"train": 3521, "valid": 399, "test": 942},
            warning="all validation utterances are in the test set: selection leaks into the "
            "score. Use it only to compare with the published numbers; iemocap-binary is disjoint",
        ),
        Protocol(
            "meld-7way", "multiclass", "category",
            ("neutral", "sadness", "anger", "joy", "surprise", "fear", "disgust"),
            classes={c: c for c in "neutral sadness anger joy surprise fear disgust".split()},
            fold_list="meld", counts={"train": 9989, "valid": 1109, "test": 2610},
        ),
        Protocol("ravdess-8way", **RAVDESS, rule=actors_16_4_4,
                 counts={"train": 960, "valid": 240, "test": 240},
                 reference="actors 1-16, 17-20, 21-24"),
        Protocol("ravdess-8way-6fold", **RAVDESS, rule=six_folds_of_actors, folds=6,
                 counts={f"fold {k}": 240 for k in range(1, 7)},
                 reference="six folds of four actors"),
    ]
}  # fmt: skip


def apply(corpus: Corpus, name: str | None = None, fold: int | None = None) -> Corpus:
    """`corpus` with the utterances, splits and labels of the protocol `name`.

    Without a name, the label is the first annotation that the source has, splits are the source's.

    Args:
      fold: 1 to the number of the protocol's folds.

    Raises:
      DataError: no such protocol or fold; the source lacks the annotation or the splits.
    """
    if name is None:
        return _as_it_is(corpus)
    if name not in PROTOCOLS:
        raise DataError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if protocol.folds and not 1 <= (fold or 0) <= protocol.folds:
        raise DataError(f"{name} has {protocol.folds} folds: give --fold=1 … {protocol.folds}")
    if fold and not protocol.folds:
        raise DataError(f"{name} has one split and no folds; leave --fold out")
    kept, left_out = [], collections.Counter()
    in_valid = {u.id for u in corpus.utterances if u.split == "valid"}
    for utterance in corpus.utterances:
        label = _label(protocol, corpus, utterance)
        if label is None:
            left_out["label"] += 1
            continue
        split = protocol.rule(utterance, fold or 0) if protocol.rule else utterance.split
        if protocol.valid_out_of_test and split == "test" and utterance.id in in_valid:
            split = None
        if split is None:
            left_out["split"] += 1
            continue
        kept.append(dataclasses.replace(utterance, split=split, label=label))
    if not kept:
        raise DataError(
            f"{', '.join(corpus.files)}: no utterance is left under {name}: {left_out['label']} "
            f"without a {protocol.kind} that it knows, {left_out['split']} in none of its splits; "
            "is this the right corpus?"
        )
    applied = dataclasses.replace(
        corpus,
        utterances=kept,
        protocol=name if not fold else f"{name}/fold{fold}",
        task=protocol.task,
        class_names=protocol.class_names,
    )
    if set(applied.splits()) == {UNSPLIT}:
        raise DataError(f"{name} takes its splits from the source, and this source has none")
    warnings = [*_count(protocol, applied, fold), *filter(None, [protocol.warning])]
    facts = {"reference": protocol.reference, "left_out": dict(left_out)}
    return dataclasses.replace(
        applied,
        facts={**corpus.facts, "protocol": facts},
        warnings=(*corpus.warnings, *(f"{name}: {w}" for w in warnings)),
        leaks=bool(protocol.warning),
    )


def _label(protocol: Protocol, corpus: Corpus, utterance: Utterance) -> Any:
    """The label of `utterance`, or None if the protocol has none for it."""
    annotations = utterance.annotations
    if protocol.task == "binary_pairs" and "pairs" in annotations:
        names = [name.lower() for name in corpus.label_names["pairs"]]
        present = dict(zip(names, annotations["pairs"], strict=True))
        return [float(present[c]) for c in protocol.class_names]
    if protocol.kind not in annotations:
        return None
    value = annotations[protocol.kind]
    if protocol.kind == "category":
        known = protocol.classes.get(str(value).lower())
        if known is None:
            return None
        if protocol.task == "binary_pairs":
            return [float(c == known) for c in protocol.class_names]
        return protocol.class_names.index(known)
    if protocol.kind == "sentiment":
        return float(value) if protocol.task == "sentiment" else [float(value)]
    names = [name.lower() for name in corpus.label_names.get(protocol.kind, ())]
    lacking = [c for c in protocol.class_names if c not in names]
    if lacking or len(names) != len(value):
        raise DataError(
            f"{', '.join(corpus.files)}: {protocol.name} needs {', '.join(protocol.class_names)}; "
            f"the columns here are {', '.join(names) or 'without names'}"
        )
    return [float(value[names.index(c)]) for c in protocol.class_names]


def _count(protocol: Protocol, corpus: Corpus, fold: int | None) -> list[str]:
    """What differs from the published counts, and which utterances are missing."""
    splits = corpus.splits()
    found = {s: len(v) for s, v in splits.items()} | {"all": len(corpus.utterances)}
    if fold:
        found |= {f"fold {fold}": found.get("test", 0)}
    said = []
    for what, published in protocol.counts.items():
        if what in found or not what.startswith("fold"):
            here = found.get(what, 0)
            if here != published:
                said.append(f"{what} has {here} utterances, published are {published}")
    if said and protocol.fold_list:
        said += _missing(protocol.fold_list, splits)
    return said


def _missing(name: str, splits: Mapping[str, Sequence[Utterance]]) -> list[str]:
    said = []
    for split, groups in fold_list(name).items():
        there = splits.get(split, ())
        here = {u.group.rpartition("/")[2].removeprefix("dia") for u in there}
        absent = [group for group in groups if group not in here]
        if absent:
            said.append(f"{split} lacks {len(absent)} videos or dialogues: {_some(absent)}")
        numbered = [ids.place(u.id) for u in there]
        if not all(group for group, _ in numbered):
            continue  # this source does not number its segments
        wanted = {(g, k) for g in here & set(groups) for k in groups[g] or ()}
        lost = sorted(wanted - {(g.removeprefix("dia"), k) for g, k in numbered} - set(numbered))
        if lost:
            said.append(f"{split} lacks utterances: {_some([f'{g}[{k}]' for g, k in lost])}")
    return said


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def hold_out(corpus: Corpus, share: float) -> Corpus:
    """`corpus` with a validation split, if it has none: about `share` of the groups of train.

    Which ones is a hash of their names, so that it is the same everywhere and for ever.
    """
    if any(u.split == "valid" for u in corpus.utterances):
        raise DataError("--hold_out: there is a validation split already")
    if not 0 < share < 1:
        raise DataError(f"--hold_out is a share of train between 0 and 1, not {share}")

    def move(utterance: Utterance) -> Utterance:
        name = (utterance.group or utterance.id).encode()
        chosen = int(hashlib.sha256(name).hexdigest()[:8], 16) < share * 2**32
        if utterance.split != "train" or not chosen:
            return utterance
        return dataclasses.replace(utterance, split="valid")

    facts = {**corpus.facts, "hold_out": share}
    utterances = [move(u) for u in corpus.utterances]
    if not {"train", "valid"} <= {u.split for u in utterances}:
        raise DataError(f"--hold_out={share} leaves train or valid empty: too few groups")
    return dataclasses.replace(corpus, utterances=utterances, facts=facts)


def _as_it_is(corpus: Corpus) -> Corpus:
    """The first annotation of the source is the label; its splits are as they are."""
    kinds = {
        "sentiment": "sentiment", "category": "multiclass", "pairs": "binary_pairs",
        "emotions": "multilabel", "dimensions": "dimensions",
    }  # fmt: skip
    there = set().union(*(u.annotations for u in corpus.utterances))
    kind = next((k for k in kinds if k in there), None)
    if kind is None:
        raise DataError(f"{', '.join(corpus.files)}: no annotation to predict")
    names = list(corpus.label_names.get(kind, ()))
    if kind == "category" and not names:
        names = sorted({str(u.annotations[kind]) for u in corpus.utterances})
    number = {name: i for i, name in enumerate(names)}

    def label(value: Any) -> Any:
        if kind == "category":
            return number[str(value)]
        return float(value) if kind == "sentiment" else [float(v) for v in value]

    kept = [
        dataclasses.replace(
            u, label=label(u.annotations[kind]), split=split_name(u.split) if u.split else None
        )
        for u in corpus.utterances
        if kind in u.annotations
    ]
    lost = len(corpus.utterances) - len(kept)
    warning = f"{lost} utterances without a {kind} are left out"
    return dataclasses.replace(
        corpus,
        utterances=kept,
        warnings=(*corpus.warnings, *([warning] if lost else [])),
        protocol=corpus.protocol or corpus.name,
        task=kinds[kind],
        class_names=tuple(names) if kind != "sentiment" else (),
    )
