"""Files from the wild and files made to do harm: found by trying to break the readers."""

import pickle
import zipfile

import h5py
import numpy as np
import pytest

from imat_jax.data import builder, protocols, sources, unpickle
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset


def dump(tmp_path, value, name="f.pkl", protocol=4):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(value, protocol))
    return str(path)


def mmsa(**change):
    fields = {
        "id": ["a[0]", "b[0]", "c[0]"],
        "audio": np.ones((3, 4, 2), np.float32),
        "regression_labels": [1.0, 0.0, -1.0],
    }
    return {k: v for k, v in (fields | change).items() if v is not None}


def table(tmp_path, text, frames=None):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "audio").mkdir()
    (tmp_path / "t.csv").write_text(text)
    for name in "ab":
        array = np.ones((2, 3)) if frames is None or name == "a" else frames
        np.save(tmp_path / f"audio/{name}.npy", array)
    return str(tmp_path)


def test_a_pickle_cannot_name_the_file_that_an_array_is_read_from(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("TOPSECRET " * 500)
    state = pickle.dumps((1, (1,), np.dtype("S4096"), True, b"x" * 4096), 4)[2:-1]
    path = tmp_path / "f.pkl"
    for make in (b"\x85R", b"\x85\x81"):  # REDUCE and NEWOBJ on numpy.ndarray
        name = pickle.dumps(str(secret), 2)[2:-1]
        path.write_bytes(b"\x80\x04cnumpy\nndarray\n" + name + make + state + b"b.")
        with pytest.raises(DataError, match="not a readable pickle"):
            unpickle.load(path)


def test_long_bytes_and_python_2_strings_are_whole(tmp_path):
    words = [b"word " * 1000, b"x"]
    assert unpickle.load(dump(tmp_path, words)) == words
    assert unpickle.load(dump(tmp_path, {"a": words[0], "b": (words[0], 1)})) == {
        "a": words[0], "b": (words[0], 1)
    }  # fmt: skip
    assert unpickle.load(dump(tmp_path, words[0])) == words[0]
    (tmp_path / "f.pkl").write_bytes(b"\x80\x02]T\x00\x20\x00\x00" + b"\xe9" * 8192 + b"a.")
    assert unpickle.load(tmp_path / "f.pkl") == ["é" * 8192]


def doubled(levels):
    """t = (t, t), `levels` times, as the key of a dict: the hash of it takes 2^levels steps."""
    return b"\x80\x02})" + b"q\x00h\x00\x86" * levels + b"K\x01s."


@pytest.mark.parametrize(
    "content",
    [
        doubled(60),
        b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",  # 200,000 tuples in each other
        b"\x80\x04\x8f()" + b"q\x00h\x00\x86" * 60 + b"\x90.",
        b"\x80\x02cbuiltins\nstr\n)" + b"q\x00h\x00\x86" * 60 + b"\x85R.",
        b"\x80\x02cbuiltins\nset\n])" + b"q\x00h\x00\x86" * 60 + b"a\x85R.",
    ],
)
def test_keys_that_take_for_ever_are_refused(tmp_path, content):
    (tmp_path / "f.pkl").write_bytes(content)
    with pytest.raises(DataError, match="not a readable pickle"):
        unpickle.load(tmp_path / "f.pkl")


def test_arrays_without_bytes_are_not_endless(tmp_path):
    made = pickle.dumps(np.zeros((3, 0), np.float32), 3)
    for claim in (1 << 40, 1 << 62):
        (tmp_path / "f.pkl").write_bytes(made.replace(b"K\x03", pickle.dumps(claim, 2)[2:-1]))
        with pytest.raises(DataError, match="an array of shape"):
            unpickle.load(tmp_path / "f.pkl")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_promises_more_than_there_is(tmp_path, compression):
    good = tmp_path / "good.npz"
    np.savez(good, ids=np.asarray(["a"]), split=np.asarray(["train"]), label=np.ones(1))
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "label.npy":
                content = content.replace(b"(1,), ", b"(1" + b"0" * 12 + b",), ")
            new.writestr(name, content)
    with pytest.raises(DataError, match=r"f\.npz: not a readable \.npz archive"):
        sources.open_corpus("npz", str(path))


def test_an_overwrite_replaces_datasets_only_and_never_the_input(tmp_path):
    path = table(tmp_path / "in", "id,split,label\na,train,0.5\nb,valid,1.5\n")
    corpus = sources.open_corpus("npy", path)
    with pytest.raises(DataError, match="is not a dataset; --overwrite replaces nothing else"):
        builder.build(corpus, path, overwrite=True, progress=False)
    builder.build(corpus, tmp_path / "out", progress=False)
    (tmp_path / "in/dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="holds the input"):
        builder.build(corpus, path, overwrite=True, progress=False)
    assert (tmp_path / "in/audio/a.npy").is_file()


def test_columns_are_taken_by_their_names(tmp_path):
    rows = "id,label:arousal,label:dominance,label:valence\n"
    rows += "Ses01F_a_F000,1,2,5\nSes02F_a_F000,1,2,5\nSes03F_a_F000,1,2,5\n"
    (tmp_path / "audio").mkdir()
    (tmp_path / "t.csv").write_text(rows)
    np.save(tmp_path / "audio/Ses01F_a_F000.npy", np.ones((2, 3)))
    corpus = sources.open_corpus("auto", str(tmp_path))
    applied = protocols.apply(corpus, "iemocap-vad", 1)
    assert applied.utterances[0].label == [5.0, 1.0, 2.0]  # valence, arousal, dominance
    (tmp_path / "t.csv").write_text(rows.replace("label:valence", "label:other"))
    corpus = sources.open_corpus("auto", str(tmp_path))
    with pytest.raises(DataError, match="the columns here are arousal, dominance, other"):
        protocols.apply(corpus, "iemocap-vad", 1)


def test_labels_that_are_no_numbers_stop_the_build(tmp_path):
    corpus = sources.open_corpus(
        "mmsa", dump(tmp_path, {"train": mmsa(regression_labels=[1.0, np.nan, 0.0])})
    )
    with pytest.raises(DataError, match=r"1 labels of split 'train' are not finite.*'b\[0\]': nan"):
        builder.build(corpus, tmp_path / "d", progress=False)


def test_utterances_without_frames_lack_the_modality(tmp_path):
    text = "id,split,label\na,train,0.5\nb,valid,1.5\n"
    corpus = sources.open_corpus("npy", table(tmp_path / "in", text, np.zeros(0)))
    builder.build(corpus, tmp_path / "d", progress=False)
    assert Dataset.open(tmp_path / "d").index("valid")["audio_length"].tolist() == [0]
    examples = [((["hi"], np.ones((1, 4)), np.ones((1, 2))), 1.0, "v[0]")]
    examples.append(((["hi"], [], np.zeros(0)), 1.0, "v[1]"))
    corpus = sources.open_corpus("misa", dump(tmp_path, {"train": examples}))
    builder.build(corpus, tmp_path / "e", progress=False)
    assert Dataset.open(tmp_path / "e").index("train")["vision_length"].tolist() == [1, 0]


def test_wild_npz_arrays(tmp_path):
    np.savez(
        tmp_path / "my data-v1.2.npz",
        ids=np.asarray([b"a", b"b"]),
        split=np.asarray([b"train", b"valid"]),
        label=np.asarray([[[0.5]], [[1.0]]]),
        audio=np.ones((2, 3)),
        audio_offsets=np.arange(3),
    )
    corpus = sources.open_corpus("auto", str(tmp_path / "my data-v1.2.npz"))
    builder.build(corpus, tmp_path / "d", progress=False)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.splits == ("train", "valid")
    assert dataset.source("train")[0]["id"] == b"a"


def test_modalities_of_one_split_only(tmp_path):
    vision = np.ones((3, 2, 5), np.float32)
    content = {"train": mmsa(), "valid": mmsa(vision=vision, id=["d[0]", "e[0]", "f[0]"])}
    corpus = sources.open_corpus("auto", dump(tmp_path, content))
    assert list(corpus.modalities) == ["audio", "vision"]
    assert any("vision: not in the split 'train'" in w for w in corpus.warnings)
    assert "vision" not in corpus.read(0) and corpus.read(3)["vision"].shape == (2, 5)


def test_stated_lengths_beyond_the_array_are_told(tmp_path):
    content = {"train": mmsa(audio_lengths=[4, 100, 2])}
    corpus = sources.open_corpus("mmsa", dump(tmp_path, content))
    assert any("audio: the stated length of 2 utterances" in w for w in corpus.warnings)
    assert len(corpus.read(1)["audio"]) == 4


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("mmsa", [1], "a list, not a dict of splits"),
        ("mult", [1], "a list, not a dict of splits"),
        ("misa", [1], "give the folder of train.pkl"),
        ("mmsa", {"train": mmsa(raw_text=["one"])}, "`train/raw_text` has not one text"),
        ("mmsa", {"train": mmsa(audio_lengths=[1])}, "not what --source=mmsa reads"),
        ("mmsa", {"train": mmsa(regression_labels=["x", "y", "z"])}, "not what --source=mmsa"),
        ("mmsa", {"train": mmsa(text_bert=np.ones((3, 4)))}, "`text_bert` beside it has shape"),
        (
            "mult",
            {"train": {"labels": [1.0], "id": ["a", "b"], "audio": [[[1.0]]]}},
            "2 rows for 1",
        ),
        ("misa", {"train": [(5, 1)]}, "example 0 of `train` is not"),
    ],
)
def test_what_is_amiss_is_one_sentence(tmp_path, source, content, message):
    with pytest.raises(DataError, match=message) as error:
        sources.open_corpus(source, dump(tmp_path, content))
    assert "f.pkl" in str(error.value) and "\n" not in str(error.value)


