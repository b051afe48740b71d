"""A trained run looks at media files."""

import json
import pathlib
import shutil
import subprocess
import sys

import clips
import pytest
import talking

ROOT = pathlib.Path(__file__).parents[1]


def program(verb, *flags, check=True):
    command = [sys.executable, "-m", f"imat_jax.{verb}", *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two updates on the features of four clips, and the clips."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "media").mkdir()
    talking.make(folder / "media")
    program("extract", f"--input={folder / 'media'}", f"--output={folder / 'data'}")
    settings = [f"--config.{k}" for k in ("steps=2", "model.width=8", "model.ffn=8")]
    program(
        "train", "--config=configs/offline.py", f"--config.dataset={folder / 'data'}",
        f"--workdir={folder / 'run'}", *settings,
    )  # fmt: skip
    shutil.rmtree(folder / "data")  # predicting does not need it
    return folder


def test_files_of_every_kind(run, tmp_path):
    """Sound, face and words; no words; nothing that is a face; a file that is none."""
    files = [run / "media" / name for name in ("all.mp4", "mute.mp4", "nobody.mp4")]
    letter = tmp_path / "letter.mp4"
    letter.write_text("Dear Sir or Madam")
    done = program(
        "predict", f"--workdir={run / 'run'}", "--json", f"--output={tmp_path / 'out'}",
        "--window=0.5", "--hop=0.25", *files, letter, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "1 of 4 files could not be read" in done.stderr
    everything, mute, nobody, none = json.loads(done.stdout)
    assert "letter.mp4" in none["error"]
    assert everything["missing"] == [] and everything["transcript"] == "hello there"
    assert mute["missing"] == ["text", "audio"] and mute["pictures_with_a_face"] == 10
    assert nobody["missing"] == ["text", "vision"] and nobody["pictures"] == 10
    for report in (everything, mute, nobody):
        values = report["prediction"]["values"]
        assert set(values) == {"glad", "sad"} and abs(sum(values.values()) - 1) < 1e-6
        assert report["prediction"]["label"] == max(values, key=values.get)
        assert json.loads(pathlib.Path(report["json"]).read_text()) == report
        assert pathlib.Path(report["strip"]).read_bytes().startswith(b"\x89PNG")
        starts = [w["start"] for w in report["windows"]]
        assert starts == [0.0, 0.25, 0.5, 0.75][: len(starts)]
    # The words are said in the first second.
    assert len({json.dumps(w["prediction"]) for w in everything["windows"]}) > 1


def test_the_whole_is_what_evaluation_saw(run):
    """The probabilities of a clip of the valid split are those of the run's own predictions."""
    import numpy as np

    with np.load(run / "run" / "predictions" / "valid.npz") as archive:
        [outputs] = archive["outputs"]
    share = np.exp(outputs) / np.exp(outputs).sum()
    done = program(
        "predict", run / "run", run / "media" / "nobody.mp4", "--json", "--nostrip",
        f"--output={run / 'out'}",
    )  # fmt: skip
    [report] = json.loads(done.stdout)
    np.testing.assert_allclose(list(report["prediction"]["values"].values()), share, atol=1e-5)


def test_a_table_for_people(run):
    done = program("predict", f"--workdir={run / 'run'}", run / "media" / "all.mp4")
    first, whole, picture = done.stdout.splitlines()
    assert first.endswith("all.mp4  1.2 s")
    assert "glad" in whole and "sad" in whole and picture.endswith("all.png")


def test_other_weights_are_an_error(run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run / "run", other)
    path = other / "dataset.json"
    metadata = json.loads(path.read_text())
    metadata["modalities"]["audio"]["checkpoint"] = "embedding_model.tflite sha256:00"
    path.write_text(json.dumps(metadata))
    done = program("predict", f"--workdir={other}", run / "media" / "all.mp4", check=False)
    assert done.returncode == 1 and "sha256:00" in done.stderr and "Traceback" not in done.stderr


def test_a_run_on_features_from_elsewhere_is_an_error(run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run / "run", other)
    path = other / "dataset.json"
    metadata = json.loads(path.read_text())
    del metadata["facts"]["extraction"]
    path.write_text(json.dumps(metadata))
    done = program("predict", f"--workdir={other}", run / "media" / "all.mp4", check=False)
    assert done.returncode == 1 and "not made by `imat extract`" in done.stderr


def test_no_file_is_an_error(run):
    done = program("predict", f"--workdir={run / 'run'}", check=False)
    assert done.returncode == 1 and "which files" in done.stderr
    done = program("predict", f"--workdir={run / 'run'}", "gone.mp4", check=False)
    assert done.returncode == 1 and "gone.mp4" in done.stderr and "Traceback" not in done.stderr


def test_a_clip_of_one_picture(run, tmp_path):
    path = clips.clip(
        tmp_path / "one.mp4", 0.1, fps=10, audio=False, size=(256, 256), show=talking.portrait
    )
    done = program("predict", run / "run", path, "--json", f"--output={tmp_path}")
    [report] = json.loads(done.stdout)
    assert report["frames"]["vision"] == 1
