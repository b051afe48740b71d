"""Several processes as one program: how they find each other, who writes, how they stop together.

Every process runs the same command, reads its own rows of each batch and computes the same numbers;
process 0 alone writes and prints. A process that fails ends at once, without the goodbye of a clean
end; the others then fail in the next collective, or, where that only hangs, when its heartbeats are
missed, and the scheduler can start them all again.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from imat_jax.cli import UsageError
from imat_jax.data.corpus import DataError

# How XLA says that a collective failed; on some paths as a plain ValueError.
LOST = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|CANCELLED): ")
HEARTBEAT = 60  # seconds without one, after which a process counts as dead


def define_flags() -> None:
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if nothing else tells it.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are, with --coordinator.")
    flags.DEFINE_integer("process_id", None, "Which of them this one is, with --coordinator.")
    flags.DEFINE_bool(
        "distributed", None, "Be one of several processes that the environment describes (TPU, "
        "SLURM, Open MPI, Kubernetes). Default: under SLURM, Open MPI and TPUs on GKE, if so.",
    )  # fmt: skip


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Within it, this process is one of all those of the run. To be entered before JAX is used.

    Raises:
      UsageError: flags that belong together are not all there, or the others are not to be found.
    """
    if not _initialize():
        yield
        return
    me = f"process {jax.process_index()} of {jax.process_count()}"
    try:
        yield
    except SystemExit:
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        first = (str(error).splitlines() or [""])[0]
        if "RESOURCE_EXHAUSTED" in first:
            said = f"out of memory ({first}); docs/numerics.md lists what takes less"
        elif isinstance(error, jax.errors.JaxRuntimeError | TimeoutError) or LOST.match(first):
            said = f"another process is lost ({first}); the same command goes on from the last save"
        elif isinstance(error, UsageError | DataError):
            said = str(error)
        else:
            sys.excepthook(*sys.exc_info())
            said = type(error).__name__
        print(f"error: {me}: {said}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # a clean end would wait for the others, who wait for this one
    jax.distributed.shutdown()


def _initialize() -> bool:
    """Join the others, if there are any."""
    f = flags.FLAGS
    explicit = f.coordinator, f.num_processes, f.process_id
    if explicit == (None, None, None):
        if not (_described() if f.distributed is None else f.distributed):
            return False
    elif None in explicit:
        raise UsageError("--coordinator, --num_processes and --process_id go together")
    try:
        jax.distributed.initialize(*explicit, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"the processes of this run do not find each other: {error}") from error
    return jax.process_count() > 1


def _described() -> bool:
    """The environment says that there are several processes."""
    counts = (os.environ.get(k, "1") for k in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return any(int(n) > 1 for n in counts) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def agree(what: str, value: str) -> None:
    """Return once every process is here.

    Raises:
      UsageError: not all have the same `value`.
    """
    if jax.process_count() == 1:
        return
    try:
        multihost_utils.assert_equal(zlib.crc32(value.encode()) >> 1)
    except AssertionError as error:
        raise UsageError(f"the processes of this run do not have the same {what}") from error


def anywhere(flag: bool) -> bool:
    """Whether it is so in any process; all are to ask."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


class Stop:
    """Whether this run was asked, with SIGTERM, to save and end.

    With several processes, one being asked is enough, and all answer yes at the same step.
    """

    def __init__(self):
        self._several = jax.process_count() > 1
        self._raised = False
        if not self._several:  # else JAX listens
            self._previous = signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, *_) -> None:
        self._raised = True

    def reached(self, step: int) -> bool:
        """To be asked once at every step."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._raised

    def restore(self) -> None:
        """Let SIGTERM mean what it did before."""
        if not self._several:
            signal.signal(signal.SIGTERM, self._previous)
