"""What comes in by HTTP, up to a size and within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import numpy as np
import pydantic_core
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

FIELDS = 8  # of a form
FRAMES = 8  # times those that the model reads, of which more are not taken
NAME = 200  # characters of an id
JSON = 16 << 20  # bytes of features; reading them holds up everything else
LOOK = 0.5  # seconds between looks whether the caller is still there
LARGEST = 1e15  # of a feature; the squares of a normalisation stay finite


async def form(request: Request, most: int, seconds: float) -> FormData:
    """The fields of a form of at most `most` bytes; files are on disk, without a name there.

    Raises:
      HTTPException: 400, 408 or 413.
    """
    bounded = Request(request.scope, _bounded(request, most))
    try:
        return await asyncio.wait_for(
            bounded.form(max_files=1, max_fields=FIELDS, max_part_size=1 << 20), seconds
        )
    except TimeoutError:
        raise HTTPException(408, f"it took longer than {seconds:g} s to arrive") from None


async def body(request: Request, most: int, seconds: float) -> bytes:
    """Raises `HTTPException` 408 or 413."""
    try:
        return await asyncio.wait_for(
            Request(request.scope, _bounded(request, most)).body(), seconds
        )
    except TimeoutError:
        raise HTTPException(408, f"it took longer than {seconds:g} s to arrive") from None


def _bounded(request: Request, most: int) -> Any:
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or len(announced) > 18:
        raise HTTPException(400, "Content-Length is no number")
    if int(announced) > most:
        raise HTTPException(413, f"{announced} bytes; at most {most} are taken")
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413, f"more than the {most} bytes that are taken")
        return message

    return receive


async def while_connected(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns; it is cancelled when whoever asked has gone.

    Raises:
      ClientDisconnect: they have.
    """
    task = asyncio.ensure_future(work)
    while not (await asyncio.wait({task}, timeout=LOOK))[0]:
        if await request.is_disconnected():
            task.cancel()
            await asyncio.wait({task})
            raise ClientDisconnect
    return task.result()


def field(form: FormData, name: str, most: int) -> str:
    """The text of a field, "" without it; raises `HTTPException` 422 where it is none."""
    value = form.get(name, "")
    if isinstance(value, UploadFile) or len(value) > most:
        raise HTTPException(422, f"{name} is a text of at most {most} characters")
    return value


def features(
    content: bytes, modalities: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, np.ndarray]]:
    """(id, {modality: [T, D]}) of {"id": …, "text": [[…], …], …} in JSON.

    Args:
      modalities: of the artefact; T of a modality that is not named is 0.

    Raises:
      HTTPException: 400 or 422; names what is wrong.
    """
    try:
        said = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(400, f"not JSON: {error}") from error
    if not isinstance(said, dict):
        raise HTTPException(422, "give an object of modalities")
    name = said.pop("id", "")
    if not isinstance(name, str) or len(name) > NAME:
        raise HTTPException(422, f"id is a text of at most {NAME} characters")
    for key in said.keys() - modalities.keys():
        listed = ", ".join(modalities)
        raise HTTPException(422, f"there is no modality {key[:50]!r}; there are {listed}")
    found = {m: _matrix(m, said.get(m, []), info) for m, info in modalities.items()}
    if not any(map(len, found.values())):
        raise HTTPException(422, f"no frames of any modality: {', '.join(modalities)}")
    return name, found


def _matrix(m: str, rows: Any, info: Mapping[str, Any]) -> np.ndarray:
    """[T, D] float32, or token ids [T] int32."""
    shape = "a list of ids" if info["tokens"] else f"rows of {info['dim']} numbers"
    if isinstance(rows, list) and len(rows) > FRAMES * info["max_frames"]:
        most = info["max_frames"]
        raise HTTPException(422, f"{m} has {len(rows)} frames; the model reads {most}")
    try:
        x = np.asarray(rows)
    except ValueError:
        x = np.asarray(None)
    if not x.size and x.ndim == 1:
        return np.zeros((0,) if info["tokens"] else (0, info["dim"]), np.float32)
    right = x.ndim == 1 if info["tokens"] else x.ndim == 2 and x.shape[1] == info["dim"]
    if not right or x.dtype.kind not in ("i" if info["tokens"] else "if"):
        raise HTTPException(422, f"{m} is {shape}")
    if info["tokens"]:
        if x.min() < 0 or x.max() >= info["vocabulary"]:
            raise HTTPException(422, f"{m} is ids from 0 to {info['vocabulary'] - 1}")
        return x.astype(np.int32)
    if np.abs(x).max() > LARGEST:
        raise HTTPException(422, f"{m} has numbers beyond {LARGEST:g}")
    return x.astype(np.float32)
