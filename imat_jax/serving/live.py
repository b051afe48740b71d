"""A stream of sound, pictures and words, and the features of its last few seconds.

What a new stretch costs does not depend on how long the stream has run: frames of sound are made
once where the encoder allows it (`Encoder.stride`; else the window is encoded anew), a picture is
looked at once, and words are encoded when they change.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from imat_jax.data.corpus import DataError
from imat_jax.encoders import faces
from imat_jax.encoders.encoder import FACE_SIZE, SAMPLE_RATE
from imat_jax.encoders.extractor import Extractor
from imat_jax.encoders.faces import Face
from imat_jax.encoders.media import LONGEST_SIDE
from imat_jax.serving import answers

JITTER = 0.1  # seconds by which the time of a piece of sound may be off: it goes on from the last
WORDS = 2000  # characters that are read
MOST = 1000  # pictures of a window, whatever times they bear
SIDE = 4096  # pixels of a picture's longer side, at most


class Sound:
    """Sound that goes on, and its features in the last `window` seconds."""

    def __init__(self, extractor: Extractor, window: float):
        self._encoder = extractor.encoders["audio"]
        self._rate = self._encoder.modality.rate_hz
        self._window = window
        self._wave = np.zeros(0, np.float32)
        self._begin = 0  # sample of the stream at which `_wave` begins
        self._frames: deque[np.ndarray] = deque()  # those in the window
        self._next = 0  # frame to be made next

    def push(self, time: float, wave: np.ndarray) -> None:
        """wave [L] at 16 kHz, which begins at `time` seconds; gaps are filled with silence.

        What overlaps with sound that is there is dropped.
        """
        late = round(time * SAMPLE_RATE) - self._begin - len(self._wave)
        if late < -JITTER * SAMPLE_RATE:
            wave = wave[-late:]
        elif late > JITTER * SAMPLE_RATE:
            silence = min(late, round(self._window * SAMPLE_RATE))
            self._forget(late - silence)
            wave = np.concatenate([np.zeros(silence, np.float32), wave])
        self._wave = np.concatenate([self._wave, wave])

    def features(self, end: float) -> np.ndarray:
        """[T, D] of the window that ends at `end` seconds."""
        start = max(end - self._window, 0.0)
        if self._encoder.stride is None:
            self._drop(round(start * SAMPLE_RATE) - self._begin)
            wave = self._wave[: max(round(end * SAMPLE_RATE) - self._begin, 0)]
            return self._encoder.encode([wave])[0]
        size, step = self._encoder.stride
        first = round(start * self._rate)
        gone = max(first, -(-self._begin // step))  # what begins before is not there, or not asked
        if gone > self._next:
            self._frames.clear()
            self._next = gone
        self._drop(self._next * step - self._begin)
        if len(self._wave) >= size:
            new = self._encoder.encode([self._wave])[0]
            self._frames.extend(new)
            self._next += len(new)
        while self._frames and self._next - len(self._frames) < first:
            self._frames.popleft()
        shape = (-1, self._encoder.modality.dim)
        return np.asarray(list(self._frames), np.float32).reshape(shape)

    def _drop(self, samples: int) -> None:
        samples = min(max(samples, 0), len(self._wave))
        self._wave, self._begin = self._wave[samples:], self._begin + samples

    def _forget(self, samples: int) -> None:
        """Go on after a gap that nobody will look into."""
        if samples > 0:
            self._begin += len(self._wave) + samples
            self._wave = self._wave[:0]


class Pictures:
    """Pictures of one face, and its features in the last `window` seconds."""

    def __init__(self, extractor: Extractor, window: float):
        self._encoder, self._window = extractor.encoders["vision"], window
        self._given: list[tuple[float, np.ndarray]] = []
        self._track = faces.track(self._handed(), extractor.detector, FACE_SIZE)
        self._frames: deque[tuple[float, np.ndarray]] = deque()
        self.last: Face | None = None

    def _handed(self) -> Iterator[tuple[float, np.ndarray]]:
        while True:
            yield self._given.pop()

    def push(self, time: float, picture: np.ndarray) -> None:
        """picture [H, W, 3] uint8 at `time` seconds, later than the last."""
        if self.last is not None and time <= self.last.time:
            return
        self._given.append((time, picture))
        self.last = next(self._track)
        if self.last.crop is not None:
            (frames,) = self._encoder.encode([self.last.crop[None]])
            self._frames.append((time, frames[0]))
            if len(self._frames) > MOST:
                self._frames.popleft()

    def features(self, end: float) -> np.ndarray:
        """[T, D] of the window that ends at `end` seconds; pictures without a face have none."""
        while self._frames and self._frames[0][0] < end - self._window:
            self._frames.popleft()
        shape = (-1, self._encoder.modality.dim)
        return np.asarray([x for _, x in self._frames], np.float32).reshape(shape)


class Stream:
    """What one person sends. Not for two threads at once.

    Attributes:
      time: seconds up to which something has come.
    """

    def __init__(self, extractor: Extractor, window: float):
        self._extractor = extractor
        self._sound = Sound(extractor, window) if "audio" in extractor.encoders else None
        self._pictures = Pictures(extractor, window) if "vision" in extractor.encoders else None
        self._text: np.ndarray | None = None
        self.words = ""
        self.time = 0.0

    def sound(self, time: float, content: bytes) -> None:
        """int16 little-endian samples, mono, 16 kHz.

        Raises:
          DataError: half a sample.
        """
        if len(content) % 2:
            raise DataError("sound is int16: an even number of bytes")
        wave = np.frombuffer(content, "<i2").astype(np.float32) / 2**15
        if self._sound:
            self._sound.push(time, wave)
        self.time = max(self.time, time + len(wave) / SAMPLE_RATE)

    def picture(self, time: float, content: bytes) -> None:
        """A JPEG.

        Raises:
          DataError: it is none, or larger than `SIDE`.
        """
        if self._pictures:
            self._pictures.push(time, _jpeg(content))
        self.time = max(self.time, time)

    def say(self, words: str) -> None:
        """These are the words now; the window has no others."""
        self.words = words[:WORDS]
        if "text" in self._extractor.encoders:
            self._text = self._extractor.text(self.words) if self.words.strip() else None

    def features(self) -> dict[str, np.ndarray]:
        """{modality: [T, D]} of the window that ends now; T = 0 where it has nothing."""
        found: dict[str, Any] = {}
        for m, encoder in self._extractor.encoders.items():
            found[m] = np.zeros((0, encoder.modality.dim), np.float32)
        if self._text is not None:
            found["text"] = self._text
        if self._sound:
            found["audio"] = self._sound.features(self.time)
        if self._pictures:
            found["vision"] = self._pictures.features(self.time)
        return found

    def face(self) -> dict[str, Any] | None:
        """{"time", "box"} of the last picture, its box as shares of the picture."""
        last = self._pictures.last if self._pictures else None
        if last is None:
            return None
        return {"time": last.time, "box": answers.shares(last.box, *last.size)}


def _jpeg(content: bytes) -> np.ndarray:
    """[H, W, 3] uint8; no other format is tried."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if max(image.size) > SIDE:
                raise DataError(f"a picture of {image.size} pixels; at most {SIDE} on a side")
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"not a JPEG: {error}") from error
