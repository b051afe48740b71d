"""A service and a page over an artefact: python -m imat_jax.serve OUT [--port=8000]

OUT is what `python -m imat_jax.export` wrote. Media are read where its features were made by
`imat extract`; else it answers to features only. On this machine alone (the default) nobody needs a
token; with --host=0.0.0.0 everybody does. See docs/serve.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import secrets
import sys

from absl import flags

from imat_jax import artifact as artifacts
from imat_jax import compiled
from imat_jax.artifact import Artifact, ArtifactError
from imat_jax.cli import UsageError, package, run
from imat_jax.data.corpus import Modality
from imat_jax.encoders.extractor import Extractor, reopen
from imat_jax.serving.settings import LOOPBACK, Settings

TOKEN = "IMAT_TOKEN"  # of the environment: a flag can be read by everybody on this machine


def define_flags() -> None:
    default = Settings()
    flags.DEFINE_string("artifact", None, "Folder of the artefact; or the first argument.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0: all.")
    flags.DEFINE_integer("port", 8000, "Port; 0: any that is free.", 0, 65535)
    flags.DEFINE_bool(
        "auth", None, f"Ask for the token in ${TOKEN}, or a made-up one; default: unless loopback."
    )
    flags.DEFINE_integer("megabytes", default.bytes >> 20, "Largest upload.", 1)
    flags.DEFINE_float("seconds", default.seconds, "Longest media.", 1.0)
    flags.DEFINE_integer("workers", default.workers, "Processes that read media.", 1)
    flags.DEFINE_integer("sessions", default.sessions, "Live streams at a time.", 0)
    flags.DEFINE_integer(
        "batch", default.rows, "Examples of a batch, at most.", 1, artifacts.SIZES[-1]
    )
    flags.DEFINE_integer("waiting", default.waiting, "Examples that may wait.", 1)
    flags.DEFINE_float("window", default.window, "Seconds that an answer over time sees.", 0.1)
    flags.DEFINE_float("hop", default.hop, "Seconds from one answer to the next.", 0.1)
    flags.DEFINE_list("encoders", [], "MODALITY=NAME:PATH,…: where the weights are now.")


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    uvicorn, _ = package("uvicorn", "serve"), package("fastapi", "serve")
    from imat_jax.serving import app  # which imports them

    folder = f.artifact or (argv[1] if len(argv) > 1 else None)
    if folder is None:
        raise UsageError("which artefact? python -m imat_jax.serve OUT")
    try:
        artifact = artifacts.load(folder)
    except ArtifactError as error:
        raise UsageError(str(error)) from error
    loopback = f.host in LOOPBACK
    token = ""
    if f.auth or (f.auth is None and not loopback):
        token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    settings = Settings(
        token=token,
        loopback=loopback,
        bytes=f.megabytes << 20,
        seconds=f.seconds,
        workers=f.workers,
        sessions=f.sessions,
        rows=f.batch,
        waiting=f.waiting,
        window=f.window,
        hop=f.hop,
    )
    extractor = open_encoders(artifact, f.encoders)
    warm_up(artifact)
    print(f"{pathlib.Path(folder)}: {artifact.manifest['task']}, {'+'.join(artifact.modalities)}")
    if extractor is None:
        print("its features were not made by `imat extract`: it answers to features only")
    if token and token != os.environ.get(TOKEN):
        print(f"token: {token}")
    if not loopback:
        print("not encrypted: put a proxy with TLS in front (docs/serve.md)")
    sys.stdout.flush()
    uvicorn.run(
        app.make(artifact, extractor, settings), host=f.host, port=f.port, loop="asyncio",
        log_level="info", access_log=False, server_header=False,
        ws_max_size=4 << 20, timeout_keep_alive=10, timeout_graceful_shutdown=10,
    )  # fmt: skip


def open_encoders(artifact: Artifact, moved: list[str]) -> Extractor | None:
    """What made the artefact's features; None where that is not known.

    Raises:
      DataError: the encoders are not here, or not those.
    """
    recorded = artifact.manifest["extraction"]
    if recorded is None:
        return None
    keys = [field.name for field in dataclasses.fields(Modality)]
    made = {m: Modality(**{k: facts[k] for k in keys}) for m, facts in artifact.modalities.items()}
    return reopen(recorded, made, moved)


def warm_up(artifact: Artifact) -> None:
    """Compile what the first requests need; what is compiled is kept for the next start."""
    compiled.keep()
    largest = max(info["max_frames"] for info in artifact.modalities.values())
    ladder = artifact.manifest["lengths"]
    lengths = [n for i, n in enumerate(ladder) if not i or ladder[i - 1] < largest]
    for size, length in itertools.product(artifacts.SIZES, lengths):
        artifact.predict([{}] * size, length)
    off = artifact.check()
    if not off < 1e-3:
        raise UsageError(
            f"this device's outputs are off those of the artefact's maker by {off:.2g}"
        )


if __name__ == "__main__":
    run(main, define_flags)
