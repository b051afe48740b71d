"""Damaged files and full disks: what is gone on from, and what is said."""

import json
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import run, small_flags
from test_train import assert_same_run

from imat_jax import rundir
from imat_jax.checkpoint import Checkpoints
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset

STEPS = {"steps": 6, "eval_steps": 3, "data.buckets": 1}


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "bit":
        data[len(data) // 2] ^= 16
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)


def error_of(done):
    """The one line that a failed program ends with."""
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def short(shared, tiny_dataset):
    """A finished run of six updates."""

    def make(folder):
        done = run("train", *small_flags(folder / "whole", tiny_dataset, **STEPS))
        assert done.returncode == 0, done.stderr

    return shared("short", make) / "whole"


@pytest.fixture
def copy(short, tmp_path):
    """A finished run that is to be damaged."""
    workdir = shutil.copytree(short, tmp_path / "run")
    shutil.rmtree(workdir / "predictions")
    (workdir / "results.json").unlink()
    return workdir


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_gone_on_from(
    short, copy, tiny_dataset
):
    last = copy / "checkpoints" / "last"
    damage(last / "6" / "default" / "manifest.ocdbt", "cut")
    done = run("train", *small_flags(copy, tiny_dataset, **STEPS))
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(told) == 1 and f"{last / '6'} is damaged, and now 6.damaged" in told[0]
    assert told[0].endswith("going on from update 3, before it")
    assert "going on from update 3 of" in done.stdout and "Traceback" not in done.stderr
    assert (last / "6.damaged" / "default").is_dir()
    assert_same_run(short, copy)


def test_a_bit_that_no_parser_looks_at_is_seen(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    states = {step: {"x": jnp.arange(1000.0) + step, "n": jnp.int32(step)} for step in (1, 2, 3)}
    for step, state in states.items():
        checkpoints.save(step, state)
    checkpoints.close()
    path = tmp_path / "checkpoints" / "last" / "3" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["sum"] ^= 1  # as good as one in the arrays
    path.write_text(json.dumps(metadata))
    checkpoints = Checkpoints(tmp_path)
    state = checkpoints.restore(states[3])
    assert checkpoints.last_step == 2
    jax.tree.map(np.testing.assert_array_equal, state, states[2])
    checkpoints.save(3, states[3])  # its name is free
    checkpoints.close()
    kept = {p.name for p in (tmp_path / "checkpoints" / "last").iterdir()}
    assert kept == {"2", "3", "3.damaged"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("last/*/default/_METADATA", "no checkpoint to go on from is whole: "),
        ("best/*/params/manifest.ocdbt", "the selected checkpoint, "),
        ("best/*/scores/metadata", "the selected checkpoint, "),
    ],
)
def test_where_no_whole_checkpoint_is_left_nothing_is_touched(copy, tiny_dataset, name, message):
    damaged = list((copy / "checkpoints").glob(name))
    for path in damaged:
        damage(path, "cut")
    before = sorted((copy / "checkpoints").rglob("*"))
    said = error_of(run("train", *small_flags(copy, tiny_dataset, **STEPS)))
    assert message in said and "from a copy" in said
    for path in damaged:
        folder = copy.joinpath(*path.relative_to(copy).parts[:3])
        assert str(folder) in said
    assert sorted((copy / "checkpoints").rglob("*")) == before


@pytest.mark.parametrize(("split", "how"), [("train", "cut"), ("test", "bit")])
def test_a_damaged_shard_is_named(short, tiny_dataset, tmp_path, split, how):
    data = shutil.copytree(tiny_dataset.path, tmp_path / "data")
    (path,) = data.glob(f"*-{split}.array_record*")
    damage(path, how)
    with pytest.raises(DataError, match=f"^{path} is damaged"):
        list(Dataset.open(data).source(split))
    if split == "train":  # in training it comes out of a reading thread
        done = run("train", *small_flags(tmp_path / "run", Dataset.open(data), **STEPS))
        assert f"error: {path} is damaged" in error_of(done)


@pytest.mark.parametrize("name", ["index-train.npz", "dataset_info.json", "features.json"])
def test_other_damaged_files_of_a_dataset_are_named(tiny_dataset, tmp_path, name):
    data = shutil.copytree(tiny_dataset.path, tmp_path / "data")
    damage(data / name, "cut")
    with pytest.raises(DataError, match=f"{name}.* is damaged .*sha256sum -c"):
        Dataset.open(data).index("train")


def small_files_only():
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # of a checkpoint, one is larger


def test_a_full_disk_is_one_line(tiny_dataset, tmp_path):
    flags = small_flags(tmp_path / "run", tiny_dataset, **STEPS)
    said = error_of(run("train", *flags, setup=small_files_only))
    assert f"cannot write a checkpoint to {tmp_path / 'run'}" in said and "Make room" in said


def test_no_room_for_other_files_is_one_line_too(tmp_path):
    with pytest.raises(DataError, match=f"cannot write to {tmp_path}: .*No space left"):
        with rundir.room(tmp_path):
            pathlib.Path("/dev/full").write_text("x")


def test_the_tensorboard_file_holds_what_was_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    writer = rundir.MetricWriter(tmp_path, 2)
    writer.write(3, {"loss": 0.5})
    writer.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, events = path.read_bytes(), []
    while data:  # length, checksum, event, checksum
        size = int(np.frombuffer(data[:8], "<u8")[0])
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert [e.step for e in events] == [0, 2, 3]
    assert events[1].session_log.status == 1
    (value,) = events[2].summary.value
    assert (value.tag, value.simple_value) == ("loss", 0.5)
