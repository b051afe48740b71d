"""A trained run looks at media files."""

import json
import pathlib
import shutil

import clips
import jax
import numpy as np
import pytest
import served
import talking
from served import program

from imat_jax import predict
from imat_jax.cli import UsageError
from imat_jax.data.corpus import DataError
from imat_jax.encoders.clips import Clip


@pytest.fixture(scope="module")
def run(shared):
    """A run of two updates on the features of four clips, and the clips."""
    return shared("on-media", served.make_run)


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


@pytest.fixture(scope="module")
def reading(run):
    """`reading(file)` is the report on a file."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        opened = predict.open_run(run / "run", [], None)
        options = dict(window=3.0, hop=1.0)
        yield (
            lambda file, words=None: (
                predict.predict(
                    Clip("clip", str(file), transcript=words), *opened, **options
                ).report
            )
        )


def test_the_whole_is_what_evaluation_saw(run, reading):
    """The probabilities of a clip of the valid split are those of the run's own predictions."""
    with np.load(run / "run" / "predictions" / "valid.npz") as archive:
        [outputs] = archive["outputs"]
    share = np.exp(outputs) / np.exp(outputs).sum()
    values = reading(run / "media" / "nobody.mp4")["prediction"]["values"]
    np.testing.assert_allclose(list(values.values()), share, atol=1e-5)


def test_a_clip_of_one_picture(reading, tmp_path):
    path = clips.clip(
        tmp_path / "one.mp4", 0.1, fps=10, audio=False, size=(256, 256), show=talking.portrait
    )
    report = reading(path)
    assert report["frames"]["vision"] == 1 and len(report["windows"]) == 1


def test_words_from_the_command_line(run, reading):
    mute = reading(run / "media" / "mute.mp4", "hello there")
    assert mute["missing"] == ["audio"] and mute["transcript"] == "hello there"
    assert mute["frames"]["text"] == 4


def test_a_name_or_a_word_is_no_formula(run, tmp_path):
    path = tmp_path / "vid$_$11.mp4"
    shutil.copy(run / "media" / "nobody.mp4", path)
    done = program("predict", run / "run", path, "--transcript=$a_ and $b^", f"--output={tmp_path}")
    assert (tmp_path / "vid$_$11.png").is_file() and "vid$_$11.mp4" in done.stdout


def test_a_clip_with_nothing_in_it_is_an_error(reading, tmp_path):
    path = clips.clip(tmp_path / "blank.mp4", 1.0, audio=False)
    with pytest.raises(DataError, match="no words, no sound, no face"):
        reading(path)


def altered(run, tmp_path, change):
    """The run with another record of its dataset."""
    shutil.copytree(run / "run", tmp_path / "run")
    path = tmp_path / "run" / "dataset.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))
    return tmp_path / "run"


def test_other_weights_are_an_error(run, tmp_path):
    def other(metadata):
        metadata["modalities"]["audio"]["checkpoint"] = "embedding_model.tflite sha256:00"

    with pytest.raises(DataError, match=r"audio was made by .*sha256:00.*--encoders=audio="):
        predict.open_run(altered(run, tmp_path, other), [], None)


def test_a_run_on_features_from_elsewhere_is_an_error(run, tmp_path):
    other = altered(run, tmp_path, lambda metadata: metadata["facts"].pop("extraction"))
    with pytest.raises(UsageError, match="not made by `imat extract`"):
        predict.open_run(other, [], None)


def test_a_file_that_is_not_there_is_an_error(run):
    done = program("predict", f"--workdir={run / 'run'}", "gone.mp4", check=False)
    assert done.returncode == 1 and "gone.mp4: no such file" in done.stderr
    assert "Traceback" not in done.stderr
