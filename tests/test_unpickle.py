"""Pickles of strangers: what is read, what is refused, and that arrays stay in the file."""

import collections
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imat_jax.data import lazy, unpickle
from imat_jax.data.corpus import DataError


def load(tmp_path, content: bytes):
    (tmp_path / "f.pkl").write_bytes(content)
    return unpickle.load(tmp_path / "f.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_of_every_kind_come_back(tmp_path, protocol):
    value = {
        "text": ["é", "", "x" * 300],
        b"bytes": (b"\x00\xff", bytearray(b"ab")),
        "numbers": [1, -(2**70), 1.5, True, None, 2 + 3j],
        "sets": [{1, 2}, frozenset({3})],
        "ordered": collections.OrderedDict(a=1),
        "scalar": [np.float32(1.5), np.int64(3), np.str_("é"), np.bytes_(b"x")],
    }
    got = load(tmp_path, pickle.dumps(value, protocol))
    assert got == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@given(
    array=hnp.arrays(
        st.sampled_from(["<f4", ">f8", "i2", "u1", "?", "U5", "S3", "f2"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_arrays_come_back(tmp_path_factory, protocol, array):
    got = load(tmp_path_factory.mktemp("f"), pickle.dumps([array, array.T], protocol))
    for one, wanted in zip(got, (array, array.T), strict=True):
        read = np.asarray(one)
        assert (read.dtype, read.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(read, wanted)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_objects_come_back(tmp_path, protocol):
    array = np.empty((2, 2), object)
    array[:] = [["a", None], [[1, 2], {"b": b"c"}]]
    got = load(tmp_path, pickle.dumps(array, protocol))
    assert np.asarray(got).tolist() == array.tolist()


def test_large_arrays_stay_in_the_file(tmp_path):
    array = np.arange(30000, dtype=np.float32).reshape(10, 3000)
    got = load(tmp_path, pickle.dumps({"a": array, "again": array, "t": np.asfortranarray(array)}))
    assert isinstance(got["a"]._raw, lazy.Span) and got["again"] is got["a"]
    np.testing.assert_array_equal(got["a"][3], array[3])
    np.testing.assert_array_equal(got["a"][-2:], array[-2:])
    np.testing.assert_array_equal(got["t"][3], array[3])
    np.testing.assert_array_equal(np.stack(list(got["a"])), array)
    with pytest.raises(IndexError):
        got["a"][10]


def claiming(shape) -> bytes:
    """A pickle of three float32 numbers that claims `shape`."""
    made = pickle.dumps(np.zeros(3, np.float32), 3)
    assert made.count(b"K\x03\x85") == 1
    return made.replace(b"K\x03\x85", pickle.dumps(shape, 2)[2:-1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable pickle"),
        (b"hello", "not a readable pickle"),
        (pickle.dumps(list(range(1000)))[:500], "not a readable pickle"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "bytes announced where 2 are left"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.", "bytes announced where 2 are left"),
        (b"\x80\x02\x8b" + struct.pack("<I", 1 << 30) + b"x.", "bytes announced where 2 are left"),
        (claiming((1 << 40,)), "has 12 bytes"),
        (claiming((1 << 62, 1 << 62)), "has 12 bytes"),
        (claiming((-3,)), "has 12 bytes"),
        (
            b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
            "bytearray of a int",
        ),
        (pickle.dumps(np.zeros(2, [("a", "f4")])), "dtype 'V4' are not read"),
        (pickle.dumps(np.zeros(2, "M8[s]")), "dtype 'M8' are not read"),
        (b"\x80\x02Ppersistent\n.", "persistent"),
        (b"\x80\x04\x82\x01.", "registered extension"),
        (pickle.dumps(pytest.raises), "wants to run or import _pytest"),
        (b"\x80\x02cbuiltins\nlist\n}b.", "the state of a"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, content)
    assert str(tmp_path / "f.pkl") in str(error.value)


@given(st.binary(max_size=60), st.integers(0, 5))
def test_noise_gives_an_error_or_data(tmp_path_factory, noise, protocol):
    for content in (noise, bytes([0x80, protocol]) + noise):
        try:
            load(tmp_path_factory.mktemp("f"), content)
        except DataError:
            pass


@pytest.mark.parametrize("compress", [False, True])
def test_an_npz_archive_stays_on_disk(tmp_path, compress):
    array = np.random.default_rng(0).standard_normal((500, 7)).astype(np.float32)
    save = np.savez_compressed if compress else np.savez
    save(tmp_path / "f.npz", array=array, small=np.arange(3), names=np.asarray(["a", "é"]))
    got = lazy.read_npz(tmp_path / "f.npz", {"array", "small", "names"}, large=1000)
    assert isinstance(got["array"], lazy.Array)
    np.testing.assert_array_equal(got["array"][20:30], array[20:30])
    np.testing.assert_array_equal(np.asarray(got["array"]), array)
    assert got["names"].tolist() == ["a", "é"]


MEASURE = """
import sys
import zipfile
from imat_jax.data import builder, sources
corpus = sources.open_corpus("auto", sys.argv[1])
builder.build(corpus, sys.argv[2], progress=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_what_an_npz_archive_unpacks_to_is_bounded(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "f.npz", array=np.zeros((1000, 10)))
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(DataError, match=r"array\.npy unpacks to 80,128 bytes, 1,000 are free"):
        lazy.read_npz(tmp_path / "f.npz", {"array"}, large=1000)
    with zipfile.ZipFile(tmp_path / "g.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("array.npy", bytes(10_000_000))
    with pytest.raises(DataError, match=r"g\.npz: not a readable \.npz archive"):
        lazy.read_npz(tmp_path / "g.npz", {"array"}, large=1000)


@pytest.mark.parametrize("layout", ["npz", "mult"])
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_building_500_mb_takes_little_memory(tmp_path, layout):
    count, frames, dim = 250, 500, 1000  # 500 MB of float32
    path = tmp_path / f"big.{'npz' if layout == 'npz' else 'pkl'}"
    array = np.ones((count, frames, dim), np.float32)
    split = np.where(np.arange(count) < 200, "train", "valid")
    if layout == "npz":
        offsets = np.arange(count + 1) * frames
        ids = np.asarray([f"u{i}" for i in range(count)])
        label = np.linspace(-3, 3, count, dtype=np.float32)
        flat = array.reshape(-1, dim)
        np.savez(path, ids=ids, split=split, label=label, audio=flat, audio_offsets=offsets)
    else:
        parts = {s: array[split == s] for s in ("train", "valid")}
        content = {s: {"audio": a, "labels": np.ones((len(a), 1, 1))} for s, a in parts.items()}
        with path.open("wb") as file:
            pickle.dump(content, file, 4)
        del parts, content
    del array
    command = [sys.executable, "-c", MEASURE, path, tmp_path / "d"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(said) / 1024 < 500  # MB, imports included; the array alone would be 500
