"""Feature files of other projects: written by `foreign.py`, read by ours, built, read back."""

import itertools
import pickle

import foreign
import numpy as np
import pytest

from configs import common
from imat_jax import train
from imat_jax.data import builder, protocols, sources
from imat_jax.data.corpus import MODALITIES, DataError
from imat_jax.data.dataset import Dataset

LAYOUTS = {
    "mmsa": [
        dict(),
        dict(quirks=True),
        dict(aligned=False),
        dict(aligned=False, quirks=True),
        dict(aligned=False, sims=True),
    ],
    "mult": [
        dict(),
        dict(quirks=True),
        dict(corpus="mosi"),
        dict(corpus="iemocap"),
        dict(aligned=False),
        dict(aligned=False, front=False),
    ],
    "misa": [
        dict(),
        dict(corpus="mosei", emotions=True),
        dict(style="mmim"),
        dict(style="mmim", corpus="mosei", emotions=True),
        dict(style="magbert"),
    ],
    "mertools": [dict(), dict(quirks=True), dict(corpus="mosi"), dict(corpus="mosi", level="UTT")],
    "emobox": [dict(), dict(quirks=True), dict(corpus="meld")],
    "sseft": [dict(), dict(corpus="mosei")],
    "npy": [dict()],
    "csd": [dict(), dict(shuffled=True), dict(quirks=True)],
}
CASES = [(name, options) for name, several in LAYOUTS.items() for options in several]
FILES = {"mmsa": "f.pkl", "mult": "f.pkl"}  # the others write folders
IEMOCAP = ("happy", "sad", "neutral", "angry")  # as MERTools numbers them


def write(name, tmp_path, **options):
    single = name == "misa" and options.get("style") == "magbert"
    path = tmp_path / "in" / ("f.pkl" if single else FILES.get(name, "d"))
    path.parent.mkdir()
    return path, getattr(foreign, name)(path, np.random.default_rng(0), **options)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_what_another_project_wrote_is_what_we_read(name, options, tmp_path):
    path, truth = write(name, tmp_path, **options)
    assert sources.detect(str(path))[0] == name
    corpus = sources.open_corpus("auto", str(path))
    got = {s or "all": [] for s in truth}
    for utterance in corpus.utterances:
        got[utterance.split or "all"].append(utterance)
    assert {s: len(v) for s, v in got.items()} == {s: len(v) for s, v in truth.items()}
    for split, wanted in truth.items():
        groups = [(u["group"], v.group) for u, v in zip(wanted, got[split], strict=True)]
        assert len(set(groups)) == len({g for g, _ in groups})  # the same grouping
        for one, utterance in zip(wanted, got[split], strict=True):
            check_identity(name, options, one, utterance)
            check_label(name, one, utterance.annotations)
            read = corpus.read(utterance.row)
            assert set(corpus.modalities) == {m for m in MODALITIES if m in columns(truth)}
            for m in corpus.modalities:
                frames = one.get(m, np.zeros((0, corpus.modalities[m].dim)))
                np.testing.assert_array_equal(read.get(m, frames[:0]), frames, err_msg=m)


def columns(truth):
    return set().union(*(one for utterances in truth.values() for one in utterances))


def check_identity(name, options, one, utterance):
    assert utterance.transcript == one["transcript"]
    repeats = name == "misa" and options.get("corpus") == "mosei" and options.get("style") == "mmim"
    if one["id"] and not repeats:
        assert utterance.id == one["id"]
    if name in ("mmsa", "misa", "csd", "npy", "sseft") and one["order"] >= 0 and not repeats:
        assert (utterance.group, utterance.order) == (one["group"], one["order"])


def check_label(name, one, annotations):
    label = one["label"]
    if name == "mertools" and isinstance(label, int):
        assert annotations["category"] == IEMOCAP[label]
    elif isinstance(label, str):
        assert annotations["category"] == label
    elif np.ndim(label) == 0:
        assert annotations["sentiment"] == pytest.approx(float(label), rel=1e-7)
    elif len(label) == 4:
        assert annotations["pairs"] == list(label)
    else:
        np.testing.assert_array_equal([annotations["sentiment"], *annotations["emotions"]], label)
    if "label_T" in one:
        assert annotations["sentiment_text"] == pytest.approx(one["label_T"])


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["mmsa", "mult"])
def test_every_pickle_protocol(name, protocol, tmp_path):
    path, truth = write(name, tmp_path, protocol=protocol)
    corpus = sources.open_corpus(name, str(path))
    for one, utterance in zip(itertools.chain(*truth.values()), corpus.utterances, strict=True):
        np.testing.assert_array_equal(corpus.read(utterance.row)["audio"], one["audio"])


