"""The made clips of examples/demo_media.py."""

import csv
import subprocess
import sys

import av
import numpy as np
import pytest
from skimage import data

from examples import demo_media
from imat_jax.cli import UsageError

pytest.importorskip("espeakng_loader", reason="its voice: pip install 'imat_jax[demo]'")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media") / "demo"
    demo_media.make(folder, clips=4, seed=0, progress=False)
    return folder


@pytest.fixture(scope="module")
def table(made):
    with (made / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mean_pitch(wave):
    """Hz: the median over voiced frames of the highest autocorrelation from 60 to 450 Hz."""
    size, fastest, slowest = 1024, demo_media.SAMPLE_RATE // 450, demo_media.SAMPLE_RATE // 60
    found = []
    for start in range(0, len(wave) - size, size // 2):
        frame = wave[start : start + size].astype(float)
        frame -= frame.mean()
        spectrum = np.abs(np.fft.rfft(frame, 2 * size)) ** 2
        r = np.fft.irfft(spectrum)[:size]
        r /= r[0] + 1e-9
        r *= size / (size - np.arange(size))  # fewer products at a longer lag
        lag = fastest + np.argmax(r[fastest:slowest])
        if frame.std() > 300 and r[lag] > 0.6:
            found.append(demo_media.SAMPLE_RATE / lag)
    return np.median(found)


def test_the_table_names_one_clip_of_each_class(made, table):
    assert list(table[0]) == ["id", "file", "split", "group", "label"]
    assert sorted(row["label"] for row in table) == ["angry", "happy", "neutral", "sad"]
    assert {row["file"] for row in table} == {
        str(path.relative_to(made)) for path in made.rglob("*.mp4")
    }
    assert all(row["id"].startswith("made-") for row in table)
    assert all((made / row["file"]).with_suffix(".txt").read_text().strip() for row in table)
    assert not list(made.parent.glob(".*"))


def test_every_file_says_that_it_is_made_and_holds_picture_and_sound_of_one_length(made, table):
    for row in table:
        with av.open(made / row["file"]) as file:
            assert file.metadata["comment"].startswith("MADE by")
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, video.pix_fmt) == (256, 256, "yuv420p")
            assert (video.average_rate, audio.rate, audio.channels) == (25, 22_050, 1)
            frames = samples = 0
            for frame in file.decode(video, audio):
                if isinstance(frame, av.VideoFrame):
                    frames += 1
                else:
                    samples += frame.samples
        assert 2 <= frames / 25 <= 4
        assert abs(frames / 25 - samples / 22_050) < 0.1


def test_the_sound_begins_with_the_picture(made, table):
    for row, clip in zip(table, demo_media.plan(4, seed=0), strict=True):
        wave = demo_media.speech(clip, seed=0)
        with av.open(made / row["file"]) as file:
            heard = np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)])
            assert file.streams.audio[0].start_time == file.streams.video[0].start_time == 0
        assert np.corrcoef(wave, heard[: len(wave)])[0, 1] > 0.98  # AAC loses a little


def test_equal_seeds_give_equal_waveforms_whatever_was_said_before():
    clips = demo_media.plan(4, seed=3)
    forward = [demo_media.speech(clip, seed=3) for clip in clips]
    backward = [demo_media.speech(clip, seed=3) for clip in clips[::-1]][::-1]
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a, b)
    other = demo_media.speech(demo_media.plan(4, seed=4)[0], seed=4)
    assert not np.array_equal(forward[0], other)


def test_equal_seeds_give_equal_files(made, tmp_path):
    clip = demo_media.plan(4, seed=0)[0]
    wave = demo_media.speech(clip, seed=0)
    large = demo_media.enlarged(data.astronaut())
    demo_media.write(tmp_path / "again.mp4", demo_media.film(clip, wave, large, seed=0), wave)
    assert (tmp_path / "again.mp4").read_bytes() == (made / f"clips/{clip.id}.mp4").read_bytes()


def test_happy_voices_are_higher_than_sad_ones():
    clips = demo_media.plan(24, seed=0)
    pitch = {
        label: np.mean(
            [mean_pitch(demo_media.speech(c, seed=0)) for c in clips if c.label == label]
        )
        for label in ("happy", "sad")
    }
    assert pitch["happy"] > 1.1 * pitch["sad"]