def csd(tmp_path, **features):
    for name, (root, dim) in {"COVAREP": ("COVAREP", 3), "Labels": ("Labels", 1)}.items():
        with h5py.File(tmp_path / f"x_{name}.csd", "w") as file:
            group = file.create_group(f"{root}/data/vid")
            group["features"] = features.get(name, np.ones((4, dim)))
            group["intervals"] = np.stack([np.arange(4.0), np.arange(4.0) + 1], axis=1)
    return tmp_path


def test_csd_of_odd_shapes(tmp_path):
    csd(tmp_path, COVAREP=np.arange(4.0))  # one number an interval, no second axis
    with h5py.File(tmp_path / "x_COVAREP.csd", "a") as file:
        file["version"] = 1.0  # a scalar beside the root group
    corpus = sources.open_corpus("auto", str(tmp_path))
    np.testing.assert_array_equal(corpus.read(2)["audio"], [[2.0]])


def test_csd_that_would_not_end(tmp_path):
    csd(tmp_path)
    with h5py.File(tmp_path / "x_COVAREP.csd", "a") as file:
        file["COVAREP/loop"] = file["COVAREP"]
    with pytest.raises(DataError, match="comes twice"):
        sources.open_corpus("csd", str(tmp_path))


def test_csd_that_claims_more_than_it_holds(tmp_path):
    csd(tmp_path)
    with h5py.File(tmp_path / "x_COVAREP.csd", "a") as file:
        del file["COVAREP/data/vid/features"]
        file["COVAREP/data/vid"].create_dataset("features", (1 << 22, 3), "f4", chunks=(1024, 3))
    with pytest.raises(DataError, match="claims 50,331,648 bytes, and holds 0"):
        sources.open_corpus("csd", str(tmp_path))


@pytest.mark.parametrize("share", [-1, 0, 1, 5, 1e-9])
def test_shares_that_leave_a_split_empty(tmp_path, share):
    corpus = protocols.apply(sources.open_corpus("mmsa", dump(tmp_path, {"train": mmsa()})))
    with pytest.raises(DataError, match="--hold_out"):
        protocols.hold_out(corpus, share)


def test_a_modality_that_the_first_split_of_mult_lacks(tmp_path):
    train = {"audio": np.ones((2, 3, 4)), "labels": [1.0, 2.0]}
    valid = train | {"vision": np.ones((2, 5, 6))}
    corpus = sources.open_corpus("mult", dump(tmp_path, {"train": train, "valid": valid}))
    assert {m: info.dim for m, info in corpus.modalities.items()} == {"audio": 4, "vision": 6}
    assert set(corpus.read(0)) == {"audio"} and corpus.read(2)["vision"].shape == (5, 6)
    assert corpus.warnings == ("vision: not in the split 'train'",)
