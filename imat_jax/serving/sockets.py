"""Live streams by WebSocket: what comes in, and an answer every half second of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.requests import HTTPConnection

from imat_jax.data.corpus import DataError
from imat_jax.encoders.encoder import SAMPLE_RATE
from imat_jax.serving import answers
from imat_jax.serving.batcher import Full
from imat_jax.serving.live import Stream

if TYPE_CHECKING:
    from imat_jax.serving.app import Service

WORDS, SOUND, PICTURE = 0, 1, 2  # kinds of messages; of a binary one, its first byte
MESSAGE = 2 << 20  # bytes of one, at most
STARTING = 10.0  # seconds in which a stream has to say that it starts
IDLE = 60.0  # seconds without a message after which a stream ends
LONGEST = 86_400.0  # seconds of a stream
PENDING = 1.0  # seconds of pictures that may wait to be looked at; older ones are dropped
BEHIND = 5.0  # seconds of sound that may wait to be read
LONG = 2.0  # seconds of a piece of it
MESSAGES = 500  # of any kind


Item = tuple[int, float, Any, float]  # kind, seconds, content, when it arrived


Gone = WebSocketDisconnect  # whoever sent; perhaps while being written to


class Wrong(Exception):
    """A message that cannot be; said to its sender, and then it is over."""


async def serve(service: Service, socket: WebSocket) -> None:
    """One stream, from its first message to its end."""
    if not same_origin(socket):
        await socket.close(1008, "another site's page")
        return
    await socket.accept()
    try:
        chosen = await _start(service, socket)
        if service.sessions >= service.settings.sessions:
            raise Wrong("too many streams at once; try again later")
        service.sessions += 1
        try:
            await _Live(service, socket, chosen).run()
        finally:
            service.sessions -= 1
    except Wrong as error:
        with contextlib.suppress(Gone):
            await send(socket, {"type": "error", "error": str(error)})
            await socket.close(1008)
    except Gone:
        pass
    except Exception:
        logging.getLogger("uvicorn.error").exception("a live stream ended")
        with contextlib.suppress(Gone):
            await send(socket, {"type": "error", "error": "the service failed; its log says why"})
            await socket.close(1011)


async def send(socket: WebSocket, said: dict[str, Any]) -> None:
    """Raises `Gone`."""
    try:
        await socket.send_json(said)
    except RuntimeError as error:  # Starlette's, of a socket that is closed
        raise Gone(1006) from error


def same_origin(connection: HTTPConnection) -> bool:
    """Browsers let any page open a socket, or post a form, anywhere; they say whose page it is."""
    origin = connection.headers.get("origin")
    return origin is None or origin.partition("://")[2] == connection.headers.get("host")


async def _start(service: Service, socket: WebSocket) -> list[str]:
    try:
        message = await asyncio.wait_for(socket.receive(), STARTING)
    except TimeoutError:
        raise Wrong('the first message is {"type": "start"}') from None
    said = _json(message)
    if said.get("type") != "start":
        raise Wrong('the first message is {"type": "start"}')
    token = said.get("token") or ""
    if not isinstance(token, str) or not service.allowed(token):
        raise Wrong("give the token in the first message")
    if service.extractor is None:
        raise Wrong("this model has no encoders here, so it cannot read a stream")
    return _modalities(service, said.get("modalities", list(service.artifact.modalities)))


def _json(message: dict[str, Any]) -> dict[str, Any]:
    if message["type"] == "websocket.disconnect":
        raise Gone(message.get("code", 1000))
    try:
        said = json.loads(message.get("text") or "")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Wrong("a text message is an object in JSON")
    return said


def _modalities(service: Service, named: Any) -> list[str]:
    known = service.artifact.modalities
    if not isinstance(named, list) or not all(isinstance(m, str) and m in known for m in named):
        raise Wrong(f"modalities are among {', '.join(known)}")
    return [m for m in known if m in named]


class _Live:
    """One stream: messages are received in one task, read and answered in another."""

    def __init__(self, service: Service, socket: WebSocket, modalities: list[str]):
        self._service, self._socket, self._modalities = service, socket, modalities
        self._stream = Stream(service.extractor, service.settings.window)
        self._waiting: deque[Item] = deque()
        self._there, self._room = asyncio.Event(), asyncio.Event()
        self._dropped, self._ended = 0, False

    async def run(self) -> None:
        s, recipe = self._service.settings, self._service.extractor.recipe
        await send(
            self._socket,
            {
                "type": "ready", "window": s.window, "hop": s.hop, "fps": recipe.fps,
                "sample_rate": SAMPLE_RATE, "modalities": list(self._service.artifact.modalities),
                "values": list(self._service.artifact.values),
            }
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive())
                tasks.create_task(self._answer())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await self._socket.close()

    async def _receive(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), IDLE)
            except TimeoutError:
                raise Wrong(f"nothing came for {IDLE:g} s") from None
            content = message.get("bytes")
            if content is None:
                said = _json(message)
                if said.get("type") == "stop":
                    break
                self._say(said)
            else:
                await self._take(content)
            self._there.set()
        self._ended = True
        self._there.set()

    def _say(self, said: dict[str, Any]) -> None:
        if said.get("type") == "text" and isinstance(said.get("text"), str):
            for item in [item for item in self._waiting if item[0] == WORDS]:
                self._waiting.remove(item)
            words = said["text"].encode(errors="replace").decode()  # JSON may hold half a character
            self._waiting.append((WORDS, self._stream.time, words, time.monotonic()))
        elif said.get("type") == "modalities":
            self._modalities = _modalities(self._service, said.get("modalities"))
        else:
            raise Wrong("a text message is start, text, modalities or stop")

    async def _take(self, content: bytes) -> None:
        if not 9 <= len(content) <= MESSAGE or content[0] not in (SOUND, PICTURE):
            raise Wrong("a binary message is a 1 or 2, a time, and sound or a picture")
        (at,) = struct.unpack_from("<d", content, 1)
        if not (math.isfinite(at) and 0 <= at < LONGEST):
            raise Wrong("a time is in seconds since the start")
        if content[0] == SOUND and len(content) > 2 * SAMPLE_RATE * LONG:
            raise Wrong(f"a piece of sound is at most {LONG:g} s long")
        self._waiting.append((content[0], at, content[9:], time.monotonic()))
        # Of pictures that wait too long the oldest are not looked at; sound has to be whole, so
        # that whoever sends faster than it can be read has to wait.
        pictures = [item for item in self._waiting if item[0] == PICTURE]
        for item in pictures[: -max(int(PENDING * self._service.extractor.recipe.fps), 1)]:
            self._waiting.remove(item)
            self._dropped += 1
        while len(self._waiting) > MESSAGES or self._sound_waits():
            self._room.clear()
            self._there.set()
            await self._room.wait()

    def _sound_waits(self) -> bool:
        sound = (len(content) for kind, _, content, _ in self._waiting if kind == SOUND)
        return sum(sound) / 2 / SAMPLE_RATE > BEHIND

    async def _answer(self) -> None:
        hop, due = self._service.settings.hop, self._service.settings.hop
        while True:
            await self._there.wait()
            self._there.clear()
            while self._waiting:
                begun = time.perf_counter()
                items = self._until(due)
                arrived = items[-1][3]
                try:
                    await asyncio.to_thread(self._read, items)
                except DataError as error:
                    raise Wrong(str(error)) from error
                if self._stream.time >= due:
                    due = max(due + hop, self._stream.time - hop)
                    await self._update(arrived, begun)
            if self._ended:
                return

    def _until(self, due: float) -> list[Item]:
        """What waits, up to the piece with which `due` is reached."""
        items = []
        while self._waiting:
            items.append(self._waiting.popleft())
            kind, at, content, _ = items[-1]
            length = len(content) / 2 / SAMPLE_RATE if kind == SOUND else 0.0
            if at + length >= due:
                break
        self._room.set()
        return items

    def _read(self, items: list[Item]) -> None:
        for kind, at, content, _ in items:
            if kind == SOUND:
                self._stream.sound(at, content)
            elif kind == PICTURE:
                self._stream.picture(at, content)
            else:
                self._stream.say(content)

    async def _update(self, arrived: float, begun: float) -> None:
        everything = await asyncio.to_thread(self._stream.features)
        features = {m: everything[m] for m in self._modalities}
        said: dict[str, Any] = {"prediction": None}
        if answers.present(features):
            try:
                said = await self._service.explain(features, self._stream.words)
            except Full:
                return  # the next one is due soon
            except DataError as error:
                raise Wrong(str(error)) from error
        await send(
            self._socket,
            {"type": "update", "time": round(self._stream.time, 3)}
            | said
            | {
                "face": self._stream.face(),
                "dropped": self._dropped,
                "compute_ms": round(1000 * (time.perf_counter() - begun), 1),
                "latency_ms": round(1000 * (time.monotonic() - arrived), 1),
            },
        )
