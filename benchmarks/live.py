"""How fast a live stream is read: python benchmarks/live.py OUT FILE [--transcript=TEXT]

OUT is an artefact whose features `imat extract` made, FILE a video with sound. First all of it is
read as fast as it goes, as seconds of media a second of computing, in four quarters, which are to
take as long as each other; then the service is sent it in real time, as a browser does, and the
time from the newest input to each answer is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import struct
import sys
import time

import numpy as np
from PIL import Image
from serving import service
from websockets.asyncio.client import connect

from imat_jax import artifact, serve
from imat_jax.encoders import media
from imat_jax.encoders.encoder import SAMPLE_RATE
from imat_jax.serving import answers
from imat_jax.serving.live import Stream
from imat_jax.serving.settings import Settings

PIECE = 0.1  # seconds of sound in a message


def messages(file: str, fps: float, repeat: int) -> list[tuple[float, int, bytes]]:
    """(seconds, kind, content) of `file`, one time after the other, as a browser sends them."""
    wave = np.tile((media.audio(file) * 32767).astype("<i2"), repeat)
    length = len(wave) / SAMPLE_RATE / repeat
    size = int(PIECE * SAMPLE_RATE)
    found = [(k / SAMPLE_RATE, 1, wave[k : k + size].tobytes()) for k in range(0, len(wave), size)]
    for at, picture in media.frames(file, fps, end=length):
        packed = io.BytesIO()
        Image.fromarray(picture).save(packed, "JPEG", quality=80)
        found += [(at + k * length, 2, packed.getvalue()) for k in range(repeat)]
    return sorted(found)


def read_all(artefact, extractor, sent, settings: Settings, words: str) -> list[float]:
    """Seconds of each hop's computing."""
    stream, taken = Stream(extractor, settings.window), []
    stream.say(words)
    for _, part in itertools.groupby(sent, key=lambda item: int(item[0] / settings.hop)):
        begun = time.perf_counter()
        for at, kind, content in part:
            (stream.sound if kind == 1 else stream.picture)(at, content)
        features = stream.features()
        rows = answers.rows(features)
        found = artefact.predict(rows, artefact.bucket(features))
        answers.explained(artefact, found, features)
        taken.append(time.perf_counter() - begun)
    return taken


async def send_all(port: int, sent, words: str) -> list[dict]:
    """The updates of a stream that is sent in real time."""
    updates = []
    async with connect(f"ws://localhost:{port}/live", max_size=None) as stream:
        await stream.send(json.dumps({"type": "start"}))
        await stream.recv()
        await stream.send(json.dumps({"type": "text", "text": words}))

        async def receive():
            async for message in stream:
                updates.append(json.loads(message))

        receiving = asyncio.create_task(receive())
        begun = time.monotonic()
        for at, kind, content in sent:
            await asyncio.sleep(max(begun + at + PIECE * (kind == 1) - time.monotonic(), 0))
            await stream.send(struct.pack("<Bd", kind, at) + content)
        await stream.send(json.dumps({"type": "stop"}))
        await receiving
    return updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("file")
    parser.add_argument("--transcript", default="", help="what is said")
    parser.add_argument("--seconds", type=float, default=40.0, help="the file is repeated so long")
    args = parser.parse_args()
    artefact, settings = artifact.load(args.artifact), Settings()
    extractor = serve.open_encoders(artefact, [])
    if extractor is None:
        sys.exit(f"the features of {args.artifact} were not made by `imat extract`")
    repeat = max(int(args.seconds / media.probe(args.file).duration), 1)
    sent = messages(args.file, extractor.recipe.fps, repeat)
    serve.warm_up(artefact)
    read_all(artefact, extractor, sent[:100], settings, args.transcript)  # compiles the rest
    taken = read_all(artefact, extractor, sent, settings, args.transcript)
    seconds = len(taken) * settings.hop
    quarters = [sum(q) for q in np.array_split(np.array(taken), 4)]
    speed = seconds / sum(taken)
    print(f"{seconds:.0f} s of media in {sum(taken):.1f} s: {speed:.2f} times real time")
    print(f"seconds of its quarters: {', '.join(f'{q:.2f}' for q in quarters)}")
    print(f"a hop of {settings.hop} s: p50 {1000 * np.median(taken):.0f} ms, "
          f"p95 {1000 * np.percentile(taken, 95):.0f} ms")  # fmt: skip
    with service(args.artifact) as (port, _):
        updates = asyncio.run(send_all(port, sent, args.transcript))
    latency = [u["latency_ms"] for u in updates if u["type"] == "update"]
    p50, p95 = np.percentile(latency, [50, 95])
    print(
        f"in real time: {len(latency)} updates, latency p50 {p50:.0f} ms, p95 {p95:.0f} ms; "
        f"{updates[-1]['dropped']} pictures dropped"
    )


if __name__ == "__main__":
    main()
