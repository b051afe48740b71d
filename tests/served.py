"""A run on media, exported, and the service over it."""

import contextlib
import socket
import threading
import time

import programs
import talking
import uvicorn

from imat_jax import artifact, serve
from imat_jax.serving import app
from imat_jax.serving.settings import Settings


def program(verb, *flags, check=True):
    done = programs.run(verb, *flags)
    assert not check or done.returncode == 0, done.stderr
    return done


def make_run(folder):
    """Media, a run of two updates on their features, and the artefact of it; no features."""
    (folder / "media").mkdir()
    talking.make(folder / "media")
    program("extract", f"--input={folder / 'media'}", f"--output={folder / 'data'}")
    settings = [f"--config.{k}" for k in ("steps=2", "model.width=8", "model.ffn=8")]
    program(
        "train", "--config=configs/offline.py", f"--config.dataset={folder / 'data'}",
        f"--workdir={folder / 'run'}", *settings,
    )  # fmt: skip
    program("export", f"--workdir={folder / 'run'}", f"--output={folder / 'artifact'}")
    # Neither predicting nor serving needs the features.
    (folder / "data").rename(folder / "away")


@contextlib.contextmanager
def serving(folder, encoders=True, **settings):
    """The address of a service over the artefact in `folder`, in a thread of this process.

    encoders: whether it reads media.
    """
    artefact = artifact.load(folder)
    extractor = serve.open_encoders(artefact, []) if encoders else None
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app.make(artefact, extractor, Settings(**settings)),
            loop="asyncio", log_level="warning", timeout_graceful_shutdown=5,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the service did not start"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
