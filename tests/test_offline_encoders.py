"""Encoders that work without a download: their framing, and their numbers against other code."""

import sys

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.signal
import skimage.data
from PIL import Image
from scipy.spatial.transform import Rotation

from imat_jax.data.corpus import DataError
from imat_jax.encoders import facemesh, faces, handcrafted, hf_audio, litert, speech_embedding

RATE = 16_000
AUDIO = {
    "speech-embedding": speech_embedding.encoder,
    "mfcc": handcrafted.mfcc,
    "logmel": handcrafted.logmel,
    "egemaps": handcrafted.egemaps,
}


def made(build):
    try:
        return build()
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=AUDIO)
def audio(request):
    return made(AUDIO[request.param])


@pytest.fixture(scope="module")
def mesh():
    return made(facemesh.encoder)


@pytest.fixture(scope="module")
def crop():
    """The astronaut's face, 256 x 256."""
    detector = made(faces.Detector)
    return next(faces.track([(0.0, skimage.data.astronaut())], detector)).crop


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, samples).astype(np.float32)


def voice(seconds, pitch):
    """Pulses through two resonances, with some breath."""
    pulses = (np.arange(int(seconds * RATE)) * pitch / RATE % 1 < pitch / RATE).astype(float)
    for formant, width in ((600, 80), (1400, 100)):
        pole = np.exp(-np.pi * width / RATE + 2j * np.pi * formant / RATE)
        pulses = scipy.signal.lfilter([1], [1, -2 * pole.real, abs(pole) ** 2], pulses)
    wave = 0.3 * pulses / np.abs(pulses).max() + 0.1 * noise(len(pulses))
    return wave.astype(np.float32)


def columns(features):
    return dict(zip(facemesh.COLUMNS, np.asarray(features, float), strict=True))


# Every encoder.


def test_features_are_finite_and_of_the_announced_width(audio):
    lengths = (0, 1, 79, 80, 399, 959, 960, 1600, 16_000, 33_600)
    for length, features in zip(lengths, audio.encode([noise(n) for n in lengths]), strict=True):
        assert features.dtype == np.float32 and features.shape[1:] == (audio.modality.dim,)
        assert np.isfinite(features).all()
        assert len(features) <= length
    assert np.isfinite(audio.encode([np.zeros(RATE, np.float32)])[0]).all()
    assert audio.encode([]) == []


def test_a_clip_has_the_same_bits_alone_and_among_others(audio):
    clips = [voice(0.7, 120), noise(20_000), np.zeros(3000, np.float32)]
    for clip, among in zip(clips, audio.encode(clips), strict=True):
        np.testing.assert_array_equal(audio.encode([clip])[0], among)


def test_the_frame_rate_is_the_announced_one(audio):
    short, long = (len(f) for f in audio.encode([noise(5 * RATE), noise(25 * RATE)]))
    assert long - short == pytest.approx(20 * audio.modality.rate_hz, abs=1)


def test_the_checkpoint_names_files_with_hashes_or_the_library(audio, mesh):
    assert mesh.modality.checkpoint.count(" sha256:") == 2
    if audio.modality.extractor == "speech-embedding":
        assert audio.modality.checkpoint.count(" sha256:") == 2
    else:
        assert audio.modality.checkpoint.startswith("none (")
    assert mesh.modality.rate_hz is None


# Speech embedding.


@pytest.fixture(scope="module")
def speech():
    return made(speech_embedding.encoder)


@pytest.mark.parametrize(
    "samples, frames",
    [(0, 0), (1, 1), (1600, 1), (12_512, 1), (13_791, 1), (13_792, 2), (33_600, 17), (80_000, 53)],
)
def test_speech_frames_begin_every_80_ms(speech, samples, frames):
    assert speech.encode([noise(samples)])[0].shape == (frames, 96)


def test_speech_embeddings_are_those_of_the_whole_spectrogram(speech):
    """As openWakeWord computes them: the clip's spectrogram first, then windows of it."""
    wave = voice(2.1, 150) + 0.02 * noise(33_600)
    mel = litert.Network("pyopen_wakeword", "models/melspectrogram.tflite", (1, 33_600))
    (decibels,) = mel(wave[None] * np.float32(32768))
    assert decibels.shape == (1, 1, 207, 32)
    assert np.ptp(decibels) < 80
    frames = decibels[0, 0] / 10 + 2
    windows = np.stack([frames[i : i + 76] for i in range(0, 207 - 75, 8)])[..., None]
    network = litert.Network("pyopen_wakeword", "models/embedding_model.tflite", windows.shape)
    (expected,) = network(windows.astype(np.float32))
    np.testing.assert_allclose(speech.encode([wave])[0], expected[:, 0, 0], rtol=0, atol=1e-4)