# {source: (options of the writer, protocol and fold that give it splits)}
WHOLE = {
    "mmsa": (dict(aligned=False, quirks=True), None),
    "mult": (dict(corpus="iemocap"), ("iemocap-binary-published", None)),
    "misa": ({}, None),
    "csd": (dict(videos=["2iD-tVS8NPw", "WKA5OygbEKI", "tmZoasNr4rU"]), ("mosi-sentiment", None)),
    "mertools": ({}, ("iemocap-4way-loso", 1)),
    "emobox": (dict(corpus="meld"), None),
    "sseft": ({}, ("iemocap-binary", None)),
    "npy": ({}, None),
}


# Splits of four utterances lack some class, and metrics say so.
@pytest.mark.filterwarnings("ignore::imat_jax.metrics.UndefinedMetricWarning")
@pytest.mark.parametrize("name", WHOLE)
def test_built_read_back_and_trained_on(library_promotion, name, tmp_path):
    options, protocol = WHOLE[name]
    path, truth = write(name, tmp_path, **options)
    corpus = protocols.apply(sources.open_corpus("auto", str(path)), *(protocol or ()))
    builder.build(corpus, tmp_path / "d", dtype="float32", nonfinite="zero", progress=False)
    dataset = Dataset.open(tmp_path / "d")
    wanted = {(s, one["id"]): one for s, utterances in truth.items() for one in utterances}
    records = [(s, record) for s in dataset.splits for record in dataset.source(s)]
    assert len(records) == len(corpus.utterances) > 0
    for split, record in records:
        key = record["id"].decode()
        if name == "mult":  # has no ids
            one = truth[split][int(key.rpartition("-")[2])]
        else:
            one = wanted.get((split, key)) or wanted["all", key]
        assert record["transcript"].decode() == one["transcript"]
        for m in dataset.dims:
            frames = np.asarray(one.get(m, record[m][:0]), np.float32)
            frames = np.where(np.isfinite(frames), frames, 0)
            np.testing.assert_array_equal(record[m], frames)
    config = common.get_config()
    config.dataset, config.steps, config.batch_size = str(tmp_path / "d"), 2, 8
    config.data.buckets = 1
    config.model.name, config.model.head_width = "early", 8  # compiles in no time
    results = train.train(config, tmp_path / "run")
    assert results["selected"]["step"] in (0, 1, 2)
    assert (tmp_path / "run/results.json").is_file()


def test_without_a_repair_minus_infinity_stops_the_build(tmp_path):
    path, _ = write("mmsa", tmp_path, aligned=False, quirks=True)
    corpus = sources.open_corpus("auto", str(path))
    with pytest.raises(DataError, match=r"`audio` is -inf at frame .*--nonfinite=zero"):
        builder.build(corpus, tmp_path / "out", progress=False)


