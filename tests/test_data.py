"""Datasets: what is written, what is refused, what batches hold."""

import dataclasses
import functools
import pathlib
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest
import tensorflow_datasets as tfds

from imat_jax.data import builder, loader, published, records
from imat_jax.data.corpus import Corpus, DataError, Modality, Utterance
from imat_jax.data.dataset import Dataset
from imat_jax.data.sources import npy, npz, synthetic
from imat_jax.data.statistics import Moments, standardize

ROOT = pathlib.Path(__file__).parents[1]


def example(i, group="", **arrays):
    about = Utterance(f"u{i}", i, {"sentiment": 0.5}, group=group or f"g{i}", transcript="é")
    return about, {"text": np.full((i, 3), i, np.float32)} | arrays


def corpus(train, valid=()):
    rows = [("train", *e) for e in train] + [("valid", *e) for e in valid]
    return Corpus(
        name="made",
        utterances=[
            dataclasses.replace(about, row=row, split=split)
            for row, (split, about, _) in enumerate(rows)
        ],
        modalities={"text": Modality(dim=3, extractor="counting")},
        read=lambda row: rows[row][2],
    )


def build(tmp_path, *args, **kw):
    builder.build(corpus(*args), tmp_path / "d", progress=False, **kw)
    return Dataset.open(tmp_path / "d")


def test_plain_tfds_reads_it(tmp_path):
    build(tmp_path, [example(2), example(0), example(1)])
    source = tfds.builder_from_directory(tmp_path / "d").as_data_source("train")
    assert [r["id"] for r in source] == [b"u2", b"u0", b"u1"]
    assert source[0]["text"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(source[0]["text"], np.full((2, 3), 2, np.float32))
    assert source[1]["text"].shape == (0, 3)  # a missing modality
    assert source[0]["transcript"].decode() == "é"
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["1", "2024-data", "été", "-", "a.b c"])
def test_a_source_may_have_any_name(tmp_path, name):
    made = dataclasses.replace(corpus([example(0)]), name=name)
    builder.build(made, tmp_path / "d", progress=False)
    assert len(tfds.builder_from_directory(tmp_path / "d").as_data_source("train")) == 1


@pytest.mark.parametrize("dtype", records.DTYPES)
def test_every_storage_dtype_survives(tmp_path, dtype):
    values = np.random.RandomState(0).randn(5, 3).astype(records.DTYPES[dtype])
    dataset = build(tmp_path, [example(1, text=values)], dtype=dtype)
    read = dataset.source("train")[0]["text"]
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read.view(np.uint8), values.view(np.uint8))


def test_index_metadata_and_statistics(tmp_path):
    rng = np.random.RandomState(0)
    train = [example(i, text=rng.randn(i, 3) * [1, 5, 0] + [0, 9, 2]) for i in range(1, 9)]
    dataset = build(tmp_path, train, [example(100, text=np.full((4, 3), 1e3))])
    index = dataset.index("train")
    assert index["id"].tolist() == [f"u{i}" for i in range(1, 9)]
    assert index["text_length"].tolist() == list(range(1, 9))
    stored = np.concatenate([r["text"].astype(np.float64) for r in dataset.source("train")])
    moments = dataset.metadata["statistics"]["text"]  # of train: valid is far away
    np.testing.assert_allclose(moments["mean"], stored.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments["std"], stored.std(axis=0), rtol=1e-12, atol=1e-12)
    assert dataset.metadata["modalities"]["text"]["extractor"] == "counting"
    assert dataset.metadata["splits"]["valid"]["examples"] == 1


def test_an_index_can_be_made_by_reading(tmp_path):
    dataset = build(tmp_path, [example(2), example(1)])
    with_file = dataset.index("train")
    (tmp_path / "d" / "index-train.npz").unlink()
    without = dataset.index("train")
    for key in with_file:
        np.testing.assert_array_equal(with_file[key], without[key])