def test_a_part_of_a_clip_has_the_frames_of_the_whole(speech):
    loud_start = voice(3, 130) * np.where(np.arange(3 * RATE) < RATE, 1, 1e-5).astype(np.float32)
    for wave in (voice(3, 130), loud_start):
        whole, part = speech.encode([wave, wave[10 * 1280 : 10 * 1280 + 20_000]])
        np.testing.assert_array_equal(part, whole[10 : 10 + len(part)])


# Mel spectrum and cepstra.


def kaldi_logmel(wave, bins):
    """Kaldi's filter bank in NumPy: fbank of its feature-fbank.cc, without dither or snipping."""
    frames = (len(wave) + 80) // 160
    index = np.arange(frames)[:, None] * 160 + 80 - 200 + np.arange(400)
    index = np.where(index < 0, -index - 1, index)
    index = np.where(index >= len(wave), 2 * len(wave) - 1 - index, index)
    x = (wave.astype(np.float64) * 32768)[index]
    x -= x.mean(axis=1, keepdims=True)
    x = x - 0.97 * np.concatenate([x[:, :1], x[:, :-1]], axis=1)
    x *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85  # Povey's window
    power = np.abs(np.fft.rfft(x, 512)) ** 2
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    edges = np.linspace(mel(20), mel(8000), bins + 2)
    at = mel(np.arange(257) * RATE / 512)[:, None]
    rise = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    weights = np.maximum(np.minimum(rise, fall), 0)
    weights[256] = 0  # Kaldi leaves the Nyquist bin out
    return np.log(np.maximum(power @ weights, np.finfo(np.float32).eps))


def test_logmel_is_kaldis_filter_bank():
    wave = voice(0.5, 140)
    (features,) = made(handcrafted.logmel).encode([wave])
    assert features.shape == (50, 80)
    np.testing.assert_allclose(features, kaldi_logmel(wave, 80), rtol=0, atol=2e-3)


def test_mfcc_are_its_cosine_transform():
    wave = voice(0.5, 140)
    (features,) = made(handcrafted.mfcc).encode([wave])
    cepstra = scipy.fft.dct(kaldi_logmel(wave, 40), norm="ortho")[:, :20]
    lifter = 1 + 11 * np.sin(np.pi * np.arange(20) / 22)
    np.testing.assert_allclose(features, cepstra * lifter, rtol=0, atol=1e-2)


def test_a_louder_voice_moves_the_first_cepstrum_only():
    wave = voice(0.5, 140)
    soft, loud = made(handcrafted.mfcc).encode([wave, 2 * wave])
    expected = np.zeros((50, 20))
    expected[:, 0] = np.sqrt(40) * np.log(4)
    np.testing.assert_allclose(loud - soft, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("samples, frames", [(79, 0), (80, 1), (1600, 10), (1679, 10), (1680, 11)])
def test_mel_frames_are_as_many_as_centiseconds(samples, frames):
    for build in (handcrafted.mfcc, handcrafted.logmel):
        assert len(made(build).encode([noise(samples)])[0]) == frames


# eGeMAPS.


def test_egemaps_hears_pitch_and_loudness():
    egemaps = made(handcrafted.egemaps)
    low, high, soft = egemaps.encode([voice(1, 110), voice(1, 220), 0.1 * voice(1, 110)])
    assert low.shape == (96, 25)
    pitch = [np.median(f[:, 10][f[:, 10] > 0]) for f in (low, high)]  # semitones above 27.5 Hz
    np.testing.assert_allclose(pitch, [24, 36], atol=0.3)
    assert soft[:, 0].mean() < 0.5 * low[:, 0].mean()


@pytest.mark.parametrize("samples, frames", [(959, 0), (960, 2), (16_000, 96)])
def test_egemaps_needs_60_ms(samples, frames):
    assert len(made(handcrafted.egemaps).encode([noise(samples)])[0]) == frames


# Face mesh.


def warp(picture, x, y, radius, *, stretch_x=0.0, stretch_y=0.0, up=0.0):
    """The picture around (x, y) stretched by 1 / (1 - stretch), or moved up by pixels."""
    row, column = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(float)
    near = np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * radius**2))
    row = row - near * (stretch_y * (row - y) - up)
    column = column - near * stretch_x * (column - x)
    channels = [
        scipy.ndimage.map_coordinates(picture[..., c].astype(float), [row, column], order=1)
        for c in range(3)
    ]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def test_the_mesh_lies_on_the_face(mesh, crop):
    (features,) = mesh.encode([crop[None]])
    assert features.shape == (1, 223) == (1, len(facemesh.COLUMNS)) and features.dtype == np.float32
    face = columns(features[0])
    assert face["face_score"] > 0.99
    # In the photograph, by eye: outer corners of the eyes 99 pixels apart, mouth 74 wide.
    assert face["mouth_width"] == pytest.approx(74 / 99, abs=0.05)
    # The order is that of iBUG: the person's right is at the left.
    assert face["ibug_36_x"] == pytest.approx(-0.5, abs=0.05)
    assert face["ibug_45_x"] == pytest.approx(0.5, abs=0.05)
    assert face["ibug_48_x"] < face["ibug_51_x"] < face["ibug_54_x"]
    assert face["ibug_19_y"] < face["ibug_37_y"] < face["ibug_33_y"] < face["ibug_57_y"]
    assert face["ibug_08_y"] == max(face[f"ibug_{i:02d}_y"] for i in range(68))
    assert face["ibug_30_z"] < face["ibug_33_z"] < face["ibug_03_z"]  # tip, base, jaw