def edges(label, energy=0.0):
    """Rows [69] of the upper and the lower lip from x = 190 to 258, in pixels of the portrait."""
    mouth, side = demo_media.MOUTH, 512 * demo_media.ZOOM
    at = (np.arange(side) + 0.5) / demo_media.ZOOM - 0.5
    s = np.clip((at - mouth.x) / mouth.width, -1, 1)
    middle, gap = mouth.y + mouth.bend * s**2, mouth.gap * (1 - s**4)
    above, below = at[:, None] < middle - gap, at[:, None] > middle + gap
    large = np.stack([255 * above, 255 * below, 0 * below], axis=2).astype(np.uint8)
    x, y = np.meshgrid(np.arange(190, 259), np.arange(120, 179, 0.1))
    x, y = x.astype(np.float32), y.astype(np.float32)
    shape = list(demo_media.EXPRESSIONS[label])
    image = demo_media.warped(large, x, y, shape, energy=energy, closed=0.0)
    return 120 + 0.1 * (image[:, :, 0] > 128).sum(axis=0), 179 - 0.1 * (image[:, :, 1] > 128).sum(0)


def test_corners_of_the_mouth_go_up_for_happy_and_down_for_sad():
    middle = {label: np.mean(edges(label), axis=0) for label in demo_media.EXPRESSIONS}
    # 12 pixels from the middle of the mouth; y goes down.
    up = {label: m[34] - m[[22, 46]].mean() for label, m in middle.items()}
    assert up["happy"] == pytest.approx(8.0 * (12 / 21.5) ** 2, abs=0.3)
    assert up["sad"] == pytest.approx(-4.0 * (12 / 15.5) ** 2, abs=0.3)
    assert up["neutral"] == pytest.approx(0.5 * (12 / 16.5) ** 2, abs=0.3)


def test_the_mouth_opens_with_the_energy_of_the_speech():
    opened = [np.subtract(*edges("neutral", energy)[::-1])[34] for energy in (0.0, 0.5, 1.0)]
    assert opened == pytest.approx([0.2, 4.2, 8.2], abs=0.3)
    wave = np.zeros(20 * 882, np.int16)
    wave[8 * 882 : 12 * 882] = 8000
    energy = demo_media.loudness(wave, frames=20)
    assert energy[:5].max() < 0.01 and energy[9:11].min() > 0.7 and energy[15:].max() < 0.01


def test_splits_share_no_speaker_and_are_balanced():
    clips = demo_media.plan(48, seed=0)
    assert len({clip.id for clip in clips}) == 48
    groups = {s: {c.group for c in clips if c.split == s} for s in ("train", "valid", "test")}
    assert [len(g) for g in groups.values()] == [7, 2, 3]
    assert not groups["train"] & groups["valid"] | groups["test"] & (
        groups["train"] | groups["valid"]
    )
    for split, speakers in groups.items():
        labels = [clip.label for clip in clips if clip.split == split]
        assert {labels.count(label) for label in demo_media.LABELS} == {len(speakers)}


def test_words_alone_do_not_tell_the_emotion():
    clips = demo_media.plan(400, seed=0)
    plain = [t.split("{")[0] for t in demo_media.PLAIN]
    for label in ("happy", "sad", "angry"):
        said = [clip.transcript for clip in clips if clip.label == label]
        share = np.mean([any(s.startswith(p) for p in plain) for s in said])
        assert 0.2 < share < 0.4


def test_an_existing_folder_and_a_wrong_number_are_errors(made, tmp_path):
    with pytest.raises(UsageError, match="demo exists already; give another --output"):
        demo_media.make(made, clips=4, seed=0)
    with pytest.raises(UsageError, match="--clips=6: a positive multiple of 4"):
        demo_media.make(tmp_path / "new", clips=6, seed=0)
    with pytest.raises(UsageError, match="--seed=-1: 0 or more"):
        demo_media.make(tmp_path / "new", clips=4, seed=-1)
    assert not any(tmp_path.iterdir())


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['espeakng_loader'] = None\n"
        f"sys.argv = ['demo_media.py', '--output={tmp_path / 'new'}']\n"
        "from examples import demo_media; demo_media.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: no package espeakng_loader: pip install 'imat_jax[media,demo]'\n"
    assert not any(tmp_path.iterdir())