@pytest.mark.parametrize("kind", foreign.HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_runs_nothing(kind, protocol, tmp_path):
    path, marker = tmp_path / "f.pkl", tmp_path / "ran"
    foreign.hostile(path, kind, marker, protocol=protocol)
    for source in ("auto", "mmsa", "mult", "misa"):
        with pytest.raises(DataError, match=r"f\.pkl: this pickle wants to run or import"):
            sources.open_corpus(source, str(path))
    assert not marker.exists()


def test_a_hostile_label_file_runs_nothing(tmp_path):
    foreign.hostile(tmp_path / "label.npz", "npz", tmp_path / "ran")
    with pytest.raises(DataError, match="this pickle wants to run or import"):
        sources.open_corpus("mertools", str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_words_give_the_clock_of_an_aligned_corpus(tmp_path):
    path, truth = write("csd", tmp_path)
    corpus = sources.open_corpus("csd", str(path), align="text")
    for one, utterance in zip(truth["all"], corpus.utterances, strict=True):
        read = corpus.read(utterance.row)
        for m in ("audio", "vision"):
            times = one[f"{m}_intervals"]
            for row, (start, end) in zip(read[m], one["text_intervals"], strict=True):
                inside = (times[:, 0] < end - 1e-5) & (times[:, 1] > start + 1e-5)
                mean = one[m][inside].mean(axis=0) if inside.any() else np.zeros(one[m].shape[1])
                np.testing.assert_allclose(row, mean, rtol=1e-5, atol=1e-6)


def test_csd_takes_its_splits_from_the_protocol(tmp_path):
    pick = [next(iter(protocols.fold_list("mosi")[s])) for s in ("train", "valid", "test")]
    path = tmp_path / "mosi"
    foreign.csd(path, np.random.default_rng(0), videos=pick, n=2)
    corpus = protocols.apply(sources.open_corpus("csd", str(path)), "mosi-sentiment")
    assert {s: len(v) for s, v in corpus.splits().items()} == {"train": 2, "valid": 2, "test": 2}
    assert any("train has 2 utterances, published are 1284" in w for w in corpus.warnings)
    assert any("train lacks 51 videos" in w for w in corpus.warnings)


def test_links_in_hdf5_are_refused(tmp_path):
    import h5py

    path, _ = write("csd", tmp_path)
    with h5py.File(path / "CMU_MOSI_COVAREP.csd", "a") as file:
        file["COVAREP/data/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/x")
    with pytest.raises(DataError, match=r"elsewhere` is a link"):
        sources.open_corpus("csd", str(path))


def test_two_extractors_of_a_modality_have_to_be_chosen_from(tmp_path):
    path, truth = write("mertools", tmp_path)
    folder = path / "features" / "hubert-large-FRA"
    folder.mkdir()
    np.save(folder / f"{truth['all'][0]['id']}.npy", np.ones((3, 2), np.float32))
    with pytest.raises(DataError, match="which is audio: hubert-large-FRA, wav2vec2"):
        sources.open_corpus("mertools", str(path))
    corpus = sources.open_corpus("mertools", str(path), features={"audio": "hubert-large-FRA"})
    assert corpus.modalities["audio"].dim == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\na,1.5\n", "no folder text, audio or vision"),
        ("name,label\na,1\n", "a column `id`"),
        ("id,label\na,\n", "1 rows have no `label`, such as a"),
        ("id,label\na,1.5\nb,good\n", "row 2 .b.: `label` is 'good', not a number"),
        ("id,label\n../../x,1\n", "names a file outside"),
    ],
)
def test_a_table_that_does_not_fit_is_told_why(content, message, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    if message != "no folder text, audio or vision":
        (tmp_path / "audio").mkdir()
        for name in "ab":
            np.save(tmp_path / f"audio/{name}.npy", np.ones((2, 3)))
    with pytest.raises(DataError, match=message):
        sources.open_corpus("auto", str(tmp_path))


def test_pickled_arrays_in_npy_files_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\na,1.5\n")
    (tmp_path / "audio").mkdir()
    np.save(tmp_path / "audio/a.npy", np.asarray([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="without pickles"):
        sources.open_corpus("auto", str(tmp_path))


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("labels", ["labels", "regression_labels"])
def test_lists_of_arrays_of_any_length_and_labels_in_any_shape(labels, objects, tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.standard_normal((n, 5)) for n in (3, 1, 0, 2000)]
    held = frames
    if objects:
        held = np.empty(4, object)
        held[:] = frames
    score = np.asarray([1.5, -3, 0, 2]).reshape(4, 1, 1)
    ids = np.asarray([b"a[0]", b"a[1]", b"b[0]", b"c[0]"])
    fields = {"id": ids, "audio": held, "vision": rng.standard_normal((4, 7)), labels: score}
    with (tmp_path / "f.pkl").open("wb") as file:
        pickle.dump({"train": fields, "extra": {"odd": [1]}, "version": 3}, file)
    corpus = sources.open_corpus("auto", str(tmp_path / "f.pkl"))
    assert [u.id for u in corpus.utterances] == ["a[0]", "a[1]", "b[0]", "c[0]"]
    assert [u.annotations["sentiment"] for u in corpus.utterances] == [1.5, -3, 0, 2]
    for utterance, wanted in zip(corpus.utterances, frames, strict=True):
        read = corpus.read(utterance.row)
        np.testing.assert_array_equal(read["audio"], wanted)
        np.testing.assert_array_equal(read["vision"], fields["vision"][[utterance.row]])


def test_features_of_two_widths_are_refused(tmp_path):
    fields = {"id": ["a", "b"], "audio": [np.ones((2, 3)), np.ones((2, 4))], "labels": [1.0, 2.0]}
    with (tmp_path / "f.pkl").open("wb") as file:
        pickle.dump({"train": fields}, file)
    with pytest.raises(DataError, match=r"f\.pkl: `train/audio` has features of widths \[3, 4\]"):
        sources.open_corpus("auto", str(tmp_path / "f.pkl"))


def test_the_hash_of_the_features_is_recorded(tmp_path):
    path, _ = write("npy", tmp_path)

    def sources_of(name):
        corpus = sources.open_corpus("npy", str(path))
        return builder.build(corpus, tmp_path / name, progress=False)["sources"]

    before = sources_of("a")
    assert set(before) == {"table.csv", "text", "audio", "vision"}
    changed = next((path / "audio").iterdir())
    np.save(changed, np.load(changed) + 1)
    after = sources_of("b")
    assert {name for name in before if before[name] != after[name]} == {"audio"}


@pytest.mark.parametrize("source", ["auto", *sources.READERS])
def test_a_file_that_is_not_there(source, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        sources.open_corpus(source, str(tmp_path / "nothing.pkl"))


def test_features_beyond_the_stated_length_are_told(tmp_path):
    path, _ = write("mmsa", tmp_path, aligned=False)
    assert sources.open_corpus("mmsa", str(path)).warnings == ()
    with path.open("rb") as file:
        content = pickle.load(file)  # we wrote it
    content["train"]["vision"][1, -1] = 1
    with path.open("wb") as file:
        pickle.dump(content, file)
    (said,) = sources.open_corpus("mmsa", str(path)).warnings
    assert said.startswith("vision: the stated length of 1 utterances is not that of")
