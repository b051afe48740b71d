"""A process that turns uploads into features, and may die of it: python -m imat_jax.serving.decoder

FFmpeg reads what strangers send, so it does so here, apart from the service, with bounded memory
(`extraction.Pool` bounds the time). One line of JSON asks on standard input; the answer is its
length, 8 bytes, and an `.npz` archive on standard output. No pickles either way.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
from typing import Any

import numpy as np

from imat_jax.data.corpus import DataError
from imat_jax.encoders import media
from imat_jax.encoders.clips import Clip
from imat_jax.encoders.encoder import SAMPLE_RATE
from imat_jax.encoders.extractor import Extractor, Recipe
from imat_jax.encoders.faces import Face
from imat_jax.serving import answers

MEMORY = 4 << 30  # bytes that an upload may take besides what the encoders have
PIXELS = 4096 * 4096  # of a picture


def extract(extractor: Extractor, file: str, transcript: str, longest: float) -> dict[str, Any]:
    """Arrays of the features of `file`, and what else is said of it, as JSON.

    Raises:
      DataError: it cannot be read, or is longer than `longest` seconds.
    """
    probe = media.probe(file)
    if probe.duration > longest:
        raise DataError(f"it is {probe.duration:.1f} s long; at most {longest:g} s are taken")
    if probe.pixels > PIXELS:
        raise DataError(f"its pictures have {probe.pixels} pixels; at most {PIXELS} are taken")
    faces: list[dict[str, Any]] = []
    waves: list[np.ndarray] = []

    def keep(face: Face) -> None:
        box = answers.shares(face.box, *face.size)
        faces.append({"time": round(face.time, 3), "box": box})

    # To an end, so that a file which is longer than it says is not decoded for ever.
    clip = Clip("upload", file, end=max(longest, probe.duration), transcript=transcript)
    [features] = extractor([clip], on_face=keep, on_sound=waves.append)
    if isinstance(features, DataError):
        raise features
    wave = waves[0] if waves else np.zeros(0, np.float32)
    said = {
        "seconds": min(probe.duration, longest),
        "transcript": features.words,
        "faces": faces,
        "waveform": answers.envelope(wave, SAMPLE_RATE),
    }
    return {"said": np.asarray(json.dumps(said)), "times": features.times} | dict(features.frames)


def answer(extractor: Extractor, question: dict[str, Any]) -> bytes:
    try:
        arrays = extract(extractor, **question)
    except DataError as error:
        name = os.path.basename(question["file"])
        said = str(error).replace(question["file"], name).removeprefix(f"{name}: ")
        arrays = {"error": np.asarray(said)}
    except MemoryError:
        arrays = {"error": np.asarray("decoding it takes too much memory")}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    extractor = Extractor(Recipe(**json.loads(sys.argv[1])))
    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out.write(struct.pack("<Q", 0))  # ready
    out.flush()
    for line in sys.stdin.buffer:
        content = answer(extractor, json.loads(line))
        out.write(struct.pack("<Q", len(content)) + content)
        out.flush()


if __name__ == "__main__":
    main()
