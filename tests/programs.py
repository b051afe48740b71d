"""The programs in processes of their own, as a user runs them, but for the seconds of importing.

Each run is forked from a server that has imported everything and started no JAX backend yet.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
PRELOADED = ["imat_jax.train", "imat_jax.evaluate", "imat_jax.extract", "imat_jax.predict"]


@dataclasses.dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(verb, *flags, setup=None, timeout=300) -> Done:
    """`imat VERB FLAGS…` in the repository's root, on one device.

    Args:
      setup: an importable function to call first, in the new process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("out", "err")]
        argv = ["imat", verb, *map(str, flags)]
        process = context.Process(target=_run, args=(argv, files, setup))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        out, err = (pathlib.Path(f).read_text() for f in files)
    return Done(process.exitcode, out, err)


def _run(argv, files, setup):
    for number, name in zip((1, 2), files, strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["XLA_FLAGS"] = ""
    os.chdir(ROOT)
    sys.argv = argv
    import jax

    from imat_jax import cli

    jax.config.update("jax_disable_most_optimizations", True)  # compiling outlasts running here
    if setup:
        setup()
    cli.main()
