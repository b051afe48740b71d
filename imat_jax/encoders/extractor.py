"""Clips into features: decode, find the face, encode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imat_jax import encoders
from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders import asr, faces, media
from imat_jax.encoders.clips import Clip
from imat_jax.encoders.encoder import FACE_SIZE
from imat_jax.encoders.faces import Face

BLOCK = 64  # face crops in memory at a time


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How clips become features; datasets record it, and `predict` cooks by it.

    Attributes:
      encoders: {modality: NAME or NAME:PATH}.
      fps: pictures of a video that are looked at, a second.
      asr: directory of a speech recogniser that writes missing transcripts; "": none does.
    """

    encoders: Mapping[str, str]
    fps: float = 10.0
    asr: str = ""


@dataclasses.dataclass(frozen=True)
class Features:
    """Of one clip.

    Attributes:
      frames: {modality: [T, D] float32}; T = 0 where the clip lacks the modality.
      times: [T] seconds from the clip's start of each frame of vision. Pictures without a face have
        no frame: they are missing, not zeros.
      pictures: how many were looked at.
      words: the transcript.
    """

    frames: Mapping[str, np.ndarray]
    times: np.ndarray
    pictures: int
    words: str


class Extractor:
    """The encoders of a recipe, loaded.

    Raises:
      DataError: weights or a package that are not there.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.encoders = {m: encoders.make(m, spec) for m, spec in recipe.encoders.items()}
        self.detector = faces.Detector() if "vision" in self.encoders else None
        if recipe.asr:
            asr.recogniser(recipe.asr)  # kept there

    @property
    def modalities(self) -> dict[str, Modality]:
        """Width and provenance of each modality's features."""
        found = {m: encoder.modality for m, encoder in self.encoders.items()}
        if "vision" in found:
            found["vision"] = dataclasses.replace(found["vision"], rate_hz=self.recipe.fps)
        return found

    def __call__(
        self,
        clips: Sequence[Clip],
        on_face: Callable[[Face], Any] = lambda face: None,
        on_sound: Callable[[np.ndarray], Any] = lambda wave: None,
    ) -> list[Features | DataError]:
        """Features of each clip, or why it has none; text and audio are encoded together.

        on_face: called with what is found in each picture, in order.
        on_sound: called with each waveform [L].
        """
        found = [self._raw(clip, on_face, on_sound) for clip in clips]
        good = [i for i, raw in enumerate(found) if not isinstance(raw, DataError)]
        for m in ("text", "audio"):
            if m in self.encoders:
                inputs = [found[i][m] for i in good]
                for i, frames in zip(good, self.encoders[m].encode(inputs), strict=True):
                    found[i][m] = frames
        return [self._features(clip, raw) for clip, raw in zip(clips, found, strict=True)]

    def text(self, words: str) -> np.ndarray:
        """[T, D] of some words."""
        return self.encoders["text"].encode([words])[0]

    def _raw(
        self,
        clip: Clip,
        on_face: Callable[[Face], Any],
        on_sound: Callable[[np.ndarray], Any],
    ) -> dict[str, Any] | DataError:
        raw: dict[str, Any] = {"times": np.zeros(0), "pictures": 0}
        try:
            raw["text"] = raw["words"] = clip.words()
            if "audio" in self.encoders or self.recipe.asr:
                raw["audio"] = media.audio(clip.file, clip.start, clip.end)
                on_sound(raw["audio"])
            if self.recipe.asr and not raw["words"]:
                raw["text"] = raw["words"] = asr.transcribe(raw["audio"], self.recipe.asr).text
            if "vision" in self.encoders:
                raw |= self._look(clip, on_face)
        except DataError as error:
            return error
        return raw

    def _look(self, clip: Clip, on_face: Callable[[Face], Any]) -> dict[str, Any]:
        pictures, times, encoded = 0, [], [np.zeros((0, self.encoders["vision"].modality.dim))]
        crops: list[np.ndarray] = []
        for face in self.track(clip):
            on_face(face)
            pictures += 1
            if face.crop is None:
                continue
            times.append(face.time - clip.start)
            crops.append(face.crop)
            if len(crops) == BLOCK:
                encoded.append(self._encode(crops))
                crops = []
        encoded.append(self._encode(crops))
        frames = np.concatenate(encoded).astype(np.float32)
        return {"vision": frames, "times": np.asarray(times), "pictures": pictures}

    def track(self, clip: Clip) -> Iterator[Face]:
        """The face in each picture of the clip."""
        pictures = media.frames(clip.file, self.recipe.fps, clip.start, clip.end)
        return faces.track(pictures, self.detector, FACE_SIZE)

    def _encode(self, crops: list[np.ndarray]) -> np.ndarray:
        stacked = np.asarray(crops, np.uint8).reshape(-1, FACE_SIZE, FACE_SIZE, 3)
        return self.encoders["vision"].encode([stacked])[0]

    def _features(self, clip: Clip, raw: dict[str, Any] | DataError) -> Features | DataError:
        if isinstance(raw, DataError):
            return raw
        frames = {m: raw[m] for m in self.encoders}
        if not any(map(len, frames.values())):
            looked_for = {"text": "words", "audio": "sound", "vision": "face"}
            nothing = ", no ".join(looked_for[m] for m in frames)
            return DataError(f"{clip.file}: nothing to read an emotion from: no {nothing}")
        return Features(frames, raw["times"], raw["pictures"], raw["words"])


def reopen(
    recorded: Mapping[str, Any],
    made: Mapping[str, Modality],
    moved: Sequence[str] = (),
    asr: str | None = None,
) -> Extractor:
    """The extractor that features were made with, once more.

    Args:
      recorded: fields of its `Recipe`.
      made: what came out; other modalities are not opened.
      moved: `MODALITY=NAME:PATH` of weights that are elsewhere now.
      asr: directory of a speech recogniser; None: the recorded one.

    Raises:
      DataError: the weights are not there, or not those.
    """
    named = recorded["encoders"] | (encoders.parse(list(moved)) if moved else {})
    writer = recorded["asr"] if asr is None else asr
    chosen = {"encoders": {m: named[m] for m in made}, "asr": writer if "text" in made else ""}
    try:
        extractor = Extractor(Recipe(**{**recorded, **chosen}))
    except DataError as error:
        raise DataError(
            f"{error}. Where the weights are elsewhere now, say --encoders=MODALITY=NAME:PATH"
        ) from error
    for m, found in extractor.modalities.items():
        if found != made[m]:
            raise DataError(
                f"{m} was made by {_describe(made[m])}; here is {_describe(found)}. Its numbers "
                f"would mean something else: give the right weights with --encoders={m}=NAME:PATH"
            )
    return extractor


def _describe(m: Modality) -> str:
    return f"{m.extractor} ({m.checkpoint}, {m.layer}, {m.dim} features, {m.rate_hz} Hz)"
