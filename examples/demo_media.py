"""MAKES a small folder of talking-face clips with emotions. None of it is real data.

    python examples/demo_media.py --output=data/demo-media [--clips=48] [--seed=0]

    table.csv         id,file,split,group,label; file relative to the table
    clips/ID.mp4      2 to 4 s, H.264 256 x 256 at 25 frames/s, AAC mono at 22.05 kHz
    clips/ID.txt      what is said

It lets the path from media files to a prediction be walked on a machine without a network. The
voices, words and faces follow rules that are written below, so a score on these clips says that
the programs work and nothing about emotion recognition. Every id starts with `made-`, and the
metadata of every file says `MADE`.

Four classes, equally many; a `group` is a made-up speaker (voice, light, framing) with one clip of
each class and is in one split only. Words, voice and face each show the emotion weakly or not at
all in 30 % of the clips, drawn apart, so that none of them is enough alone.

Voice: espeak-ng, with rate, pitch, range and volume by emotion. It is GPL-3 software; it is called
here as a library at run time, from the package espeakng-loader, and is not shipped with this code.
Face: `skimage.data.astronaut()`, NASA's portrait of the astronaut Eileen Collins (NASA Great Images
database, public domain), warped. She felt and said nothing of what the clips show.

The same seed gives the same pixels, waveforms and table; files are equal byte for byte under the
same versions of espeak-ng, FFmpeg and x264 on the same kind of processor.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import tqdm
from PIL import Image
from scipy import ndimage

from imat_jax.cli import UsageError, fail

PACKAGES = ("av", "espeakng_loader", "skimage")
COMMENT = "MADE by imat_jax examples/demo_media.py: espeak-ng voice, warped NASA portrait; not real"
COLUMNS = ("id", "file", "split", "group", "label")
LABELS = ("neutral", "happy", "sad", "angry")
WEAK = 0.3  # share of clips in which a modality hardly shows the emotion

SAMPLE_RATE = 22_050  # of espeak-ng, in Hz
FPS = 25
SIZE = 256  # side of the picture, in pixels
SECONDS = (2.0, 4.0)  # shortest and longest clip
LEAD = 0.25  # seconds of silence before the speech and, at least, after it


# What is said by whom --------------------------------------------------------------------------

PLAIN = (
    "The {thing} is on the table by the {place}.",
    "I saw the {thing} at the {place} today.",
    "They moved the {thing} to the {place}.",
    "We will talk about the {thing} at the {place}.",
)
TEMPLATES = {
    "neutral": PLAIN,
    "happy": (
        "I love this {thing}, it is wonderful!",
        "Great news, we won the {thing}!",
        "What a lovely day at the {place}!",
        "I am so glad you came to the {place}!",
    ),
    "sad": (
        "I lost my {thing} and I miss it so.",
        "Nobody came to the {place}, I was alone.",
        "I am sorry, the {thing} is gone for ever.",
        "It hurts to leave the {place} like this.",
    ),
    "angry": (
        "You broke my {thing} again, stop it!",
        "Get out of the {place} right now!",
        "I hate that stupid {thing}, take it away!",
        "How dare you lie about the {thing}!",
    ),
}
THINGS = ("phone", "letter", "car", "game", "picture", "book", "garden", "prize")
PLACES = ("station", "office", "school", "kitchen", "park", "hotel", "market", "library")

# Voice of each emotion: words a minute, then pitch, pitch range and volume on espeak-ng's scales.
PROSODY = {
    "neutral": (165, 45, 40, 80),
    "happy": (185, 75, 85, 95),
    "sad": (130, 25, 10, 45),
    "angry": (205, 48, 85, 150),
}
PROSODY_JITTER = (10, 5, 8, 8)  # standard deviations
VOICES = tuple(
    f"{accent}+{variant}"
    for variant in ("f1", "m1", "f2", "m3", "f3", "m4", "f4", "m7", "f5", "m2")
    for accent in ("en-us", "en", "en-gb-scotland")
)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One row of the table, and how clearly its voice and face show the label, from 0 to 1."""

    id: str
    split: str
    group: str
    speaker: int
    label: str
    transcript: str
    prosody: float
    expression: float