def test_checksums_are_those_of_sha256sum(tmp_path):
    build(tmp_path, [example(1)])
    command = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    subprocess.run(command, cwd=tmp_path / "d", check=True)


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        ([example(1), example(1)], [], "'u1' twice"),
        ([example(1, group="bob")], [example(2, group="bob")], "group 'bob' is in split 'train'"),
        ([example(1, text=np.zeros((2, 4)))], [], r"shape \(2, 4\), not \(frames, 3\)"),
        ([example(1, text=np.full((1, 3), np.nan))], [], "'u1'.*nan at frame 0.*--nonfinite=zero"),
        ([], [], "no example"),
    ],
)
def test_bad_corpora_are_refused_and_leave_nothing(tmp_path, train, valid, message):
    with pytest.raises(DataError, match=message):
        build(tmp_path, train, valid)
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_splits_is_one_split(tmp_path):
    made = corpus([example(1), example(2)])
    loose = [dataclasses.replace(u, split=None) for u in made.utterances]
    builder.build(dataclasses.replace(made, utterances=loose), tmp_path / "d", progress=False)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.splits == ("unsplit",) and len(dataset.source("unsplit")) == 2
    reserved = [dataclasses.replace(u, split="all") for u in made.utterances]
    with pytest.raises(DataError, match="'all', which TFDS keeps for itself"):
        builder.build(dataclasses.replace(made, utterances=reserved), tmp_path / "e")


def test_an_id_may_come_back_in_another_split(tmp_path):
    build(tmp_path, [example(1, group="a")], [example(1, group="b")])  # MELD numbers them so


def test_nonfinite_values_are_repaired_when_asked_and_counted(tmp_path):
    bad = np.asarray([[1, np.nan, 3], [np.inf, 5, 6]])
    dataset = build(tmp_path, [example(1, text=bad)], nonfinite="zero")
    read = dataset.source("train")[0]["text"].astype(np.float32)
    np.testing.assert_array_equal(read, [[1, 0, 3], [0, 5, 6]])
    assert dataset.metadata["nonfinite"] == {"text": 2, "text_first": "u1", "policy": "zero"}


def test_float16_overflow_counts_as_nonfinite(tmp_path):
    with pytest.raises(DataError, match="inf at frame 0"):
        build(tmp_path, [example(1, text=np.full((1, 3), 1e5))], dtype="float16")


def test_an_existing_output_is_kept_unless_overwritten(tmp_path):
    build(tmp_path, [example(1)])
    with pytest.raises(DataError, match="exists already"):
        build(tmp_path, [example(2)])
    dataset = build(tmp_path, [example(2)], overwrite=True)
    assert dataset.index("train")["id"] == ["u2"]
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path):
    arguments = "-m imat_jax.build --source=synthetic --sizes=100000,1,1 --output".split()
    command = [sys.executable, *arguments, tmp_path / "d"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        deadline, said = time.monotonic() + 60, b""
        while b"utt/s" not in said and time.monotonic() < deadline:  # until it writes records
            said += process.stderr.read1()
        process.kill()
    assert b"utt/s" in said
    with pytest.raises(DataError, match="no dataset there"):
        Dataset.open(tmp_path / "d")
    build(tmp_path, [example(1)])  # and the next build clears up
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def write_npz(path, **change):
    arrays = {
        "ids": np.asarray(["a", "b"]),
        "split": np.asarray(["train", "test"]),
        "label": np.asarray([0.5, -1], np.float32),
        "text": np.arange(9, dtype=np.float16).reshape(3, 3),
        "text_offsets": np.asarray([0, 1, 3]),
    }
    np.savez(path, **{k: v for k, v in (arrays | change).items() if v is not None})
    return path


def test_npz_is_read_ragged(tmp_path):
    got = npz.corpus(write_npz(tmp_path / "c.npz"))
    (one,) = got.splits()["test"]
    assert (one.id, one.annotations) == ("b", {"sentiment": -1})
    np.testing.assert_array_equal(got.read(one.row)["text"], [[3, 4, 5], [6, 7, 8]])


def test_npz_arrays_are_picked_by_name(tmp_path):
    vectors = np.asarray([[1, 2], [3, 4]], np.float16)
    path = write_npz(tmp_path / "c.npz", pooled=vectors)
    got = npz.corpus(path, features={"audio": "pooled"})
    assert {m: modality.dim for m, modality in got.modalities.items()} == {"text": 3, "audio": 2}
    np.testing.assert_array_equal(got.read(1)["audio"], [[3, 4]])
    with pytest.raises(DataError, match="no array 'other', which --features names for audio"):
        npz.corpus(path, features={"audio": "other"})
    for wrong in ({"face": "pooled"}, {"audio": "text"}):
        with pytest.raises(DataError, match="names an array for each of"):
            npz.corpus(path, features=wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "no array 'label'"),
        ({"label": np.zeros(3)}, "`label` has 3 rows; `ids` has 2"),
        ({"text_offsets": np.asarray([0, 1, 2])}, "`text_offsets` must rise from 0 to the 3"),
        ({"text": None, "text_offsets": None}, "none of the modalities"),
        ({"label": np.asarray([0, 4]), "label_names": np.asarray(["x", "y"])}, "runs from 0 to 4"),
        ({"ids": np.asarray(["a", None], object)}, "without pickles"),
    ],
)
def test_npz_errors_name_the_file_and_the_array(tmp_path, change, message):
    path = write_npz(tmp_path / "c.npz", **change)
    with pytest.raises(DataError, match=message) as error:
        npz.corpus(path)
    assert str(path) in str(error.value)


