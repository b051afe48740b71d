"""Uploads into features, in processes that are killed when they take too long."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import struct
import sys
from typing import Any

import numpy as np

from imat_jax.data.corpus import DataError
from imat_jax.encoders.extractor import Recipe
from imat_jax.serving.batcher import Full

START = 120.0  # seconds in which a process has to load its encoders


@dataclasses.dataclass(frozen=True)
class Extracted:
    """Of one upload.

    Attributes:
      frames: {modality: [T, D]}. times: [T] seconds of each frame of vision.
      said: "seconds", "transcript", "faces", "waveform", as the service answers them.
    """

    frames: dict[str, np.ndarray]
    times: np.ndarray
    said: dict[str, Any]


class Pool:
    """`workers` processes that run `decoder`, each one upload at a time.

    Args:
      recipe: how features are made.
      waiting: uploads that may wait, besides those that are worked on.
      timeout: seconds of work on one upload, after which its process is killed.
    """

    def __init__(self, recipe: Recipe, *, workers: int = 1, waiting: int = 16, timeout: float = 60):
        self._recipe, self._workers = recipe, workers
        self._most, self._timeout = workers + waiting, timeout
        self._idle: asyncio.Queue[asyncio.subprocess.Process | None] = asyncio.Queue()
        self._all: set[asyncio.subprocess.Process] = set()
        self.inside = 0  # uploads that are waited for or worked on

    async def __aenter__(self) -> Pool:
        """Raises `DataError` where the encoders cannot be loaded; says why."""
        for process in await asyncio.gather(*(self._start() for _ in range(self._workers))):
            self._idle.put_nowait(process)
        return self

    async def __aexit__(self, *error: object) -> None:
        for process in list(self._all):
            await self._end(process)

    async def __call__(self, file: str, transcript: str, longest: float) -> Extracted:
        """Features of the media file, of at most `longest` seconds.

        Raises:
          Full: too many wait.
          DataError: it cannot be read; or its process took too long, or died of it.
        """
        if self.inside >= self._most:
            raise Full
        self.inside += 1
        try:
            process = await self._idle.get()
            try:
                if process is None:  # the last one's end was not followed by a new start
                    process = await self._start()
                question = {"file": file, "transcript": transcript, "longest": longest}
                content = await asyncio.wait_for(_ask(process, question), self._timeout)
            except TimeoutError:
                process = await self._end(process)
                message = f"reading it took longer than {self._timeout:g} s"
                raise DataError(message) from None
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                process = await self._end(process)
                raise DataError("it cannot be decoded: the decoder died of it") from error
            except asyncio.CancelledError:  # whoever asked has gone; the answer is in the way
                process = await self._end(process)
                raise
            finally:
                self._idle.put_nowait(process)
        finally:
            self.inside -= 1
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        if "error" in arrays:
            raise DataError(str(arrays["error"]))
        said, times = json.loads(str(arrays.pop("said"))), arrays.pop("times")
        return Extracted(arrays, times, said)

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "imat_jax.serving.decoder",
            json.dumps(dataclasses.asdict(self._recipe)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},  # the model has the accelerator
        )  # fmt: skip
        self._all.add(process)
        try:
            await asyncio.wait_for(process.stdout.readexactly(8), START)
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            await self._end(process)
            raise DataError(
                "the encoders cannot be loaded; `imat predict` on a file says why"
            ) from error
        return process

    async def _end(self, process: asyncio.subprocess.Process | None) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            self._all.discard(process)


async def _ask(process: asyncio.subprocess.Process, question: dict[str, Any]) -> bytes:
    process.stdin.write(json.dumps(question).encode() + b"\n")
    await process.stdin.drain()
    (length,) = struct.unpack("<Q", await process.stdout.readexactly(8))
    return await process.stdout.readexactly(length)
