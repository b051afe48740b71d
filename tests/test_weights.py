"""Checkpoints: what is read, what is refused, and that nothing in them runs."""

import argparse
import json
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_files import Call, Tensor, legacy, safetensors, zipped

from imat_jax.data.corpus import DataError
from imat_jax.encoders import weights

FORMATS = pytest.mark.parametrize("write", [legacy, zipped])


def load(tmp_path, content: bytes, name="f.pt"):
    (tmp_path / name).write_bytes(content)
    return weights.load(tmp_path / name)


@FORMATS
def test_tensors_settings_and_the_dicts_around_them_come_back(tmp_path, write):
    args = argparse.Namespace(layers="[(512, 10, 5)]", scale=0.5, bias=False, path=None, n=[1, 2])
    tensors = {
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f16": np.asarray([1.5, -2], np.float16),
        "bf16": np.asarray([1.5, -2], ml_dtypes.bfloat16),
        "i64": np.asarray([2**40]),
        "scalar": np.asarray(3),
        "empty": np.zeros((0, 4), np.float32),
    }
    got = load(tmp_path, write({"args": args, "model": tensors, "epoch": 7}))
    assert got["args"] == vars(args) and got["epoch"] == 7
    for name, value in tensors.items():
        assert (got["model"][name].dtype, got["model"][name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(got["model"][name], value)


@FORMATS
def test_views_share_a_storage(tmp_path, write):
    storage = np.arange(24, dtype=np.float32)
    whole = storage.reshape(4, 6)
    views = {
        "part": Tensor(storage, (2, 3), (6, 1), offset=8),
        "transposed": Tensor(storage, (6, 4), (1, 6)),
        "parameter": Call("torch._utils", "_rebuild_parameter", Tensor(storage, (24,), (1,)), 0, 0),
    }
    got = load(tmp_path, write(views))
    np.testing.assert_array_equal(got["part"], whole[1:3, 2:5])
    np.testing.assert_array_equal(got["transposed"], whole.T)
    np.testing.assert_array_equal(got["parameter"], storage)
    assert np.shares_memory(got["part"], got["transposed"])


@FORMATS
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path, write):
    content = write(
        {"model": np.ones(3, np.float32), "x": Call("os", "system", f"touch {tmp_path}/x")}
    )
    with pytest.raises(DataError, match=r"f\.pt: .*os\.system.*nothing of it was run"):
        load(tmp_path, content)
    assert os.listdir(tmp_path) == ["f.pt"]


@FORMATS
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(np.ones(4, np.float32), (5,), (1,)), "shape"),
        (Tensor(np.ones(4, np.float32), (2,), (1,), offset=3), "shape"),
        (Tensor(np.ones(4, np.float32), (2, 2), (3, 1)), "shape"),
        (Tensor(np.ones(4, np.float32), (2,), (-1,), offset=3), "shape"),
        (Tensor(np.ones(4, np.float32), (2,), (1,), offset=-1), "shape"),
        (Tensor(np.ones(4, np.float32), (1 << 30,), (0,)), "shape"),
        (Tensor(np.ones(4, np.float32), (4,), (1,), count=1 << 30), "1073741824"),
    ],
)
def test_sizes_that_the_file_does_not_hold_are_refused(tmp_path, write, tensor, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, write({"x": tensor}))


@FORMATS
def test_a_truncated_checkpoint_is_one_clear_error(tmp_path, write):
    content = write({"a": np.ones(40, np.float32), "b": np.ones(3, np.float16)})
    for length in range(0, len(content), 7):
        with pytest.raises(DataError, match=r"f\.pt: "):
            load(tmp_path, content[:length])
    with pytest.raises(DataError, match=r"download or copy it again|is it complete\?"):
        load(tmp_path, content[:-2])


@FORMATS
@given(place=st.integers(0, 300), byte=st.integers(0, 255))
def test_a_damaged_checkpoint_gives_an_error_or_data(tmp_path_factory, write, place, byte):
    content = bytearray(write({"a": np.ones(4, np.float32), "n": argparse.Namespace(b="c")}))
    content[place % len(content)] = byte
    try:
        load(tmp_path_factory.mktemp("f"), bytes(content))
    except DataError:
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (legacy({}, little_endian=False), "little_endian"),
        (zipped({}, byteorder=b"big"), "big-endian"),
        (zipped({"a": np.zeros(9000, np.float32)}, compression=zipfile.ZIP_DEFLATED), "unpacks to"),
        (b"\x80\x02K\x01.", "not a checkpoint of PyTorch"),
        (b"hello", "not a readable pickle"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, content)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"data\.pkl' is missing"):
        weights.load(tmp_path / "f.zip")


def test_safetensors_of_every_precision(tmp_path):
    arrays = {
        str(dtype): np.asarray([[1.5, -2], [0, 3]], dtype)
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16)
    }
    got = load(tmp_path, safetensors(arrays), "m.safetensors")
    for name, value in arrays.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load(tmp_path, safetensors(arrays)[:-1], "m.safetensors")


ARRAYS = {
    "a": np.ones(2, np.float32),
    "b": np.zeros(3, np.float32),
    "c": np.ones((1, 2), np.float16),
}


@pytest.mark.parametrize(
    ("stem", "suffix", "write"),
    [("model", "safetensors", safetensors), ("pytorch_model", "bin", legacy)],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_directory_of_hugging_face(tmp_path, stem, suffix, write, pieces):
    if pieces == 1:
        (tmp_path / f"{stem}.{suffix}").write_bytes(write(ARRAYS))
    else:
        index = {"weight_map": {}}
        for i, names in enumerate(("ab", "c")):
            file = f"{stem}-{i}-of-2.{suffix}"
            (tmp_path / file).write_bytes(write({n: ARRAYS[n] for n in names}))
            index["weight_map"] |= dict.fromkeys(names, file)
        (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    got = weights.load(tmp_path)
    assert set(got) == set(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(got[name], value)
    assert weights.checkpoint(tmp_path).count("sha256:") == pieces


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "../x.safetensors"}}', "not in its folder"),
        ('{"weight_map": {"a": "x.safetensors"}}', "x.safetensors is not there"),
        ("[]", "not an index"),
        ("{", "not an index"),
    ],
)
def test_an_index_names_files_that_are_there(tmp_path, index, message):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match=message):
        weights.load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.pt: no such file"):
        weights.load(tmp_path / "nothing.pt")
    with pytest.raises(DataError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        weights.load(tmp_path)


def test_the_checkpoint_is_recorded_by_its_hash(tmp_path):
    (tmp_path / "f.pt").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert weights.checkpoint(tmp_path / "f.pt") == f"f.pt sha256:{digest}"