def test_the_real_corpora_build(corpora, tmp_path):
    builder.build(npz.corpus(corpora / "ravdess.npz"), tmp_path / "d", progress=False)
    splits = Dataset.open(tmp_path / "d").metadata["splits"]
    sizes = {s: v["examples"] for s, v in splits.items()}
    assert sizes == {"train": 960, "valid": 240, "test": 240}
    assert splits["test"]["classes"]["neutral"] == 16


def split_of(dataset, name="train", **kw):
    limits = {"text": 512, "audio": 512, "vision": 512}
    modalities = tuple(dataset.dims)
    buckets = loader.buckets_for(dataset, modalities, limits, 3)
    kw = dict(batch_size=16, seed=3, buckets=buckets) | kw
    return loader.Split(dataset, name, modalities=modalities, **kw)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_any_number_of_processes_sees_the_same_global_batches(tiny_dataset, processes):
    whole = split_of(tiny_dataset)
    shares = [split_of(tiny_dataset, rows=r) for r in np.split(np.arange(16), processes)]
    for step in range(len(whole)):
        expected, parts = whole[step], [share[step] for share in shares]
        assert [i for p in parts for i in p["id"]] == expected["id"]
        for key in set(expected) - {"id"}:
            joined = np.concatenate([p[key] for p in parts])
            assert joined.dtype == expected[key].dtype
            np.testing.assert_array_equal(joined, expected[key])


def test_seeking_equals_replaying(tiny_dataset):
    split = split_of(tiny_dataset, steps=20)  # over three epochs
    replayed = [b["id"] for b in loader.read(split)]
    assert len(replayed) == 20
    for start in (0, 1, 7, 19):
        assert [b["id"] for b in loader.read(split, start=start)] == replayed[start:]


def test_reading_processes_give_the_same_batches(tiny_dataset):
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain's workers ask for a flag
    split = split_of(tiny_dataset)
    expected = [b["id"] for b in loader.read(split)]
    assert [b["id"] for b in loader.read(split, workers=2)] == expected


def test_a_batch_holds_the_records(tiny_dataset):
    split = split_of(tiny_dataset, "test", seed=None)
    index, seen = tiny_dataset.index("test"), []
    for step, (shape, rows) in enumerate(split.plan(0)):
        batch = split[step]
        assert batch["id"] == index["id"][rows].tolist()
        assert batch["weight"].tolist() == [1.0] * len(rows) + [0.0] * (16 - len(rows))
        np.testing.assert_array_equal(batch["label"][: len(rows)], index["label"][rows])
        records = tiny_dataset.source("test").__getitems__(rows.tolist())
        for m, length in zip(split.dims, shape, strict=True):
            assert batch[m].shape == (16, length, split.dims[m])
            np.testing.assert_array_equal(
                batch[f"{m}_mask"].sum(axis=1)[: len(rows)], index[f"{m}_length"][rows]
            )
            for row, record in enumerate(records):
                np.testing.assert_array_equal(batch[m][row][batch[f"{m}_mask"][row]], record[m])
            assert not batch[m][~batch[f"{m}_mask"]].any()
        seen += batch["id"]
    assert sorted(seen) == sorted(index["id"])  # exactly once