RIGHT_EYE, LEFT_EYE = dict(x=90, y=95, radius=14), dict(x=162, y=98, radius=14)
BROWS = dict(x=96, y=72, radius=20), dict(x=160, y=80, radius=20)
CORNERS = dict(x=87, y=157, radius=16), dict(x=160, y=160, radius=16)
MOUTH = dict(x=123, y=166)
PROXIES = (*facemesh.DISTANCES, *facemesh.HEIGHTS, *facemesh.EYES)


@pytest.mark.parametrize(
    "warps, proxies, least",
    [
        ([MOUTH | dict(radius=20, stretch_y=0.5)], ["mouth_open"], 0.04),
        ([MOUTH | dict(radius=40, stretch_x=0.25)], ["mouth_width"], 0.03),
        ([LEFT_EYE | dict(stretch_y=0.45)], ["eye_open_left"], 0.03),
        ([RIGHT_EYE | dict(stretch_y=0.45)], ["eye_open_right"], 0.03),
        ([w | dict(up=10) for w in BROWS], ["brow_inner_left", "brow_inner_right"], 0.01),
        ([w | dict(up=10) for w in CORNERS], ["lip_corner_left", "lip_corner_right"], 0.01),
    ],
)
def test_a_proxy_of_an_action_unit_follows_the_face(mesh, crop, warps, proxies, least):
    """Stretched and, by the opposite, squeezed, or raised and lowered."""
    more, less = crop, crop
    for options in warps:
        where = {k: options[k] for k in ("x", "y", "radius")}
        how = {k: v for k, v in options.items() if k not in where}
        more = warp(more, **where, **how)
        less = warp(less, **where, **{k: -v for k, v in how.items()})
    below, neutral, above = map(columns, mesh.encode([np.stack([less, crop, more])])[0])
    for name in proxies:
        assert above[name] > neutral[name] + least
        assert below[name] < neutral[name] - least


def test_one_eye_can_close_alone(mesh, crop):
    wink = warp(crop, **LEFT_EYE, stretch_y=-1.5)
    open_, closed = map(columns, mesh.encode([np.stack([crop, wink])])[0])
    assert closed["eye_open_left"] < 0.75 * open_["eye_open_left"]
    assert closed["eye_open_right"] > 0.9 * open_["eye_open_right"]


@pytest.mark.parametrize("degrees", [-30, -10, 20, 30])
def test_roll_is_a_column_of_its_own(mesh, crop, degrees):
    tilted = np.asarray(Image.fromarray(crop).rotate(-degrees, Image.BILINEAR))  # clockwise
    upright, rolled = mesh.encode([np.stack([crop, tilted])])[0]
    turn = columns(rolled)["roll"] - columns(upright)["roll"]
    assert np.rad2deg(turn) == pytest.approx(degrees, abs=2)
    points = slice(0, 3 * 68)
    assert np.abs(rolled - upright)[points].mean() < 0.01


def test_place_and_size_do_not_matter(mesh, crop):
    smaller = np.zeros_like(crop)
    smaller[20:250, 10:240] = Image.fromarray(crop).resize((230, 230), Image.BICUBIC)
    shifted = np.roll(crop, (12, -9), axis=(0, 1))
    first, *others = mesh.encode([np.stack([crop, smaller, shifted])])[0]
    for other in others:
        assert np.abs(other - first).mean() < 0.015


