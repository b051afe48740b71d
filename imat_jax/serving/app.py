"""The service: who may ask, what may be sent, and what is answered; `docs/serve.md` says it all."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hmac
import pathlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import fastapi
from fastapi import FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import FormData, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException as StarletteError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imat_jax import __version__, encoders, spans
from imat_jax.artifact import Artifact
from imat_jax.data.corpus import DataError
from imat_jax.encoders import bert
from imat_jax.encoders.extractor import Extractor
from imat_jax.serving import answers, schema, sockets, uploads
from imat_jax.serving.batcher import Batcher, Full
from imat_jax.serving.extraction import Extracted, Pool
from imat_jax.serving.settings import LOOPBACK, Settings

PAGE = pathlib.Path(__file__).parent / "page"
ERRORS = (400, 401, 403, 408, 413, 415, 422, 429)
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' "
    "blob:; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
}


class Service:
    """An artefact, and what stands between it and those who ask.

    Args:
      extractor: of the artefact's features; None: it answers to features only.
    """

    def __init__(self, artifact: Artifact, extractor: Extractor | None, settings: Settings):
        self.artifact, self.extractor, self.settings = artifact, extractor, settings
        self.started = time.monotonic()
        self.sessions = 0
        self._held: collections.Counter[str] = collections.Counter()
        self.batcher: Batcher
        self.pool: Pool | None = None
        self.tokens = _tokens(extractor)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        s = self.settings
        async with contextlib.AsyncExitStack() as stack:
            self.batcher = await stack.enter_async_context(
                Batcher(self.artifact.predict, rows=s.rows, waiting=s.waiting)
            )
            if self.extractor:
                pool = Pool(
                    self.extractor.recipe,
                    workers=s.workers, waiting=s.waiting_media, timeout=s.work,
                )  # fmt: skip
                self.pool = await stack.enter_async_context(pool)
            yield

    @contextlib.contextmanager
    def held(self, kind: str, most: int) -> Iterator[None]:
        """One body of a kind that is received and kept; raises `Full` where there are `most`."""
        if self._held[kind] >= most:
            raise Full
        self._held[kind] += 1
        try:
            yield
        finally:
            self._held[kind] -= 1

    def allowed(self, token: str) -> bool:
        """Takes as long whatever is wrong with it."""
        return not self.settings.token or hmac.compare_digest(
            token.encode(errors="replace"), self.settings.token.encode()
        )

    async def explain(self, frames: answers.Frames, words: str = "") -> dict[str, Any]:
        """Raises `Full`."""
        found = await self.batcher.submit(answers.rows(frames), self.artifact.bucket(frames))
        said = answers.explained(self.artifact, found, frames)
        tokens = self.tokens(words) if words and "text" in answers.present(frames) else []
        return said | {"words": answers.words(tokens, found[-1])}

    async def windows(self, extracted: Extracted) -> list[dict[str, Any]]:
        """Answers over time; raises `Full`."""
        rate = self.artifact.modalities.get("audio", {}).get("rate_hz", 0.0)
        stretches = spans.cover(extracted.said["seconds"], self.settings.window, self.settings.hop)
        parts = [spans.between(extracted.frames, extracted.times, rate, *s) for s in stretches]
        rows = [answers.rows(part) for part in parts]
        bucket = max(map(self.artifact.bucket, parts))
        found = iter(await self.batcher.submit([row for part in rows for row in part], bucket))
        return [
            {
                "start": start, "end": end,
                "subsets": answers.named(self.artifact, [next(found) for _ in row], part),
            }
            for (start, end), part, row in zip(stretches, parts, rows, strict=True)
            if row
        ]  # fmt: skip


class Headers:
    """Says to browsers, with every answer, that the page loads nothing from anywhere else."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, sending)