def plan(clips: int, seed: int) -> list[Clip]:
    """Rows of the table: speaker by speaker, one clip of each class in an order of chance.

    Raises:
      UsageError: `clips` is no positive multiple of four, or `seed` is negative.
    """
    if clips < 1 or clips % len(LABELS):
        raise UsageError(f"--clips={clips}: a positive multiple of {len(LABELS)} is needed")
    if seed < 0:
        raise UsageError(f"--seed={seed}: 0 or more is needed")
    rows = []
    for speaker, split in enumerate(splits(clips // len(LABELS))):
        rng = np.random.default_rng([seed, speaker])
        for take, label in enumerate(rng.permutation(LABELS)):
            rows.append(
                Clip(
                    id=f"made-{speaker:03d}-{take}",
                    split=split,
                    group=f"made-{speaker:03d}",
                    speaker=speaker,
                    label=str(label),
                    transcript=sentence(rng, label),
                    prosody=clearness(rng),
                    expression=clearness(rng),
                )
            )
    return rows


def splits(speakers: int) -> list[str]:
    """The split of each speaker, about 60/20/20; all three from three speakers on."""
    test = -(-speakers // 5) if speakers >= 3 else 0
    valid = max(1, speakers // 5) if speakers >= 3 else 0
    return ["train"] * (speakers - valid - test) + ["valid"] * valid + ["test"] * test


def sentence(rng: np.random.Generator, label: str) -> str:
    templates = PLAIN if rng.random() < WEAK else TEMPLATES[label]
    return str(rng.choice(templates)).format(thing=rng.choice(THINGS), place=rng.choice(PLACES))


def clearness(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.0, 0.25) if rng.random() < WEAK else rng.uniform(0.7, 1.0))


# Voice -----------------------------------------------------------------------------------------


def speech(clip: Clip, seed: int) -> np.ndarray:
    """The clip's waveform [L], int16 at 22.05 kHz; L is a whole number of video frames."""
    rng = np.random.default_rng([seed, clip.speaker, LABELS.index(clip.label), 1])
    mean, neutral = np.array(PROSODY[clip.label]), np.array(PROSODY["neutral"])
    values = neutral + clip.prosody * (mean - neutral) + rng.normal(0, PROSODY_JITTER)
    rate, *rest = np.clip(values, (100, 5, 0, 30), (260, 95, 99, 180))
    voice = VOICES[np.random.default_rng(seed).permutation(len(VOICES))[clip.speaker % len(VOICES)]]
    lead = int(LEAD * SAMPLE_RATE)
    while True:
        spoken = synthesise(clip.transcript, voice, round(rate), *map(round, rest))
        if len(spoken) + 2 * lead <= SECONDS[1] * SAMPLE_RATE:
            break
        rate *= 1.1
    seconds = max(SECONDS[0], (len(spoken) + 2 * lead) / SAMPLE_RATE)
    wave = rng.normal(0, 30, int(seconds * FPS) * SAMPLE_RATE // FPS)  # hiss of a room
    wave[lead : lead + len(spoken)] += spoken[: len(wave) - lead]
    return np.clip(wave, -32768, 32767).astype(np.int16)


def synthesise(
    text: str, voice: str, rate: int, pitch: int, pitch_range: int, volume: int
) -> np.ndarray:
    """espeak-ng's waveform [L], int16 at 22.05 kHz."""
    import _ctypes
    import ctypes

    import espeakng_loader

    synchronous, utf8, words_a_minute = 2, 1, 1  # of speak_lib.h
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(wave, samples, events):
        if wave and samples > 0:
            chunks.append(np.ctypeslib.as_array(wave, (samples,)).copy())
        return 0

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        data = espeakng_loader.get_data_path().encode()
        found = library.espeak_Initialize(synchronous, 0, data, 0)
        if found != SAMPLE_RATE:
            raise RuntimeError(f"espeak_Initialize gave {found}, not {SAMPLE_RATE} Hz")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        library.espeak_SetSynthCallback(receive)
        if library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"espeak-ng has no voice {voice}")
        values = (rate, volume, pitch, pitch_range)
        for parameter, value in enumerate(values, start=words_a_minute):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)
        if library.espeak_Synth(encoded, size, 0, 1, 0, utf8, None, None):
            raise RuntimeError(f"espeak-ng cannot say {text!r}")
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
        # Its flutter goes on from one sentence to the next; unloaded, it starts anew.
        _ctypes.dlclose(library._handle)
    return np.concatenate(chunks)


# Face ------------------------------------------------------------------------------------------
# Places and sizes are in pixels of the portrait (512 x 512).


@dataclasses.dataclass(frozen=True)
class Slit:
    """An opening with two edges: a mouth or an eye, as it is in the portrait.

    Its middle line is y + bend s^2 and its edges are gap (1 - s^4) above and below, where s goes
    from -1 to 1 over 2 * width. What lies between `top` and `bottom` follows the edges.
    """

    x: float
    y: float
    width: float
    gap: float
    bend: float
    top: float
    bottom: float


MOUTH = Slit(x=224, y=146.7, width=20, gap=3.3, bend=-5.7, top=132, bottom=196)
EYES = (
    Slit(x=203.0, y=101, width=10, gap=4.2, bend=0.5, top=93.5, bottom=112),
    Slit(x=247.5, y=103, width=10, gap=4.2, bend=0.5, top=95.5, bottom=114),
)
BROWS = ((196, 90), (211, 92), (241, 93), (258, 94))  # outer, inner, inner, outer
THROAT = (60, 20, 20)  # colour inside the mouth
CENTRE = (226, 118)  # of the picture, between head and shoulders
SIDE = 180  # of the picture
ZOOM = 4  # of the portrait, before it is warped

# Mouth y, width, gap, bend; inner and outer brows up; eyes open (1: as in the portrait).
EXPRESSIONS = {
    "neutral": (146.0, 16.5, 0.1, -0.5, 0.0, 0.0, 0.95),
    "happy": (147.5, 21.5, 3.2, -8.0, 1.0, 1.5, 0.8),
    "sad": (145.0, 15.5, 0.1, 4.0, 4.5, -1.5, 0.7),
    "angry": (145.5, 14.5, 0.1, 1.5, -4.0, 0.5, 0.75),
}


@dataclasses.dataclass(frozen=True)
class Look:
    """How a made-up speaker is filmed."""

    mirror: bool
    zoom: float
    shift: np.ndarray  # [2], x and y
    tilt: float  # radians
    tint: np.ndarray  # [3], gain of R, G and B
    light: np.ndarray  # [2], change of brightness from side to side and from top to bottom
    gamma: float

    @classmethod
    def of(cls, speaker: int, seed: int) -> Look:
        rng = np.random.default_rng([seed, speaker, 2])
        return cls(
            mirror=bool(rng.random() < 0.5),
            zoom=rng.uniform(0.85, 1.15),
            shift=rng.uniform(-8, 8, 2),
            tilt=rng.uniform(-0.06, 0.06),
            tint=rng.uniform(0.8, 1.1) * rng.uniform(0.94, 1.06, 3),
            light=rng.uniform(-0.25, 0.25, 2),
            gamma=rng.uniform(0.8, 1.25),
        )


def enlarged(portrait: np.ndarray) -> np.ndarray:
    """[512, 512, 3] in uint8, four times as large: the nearest pixel is near enough then."""
    height, width, _ = portrait.shape
    image = Image.fromarray(portrait).resize(
        (ZOOM * width, ZOOM * height), Image.Resampling.BICUBIC
    )
    return np.asarray(image)


def film(clip: Clip, wave: np.ndarray, large: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Pictures [256, 256, 3] in uint8, one for each 1/25 s of the waveform.

    large: the `enlarged` portrait.
    """
    rng = np.random.default_rng([seed, clip.speaker, LABELS.index(clip.label), 3])
    look = Look.of(clip.speaker, seed)
    frames = len(wave) * FPS // SAMPLE_RATE
    seconds = np.arange(frames) / FPS
    neutral, full = (np.array(EXPRESSIONS[e]) for e in ("neutral", clip.label))
    onset = np.clip((seconds - rng.uniform(0.0, 0.2)) / rng.uniform(0.4, 0.7), 0, 1)
    amplitude = clip.expression * onset**2 * (3 - 2 * onset)
    energy = loudness(wave, frames)
    closed = blinks(rng, seconds)
    sway = [drift(rng, seconds) for _ in range(4)]  # x, y, tilt, zoom

    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5
    v, u = axis[:, None], axis[None]
    tone = np.round(255 * (np.arange(256) / 255) ** look.gamma).astype(np.uint8)
    shade = look.tint * (1 + look.light[0] * u + look.light[1] * v)[:, :, None]
    shade = shade.astype(np.float32)
    for t in range(frames):
        shape = (neutral + amplitude[t] * (full - neutral)).tolist()
        angle = look.tilt + 0.03 * sway[2][t]
        scale = SIDE / (look.zoom * (1 + 0.02 * sway[3][t]))
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        centre = CENTRE + look.shift + (3 * sway[0][t], 2 * sway[1][t])
        x = (centre[0] + cos * u - sin * v).astype(np.float32)
        y = (centre[1] + sin * u + cos * v).astype(np.float32)
        image = warped(large, x, y, shape, float(energy[t]), float(closed[t]))
        image = tone.take(np.clip(image * shade, 0, 255).astype(np.uint8))
        yield np.ascontiguousarray(image[:, ::-1] if look.mirror else image)


def warped(
    large: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    shape: list[float],
    energy: float,
    closed: float,
) -> np.ndarray:
    """What is seen at (x, y), in pixels of the portrait: [H, W, 3] in float32, 0 to 255.

    x, y: [H, W]. shape: a row of `EXPRESSIONS`. energy, closed: of mouth and eyes, from 0 to 1.
    """
    mouth_y, width, gap, bend, inner, outer, eyes = shape
    opening = dataclasses.replace(
        MOUTH, y=mouth_y + 2 * energy, width=width - energy, gap=gap + 4 * energy, bend=bend
    )
    slits = [(MOUTH, opening)]
    for eye in EYES:
        gap = eye.gap * eyes * (1 - 0.98 * closed)
        slits.append((eye, dataclasses.replace(eye, y=eye.y + 0.7 * (eye.gap - gap), gap=gap)))
    dx, dy, dark = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for rest, now in slits:
        near = (y > rest.top) & (y < rest.bottom) & (np.abs(x - now.x) < 2 * now.width)
        sx, sy, inside = reshape(x[near], y[near], rest, now)
        dx[near] += sx
        dy[near] += sy
        if rest is MOUTH:
            dark[near] = inside * min(max((now.gap - 2.5) / 3, 0.0), 0.8)
    near = (y > BROWS[0][1] - 25) & (y < BROWS[0][1] + 25)
    bx, by = x[near], y[near]
    for (px, py), up in zip(BROWS, (outer, inner, inner, outer), strict=True):
        dy[near] += up * np.exp(-(((bx - px) / 10) ** 2) - ((by - py + up) / 6) ** 2)
    column = np.clip(((x + dx + 0.5) * ZOOM).astype(np.int32), 0, large.shape[1] - 1)
    row = np.clip(((y + dy + 0.5) * ZOOM).astype(np.int32), 0, large.shape[0] - 1)
    image = large[row, column].astype(np.float32)
    dark, near = dark[:, :, None], dark > 0
    image[near] += dark[near] * (np.float32(THROAT) - image[near])
    return image


def reshape(
    x: np.ndarray, y: np.ndarray, rest: Slit, now: Slit
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far from (x, y) `rest` has what `now` has there; and 1 inside the slit, 0 outside."""
    s = (x - now.x) / now.width
    near = np.clip(2 - np.abs(s), 0, 1)
    near = near * near * (3 - 2 * near)
    s = np.clip(s, -1, 1)
    arc = 1 - s**4
    middle, middle_was = now.y + now.bend * s * s, rest.y + rest.bend * s * s
    upper, lower = middle - now.gap * arc, middle + now.gap * arc
    between = np.clip((y - upper) / np.maximum(lower - upper, 0.2), 0, 1)
    fade = np.clip((y - rest.top) / (upper - rest.top), 0, 1)
    fade = near * fade * np.clip((rest.bottom - y) / (rest.bottom - lower), 0, 1)
    dx = rest.x - now.x + s * (rest.width - now.width)
    dy = middle_was - middle + (2 * between - 1) * (rest.gap - now.gap) * arc
    return fade * dx, fade * dy, 4 * between * (1 - between) * (arc > 0)


def loudness(wave: np.ndarray, frames: int) -> np.ndarray:
    """[frames], from 0 to 1: the smoothed energy of the speech, which opens the mouth."""
    power = np.sqrt((wave.reshape(frames, -1).astype(np.float64) ** 2).mean(axis=1))
    power = np.clip(power / np.percentile(power, 95) - 0.1, 0, 1)
    return ndimage.gaussian_filter1d(power, 0.8)


def blinks(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """[frames], from 0 to 1: how far the lids are closed."""
    at = np.cumsum(rng.uniform(1.0, 3.0, 4))
    return np.clip(1.4 - np.abs(seconds[:, None] - at) / 0.09, 0, 1).max(axis=1)


def drift(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """[frames], about -1 to 1: a slow motion."""
    waves = zip(rng.uniform(0.15, 0.7, 3), rng.uniform(0, 2 * np.pi, 3), strict=True)
    return sum(np.sin(2 * np.pi * hz * seconds + phase) for hz, phase in waves) / 2


# Files -----------------------------------------------------------------------------------------


def write(path: pathlib.Path, pictures: Iterator[np.ndarray], wave: np.ndarray) -> None:
    """One mp4; pictures [H, W, 3] at 25 frames/s and a waveform [L], int16 at 22.05 kHz."""
    import av

    with av.open(str(path), "w") as file:
        file.metadata["comment"] = COMMENT
        # With one thread the stream is the same on any number of cores.
        options = {"crf": "20", "preset": "veryfast", "threads": "1"}
        video = file.add_stream("libx264", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = SIZE, SIZE, "yuv420p"
        audio = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=64_000)
        sound = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE, 0
        file.mux(audio.encode(sound))
        file.mux(audio.encode())
        for picture in pictures:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())


def make(output: pathlib.Path, clips: int, seed: int, progress: bool = True) -> None:
    """Write the folder; killed, it leaves nothing at `output`.

    Raises:
      UsageError: `output` exists; a package is missing; or as `plan`.
    """
    rows = plan(clips, seed)
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"no package {name}: pip install 'imat_jax[media,demo]'") from error
    from skimage import data

    if output.exists():
        raise UsageError(f"{output} exists already; give another --output, or delete it")
    partial = output.parent / f".{output.name}.making"
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    try:
        (partial / "clips").mkdir(parents=True)
        large = enlarged(data.astronaut())
        with (partial / "table.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for row in tqdm.tqdm(rows, desc="make", unit="clip", disable=not progress):
                name = f"clips/{row.id}.mp4"
                wave = speech(row, seed)
                write(partial / name, film(row, wave, large, seed), wave)
                (partial / name).with_suffix(".txt").write_text(f"{row.transcript}\n")
                table.writerow((row.id, name, row.split, row.group, row.label))
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a new folder")
    parser.add_argument("--clips", type=int, default=48, help="a multiple of 4; 12 for all splits")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        make(args.output, args.clips, args.seed)
    except UsageError as error:
        fail(error)
    print(f"{args.output}: {args.clips} made clips, for trying the programs; not real data")


if __name__ == "__main__":
    main()