def test_a_mirrored_face_has_its_sides_exchanged(mesh, crop):
    face, mirrored = map(columns, mesh.encode([np.stack([crop, crop[:, ::-1]])])[0])
    for name in PROXIES:
        swap = {"left": "right", "right": "left"}
        stem, _, side = name.rpartition("_")
        other = f"{stem}_{swap[side]}" if side in swap else name
        assert mirrored[other] == pytest.approx(face[name], abs=0.03), name
    assert mirrored["roll"] == pytest.approx(-face["roll"], abs=0.03)


def test_who_looks_to_the_pictures_right_has_yaw_to_the_own_left(mesh):
    cameraman = np.repeat(skimage.data.camera()[..., None], 3, axis=2)
    (face,) = faces.track([(0.0, cameraman)], made(faces.Detector))
    mirrored = face.crop[:, ::-1]
    right, left = mesh.encode([np.stack([face.crop, mirrored])])[0]
    assert columns(right)["yaw"] > 0.4 and columns(left)["yaw"] < -0.4


@pytest.mark.parametrize(
    "name, axis", [("yaw", [0, -1, 0]), ("pitch", [-1, 0, 0]), ("roll", [0, 0, 1])]
)
def test_turning_the_points_turns_the_pose_alone(name, axis):
    """Of points in space; x to the right, y down, z away."""
    points = np.random.default_rng(0).normal(0, 30, (468, 3))
    points[[33, 263, 2, 4]] = [(-40, 0, 0), (40, 0, 0), (0, 40, -20), (0, 30, -40)]
    turned = points @ Rotation.from_rotvec(0.3 * np.array(axis)).as_matrix().T + [90, 80, 0]
    before, after = (columns(facemesh._features(p, p, 0.0, 1.0)) for p in (points, turned))
    nose = (turned - points)[4] - (turned - points)[[33, 263]].mean(axis=0)
    if name == "yaw":
        assert nose[0] > 0  # to the picture's right
    elif name == "pitch":
        assert nose[1] < 0  # up
    assert after[name] - before[name] == pytest.approx(0.3)
    for column in facemesh.COLUMNS:
        if column != name:
            assert after[column] == pytest.approx(before[column], abs=1e-9), column


def test_where_there_is_no_face_the_score_says_so_and_all_is_finite(mesh):
    random = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for row in mesh.encode([np.stack([random, np.zeros_like(random)])])[0]:
        assert columns(row)["face_score"] < 0.01
        assert np.abs(row).max() < 4


def test_a_frame_of_the_mesh_has_the_same_bits_alone_and_among_others(mesh, crop):
    crops = np.stack([crop, crop[:, ::-1], np.zeros_like(crop)])
    whole, first, none = mesh.encode([crops, crops[:1], crops[:0]])
    np.testing.assert_array_equal(whole[:1], first)
    assert len(whole) == 3 and none.shape == (0, 223)


# What is missing.


@pytest.mark.parametrize(
    "module, build, command",
    [
        ("ai_edge_litert.interpreter", facemesh.encoder, "imat_jax[media]"),
        ("ai_edge_litert.interpreter", speech_embedding.encoder, "imat_jax[media]"),
        ("kaldi_native_fbank", handcrafted.mfcc, "imat_jax[media]"),
        ("kaldi_native_fbank", handcrafted.logmel, "imat_jax[media]"),
        ("opensmile", handcrafted.egemaps, "imat_jax[egemaps]"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_command(monkeypatch, module, build, command):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError) as error:
        build()
    assert f"is not installed: pip install '{command}'" in str(error.value)


def hugging_face(folder, **files):
    for name, text in files.items():
        (folder / f"{name}").write_text(text)
    return folder


GOOD = {
    "config.json": '{"model_type": "wav2vec2"}',
    "preprocessor_config.json": '{"sampling_rate": 16000}',
    "model.safetensors": "",
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config.json": None}, r"config\.json: no such file"),
        ({"config.json": "{"}, r"config\.json: not JSON"),
        ({"config.json": '{"model_type": "bert"}'}, r"config\.json: model_type is bert; wav2vec2"),
        ({"config.json": '{"model_type": "wav2vec2", "add_adapter": true}'}, "with an adapter"),
        ({"preprocessor_config.json": None}, r"preprocessor_config\.json: no such file"),
        ({"preprocessor_config.json": '{"sampling_rate": 8000}'}, "is 8000, not 16000"),
        ({"model.safetensors": None}, r"none of model\.safetensors, pytorch_model\.bin"),
    ],
)
def test_a_directory_that_is_no_speech_model_is_an_error(tmp_path, change, message):
    files = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(DataError, match=message):
        hf_audio.encoder(hugging_face(tmp_path, **files))


def test_missing_pytorch_is_an_error_that_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataError, match=r"not installed: pip install 'imat_jax\[features\]'"):
        hf_audio.encoder(hugging_face(tmp_path, **GOOD))