def make(artifact: Artifact, extractor: Extractor | None, settings: Settings) -> FastAPI:
    """The service as an ASGI application."""
    service = Service(artifact, extractor, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.run():
            yield

    app = FastAPI(
        title="imat_jax", version=__version__, description=__doc__.partition("\n")[0],
        lifespan=lifespan, docs_url=None, redoc_url=None,  # whose pages load from elsewhere
    )  # fmt: skip
    if settings.loopback and not settings.token:  # or a page elsewhere could, by a name for here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    _errors(app)

    app.add_middleware(Headers)

    def authorised(request: Request) -> None:
        if not sockets.same_origin(request):
            raise HTTPException(403, "another site's page")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not service.allowed(token if scheme.lower() == "bearer" else ""):
            raise HTTPException(401, "give the token: Authorization: Bearer …",
                                {"WWW-Authenticate": "Bearer"})  # fmt: skip

    @app.get("/health", response_model=schema.Health)
    def health() -> dict[str, Any]:
        """Whether the service answers, and what it takes."""
        s = service.settings
        return {
            "status": "ok",
            "artifact": artifact.manifest["files"]["program.bin"],
            "uptime_s": round(time.monotonic() - service.started, 1),
            "queue": {
                "examples": service.batcher.waiting,
                "uploads": service.pool.inside if service.pool else 0,
                "sessions": service.sessions,
            },
            "media": service.pool is not None,
            "modalities": list(artifact.modalities),
            "values": list(artifact.values),
            "task": artifact.manifest["task"],
            "coverage": (artifact.manifest["calibration"] or {}).get("coverage"),
            "auth": bool(s.token),
            "window": s.window,
            "hop": s.hop,
            "limits": {"bytes": s.bytes, "seconds": s.seconds},
        }

    @app.post(
        "/predict",
        response_model=schema.Prediction,
        response_model_exclude_unset=True,
        responses={code: {"model": schema.Error} for code in ERRORS},
        openapi_extra={"requestBody": schema.predict_body(artifact.modalities)},
        dependencies=[fastapi.Depends(authorised)],
    )
    async def predict(
        request: Request,
        detail: Annotated[bool, Query(description="Answer for all sets of modalities too.")] = True,
    ) -> dict[str, Any]:
        """What the model says of a media file, or of features."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            with service.held("features", settings.held):
                most = min(settings.bytes, uploads.JSON)
                content = await uploads.body(request, most, settings.arrival)
                asked = await asyncio.to_thread(uploads.features, content, artifact.modalities)
            return await _of_features(service, *asked, detail)
        if kind == "multipart/form-data":
            with service.held("media", settings.workers + settings.waiting_media):
                form = await uploads.form(request, settings.bytes, settings.arrival)
                try:
                    return await uploads.while_connected(request, _of_media(service, form))
                finally:
                    await form.close()
        raise HTTPException(415, "send multipart/form-data with a file, or application/json")

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await sockets.serve(service, socket)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app


async def _of_features(
    service: Service, name: str, frames: answers.Frames, detail: bool
) -> dict[str, Any]:
    artifact = service.artifact
    try:
        artifact.check_example(frames)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    begun = time.perf_counter()
    if detail:
        said = await service.explain(frames)
    else:
        (answer,) = await service.batcher.submit([frames], service.artifact.bucket(frames))
        said = {"prediction": answers.prediction(service.artifact, answer.values)}
    return {"id": name} | said | {"timing": {"predict_ms": _ms(begun)}}


async def _of_media(service: Service, form: FormData) -> dict[str, Any]:
    if service.pool is None:
        raise HTTPException(415, "this model has no encoders here: send features, application/json")
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(422, "the form has no file called `file`")
    transcript = uploads.field(form, "transcript", 10_000)
    name = uploads.field(form, "id", uploads.NAME)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="imat_jax-") as folder:
        path = pathlib.Path(folder, "upload")  # whatever its sender calls it
        with path.open("wb") as copy:
            await asyncio.to_thread(shutil.copyfileobj, file.file, copy)
        longest = service.settings.seconds
        extracted = await service.pool(str(path), transcript, longest)
    extract_ms = _ms(begun)
    begun = time.perf_counter()
    said = await service.explain(extracted.frames, extracted.said["transcript"])
    over_time = await service.windows(extracted)
    timing = {"extract_ms": extract_ms, "predict_ms": _ms(begun)}
    return {"id": name} | said | extracted.said | {"windows": over_time, "timing": timing}


def _tokens(extractor: Extractor | None) -> Callable[[str], list[str]]:
    """A text -> the string of each of its frames, or [] where that is not known."""
    try:
        directory = encoders.text_directory(extractor.recipe.encoders["text"])
    except (AttributeError, KeyError, DataError):
        return lambda words: []
    return bert.token_strings(directory)


def _ms(begun: float) -> float:
    return round(1000 * (time.perf_counter() - begun), 1)


def _errors(app: FastAPI) -> None:
    """Every error is {"error": one sentence}."""

    def said(status: int, message: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(StarletteError)
    def http(request: Request, error: StarletteError) -> Response:
        return said(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return said(422, "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors()))

    @app.exception_handler(Full)
    def full(request: Request, error: Full) -> Response:
        return said(429, "too many requests are waiting; try again", {"Retry-After": "1"})

    @app.exception_handler(ClientDisconnect)
    def gone(request: Request, error: ClientDisconnect) -> Response:
        return said(499, "whoever asked has gone")  # which nobody reads

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        return said(500, "the service failed; its log says why")

    @app.exception_handler(DataError)
    def unreadable(request: Request, error: DataError) -> Response:
        return said(422, str(error))