def test_statistics_match_numpy_however_the_frames_come():
    frames = np.random.RandomState(0).randn(100, 4) * 3 + 1e3
    moments = Moments(4)
    for part in np.split(frames, [0, 1, 7, 50]):
        moments.add(part)
    got = moments.as_dict()
    np.testing.assert_allclose(got["mean"], frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(got["std"], frames.std(axis=0), rtol=1e-10)


def test_standardize_scales_frames_and_clears_padding():
    batch = {
        "text": np.asarray([[[3.0, 5.0], [np.nan, 7.0]]], np.float32),
        "text_mask": np.asarray([[True, False]]),
        "label": np.zeros(1),
    }
    got = standardize(batch, {"text": {"mean": [1.0, 5.0], "std": [2.0, 0.0]}, "audio": {}})
    np.testing.assert_array_equal(got["text"], [[[1.0, 0.0], [0.0, 0.0]]])
    assert got["label"] is batch["label"]


@pytest.mark.parametrize(
    ("seconds", "masked"),  # the published mask, `sse_ft` section 3.1
    [(12.0, 260), (20.0, 125), (30.0, 935), (9.375, 0)],
)
def test_published_audio_mask_of_long_clips(seconds, masked):
    frames = published.conv_length(int(16000 * seconds))
    assert published.LIMITS["audio"] - published.unmasked(frames) == masked


def test_published_audio_mask_leaves_a_few_padded_frames():
    extra = [published.unmasked(t) - t for t in range(1, 900)]
    assert set(extra) <= {2, 3} and 2 <= np.mean(extra) <= 3


def test_published_crops_are_random_by_id_and_epoch():
    record = {"id": b"u", "audio": np.arange(1000)[:, None], "text": np.arange(600)[:, None]}
    first, _ = published.place(record, "audio", 935, 0)
    again, _ = published.place(record, "audio", 935, 0)
    later, _ = published.place(record, "audio", 935, 1)
    assert len(first) == 935 and (first == again).all() and (first != later).any()
    assert published.place(record, "text", 512, 0)[1] == 512


def files(directory):
    return (directory / builder.CHECKSUMS).read_text()


def test_processes_write_what_one_process_writes(tmp_path):
    reopen = functools.partial(synthetic.corpus, {"train": 30, "valid": 11}, 3)
    engine = builder.processes(reopen, workers=2, progress=False)
    builder.build(reopen(), tmp_path / "many", engine=engine, shards=3, progress=False)
    builder.build(reopen(), tmp_path / "one", shards=3, progress=False)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert len(list(tmp_path.glob("many/*.array_record-*"))) == 6
    dataset = Dataset.open(tmp_path / "many")
    ids = [record["id"].decode() for record in dataset.source("train")]
    assert ids == dataset.index("train")["id"].tolist()


def test_an_error_in_a_process_is_the_same_error(tmp_path):
    (tmp_path / "audio").mkdir()
    for i in range(4):
        np.save(tmp_path / f"audio/u{i}.npy", np.full((2, 3), np.nan if i == 2 else 1))
    rows = "".join(f"u{i},train,{i / 2}\n" for i in range(4))
    (tmp_path / "t.csv").write_text("id,split,label\n" + rows)
    reopen = functools.partial(npy.corpus, tmp_path)
    engine = builder.processes(reopen, workers=2, progress=False)
    with pytest.raises(DataError, match=r"'u2' of split 'train': `audio` is nan at frame 0"):
        builder.build(reopen(), tmp_path / "d", engine=engine, shards=2, progress=False)
    assert not (tmp_path / "d").exists()


def test_how_a_corpus_is_cut_into_shards_does_not_change_its_statistics(tmp_path):
    corpus = synthetic.corpus({"train": 40, "valid": 5})
    found = []
    for shards in (1, 7):
        builder.build(corpus, tmp_path / str(shards), shards=shards, progress=False)
        found.append(Dataset.open(tmp_path / str(shards)).metadata["statistics"])
    for m in found[0]:
        np.testing.assert_allclose(found[0][m]["mean"], found[1][m]["mean"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(found[0][m]["std"], found[1][m]["std"], rtol=1e-12)


def test_the_card_of_a_dataset(tmp_path):
    builder.build(synthetic.corpus({"train": 40, "valid": 9}), tmp_path / "d", progress=False)
    command = [sys.executable, "-m", "imat_jax.describe", tmp_path / "d"]
    command += [f"--output={tmp_path}/card"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for part in ("synthetic-4way", "Frames an utterance", "Checks", "real frames in a batch"):
        assert part in said
    text = (tmp_path / "card/card.md").read_text()
    assert "| train | 40 |" in text and "| text | 48 | synthetic |" in text
    assert (tmp_path / "card/lengths.png").read_bytes().startswith(b"\x89PNG")
