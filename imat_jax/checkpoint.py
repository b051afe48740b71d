"""Checkpoints of a run: the last states to resume from, and the selected one.

    RUN/checkpoints/last/STEP    {params, opt_state, step, rng, …}, the two newest
    RUN/checkpoints/best/STEP    params with the best validation score so far, and the score

Orbax writes in the background under a temporary name and renames; a killed write is ignored. A
checkpoint that was damaged later is seen on reading, if by nothing else by a sum over the bits of
its arrays; of `last`, the one before it takes its place.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from imat_jax import distributed
from imat_jax.data.corpus import DataError

State = dict[str, Any]
_failures: list[BaseException] = []


class Checkpoints:
    """The checkpoints of the run in `workdir`."""

    def __init__(self, workdir: str | os.PathLike):
        self._root = pathlib.Path(workdir).absolute() / "checkpoints"
        _note_failures()
        with self._writing():
            self._last = _manager(self._root / "last", max_to_keep=2)
            self._best = _manager(self._root / "best", max_to_keep=1)

    @property
    def last_step(self) -> int | None:
        return self._last.latest_step()

    @property
    def best_step(self) -> int | None:
        return self._best.latest_step()

    def save(self, step: int, state: State) -> None:
        """Start writing `state`; returns once it is copied off the devices."""
        if step != self.last_step:
            with self._writing(self._last):
                args = ocp.args.StandardSave(state)
                self._last.save(step, args=args, custom_metadata={"sum": _sum(state)})

    def restore(self, like: State) -> State:
        """The last state that is whole, laid out as `like`; damaged ones after it are set aside.

        Raises:
          DataError: none is whole. All are left as they are.
        """
        damaged: dict[pathlib.Path, str] = {}
        for step in sorted(self._last.all_steps(), reverse=True):
            folder = self._root / "last" / str(step)
            state, problem = _read(folder, "default", like)
            if not problem:
                break
            damaged[folder] = problem
        else:
            listed = "; ".join(f"{folder} ({problem})" for folder, problem in damaged.items())
            raise DataError(
                f"no checkpoint to go on from is whole: {listed}. Put one back from a copy, or "
                "take another --workdir to train from the start"
            )
        for folder, problem in damaged.items():
            _set_aside(folder, f"{problem}); going on from update {step}, before it")
        if damaged:
            distributed.agree("last checkpoint", str(step))
            self._last.reload()
        return state

    def best_scores(self) -> dict[str, float]:
        """The validation metrics of the selected checkpoint.

        Raises:
          DataError: it is damaged.
        """
        folder = self._root / "best" / str(self.best_step)
        try:
            return ocp.JsonCheckpointHandler().restore(folder / "scores")
        except (OSError, ValueError) as error:
            raise _lost(folder, _short(error)) from error

    def save_best(self, step: int, params: Any, scores: dict[str, float]) -> None:
        """Replace the selected checkpoint."""
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(params), scores=ocp.args.JsonSave(scores)
        )
        with self._writing(self._best):
            self._best.save(step, args=args, custom_metadata={"sum": _sum(params)})

    def restore_best(self, like: Any) -> Any:
        """The selected parameters, laid out as `like`.

        Raises:
          DataError: they are damaged.
        """
        folder = self._root / "best" / str(self.best_step)
        params, problem = _read(folder, "params", like)
        if problem:
            raise _lost(folder, problem)
        return params

    def wait(self) -> None:
        """Return once everything is on disk."""
        with self._writing(self._last, self._best):
            pass

    def close(self) -> None:
        if _failures:
            return
        self.wait()
        self._last.close()
        self._best.close()

    @contextlib.contextmanager
    def _writing(self, *managers: ocp.CheckpointManager) -> Iterator[None]:
        """What goes wrong within it or did in the background, such as a full disk, is one line."""
        try:
            for manager in managers:
                _finish(manager)
            if _failures:
                raise _failures[0]
            yield
        except TimeoutError:  # of Orbax, when another process is lost
            raise
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot write a checkpoint to {self._root}: {_short(error)}. Make room there; the "
                "same command then goes on from the last one that is whole"
            ) from error


def _manager(folder: pathlib.Path, max_to_keep: int) -> ocp.CheckpointManager:
    # Two managers write at a time; where their barriers have one name, the processes lose them.
    prefix = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name)
    options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, multiprocessing_options=prefix)
    return ocp.CheckpointManager(folder, options=options)


def _finish(manager: ocp.CheckpointManager) -> None:
    """Return once what it was writing is on disk, or some write has failed."""

    # Orbax lets a process whose write failed wait for the others, who wait for it.
    def wait() -> None:
        try:
            manager.wait_until_finished()
        except Exception as error:
            _failures.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while thread.is_alive() and not _failures:
        thread.join(0.05)


def _read(folder: pathlib.Path, item: str, like: Any) -> tuple[Any, str]:
    """(arrays, ""), or (None, what is wrong with them); which of the two, all processes agree."""
    # Not through the manager: it waits for all processes, one of which may have failed to read.
    tree, recorded, problem = None, None, ""
    try:
        args = ocp.args.StandardRestore(_abstract(like))
        tree = ocp.StandardCheckpointHandler().restore(folder / item, args=args)
        metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
        recorded = (metadata.get("custom_metadata") or {}).get("sum")
    except Exception as error:  # whatever Orbax, TensorStore and their parsers make of the damage
        problem = _short(error)
    _failures.clear()  # to read is not to write
    if distributed.anywhere(bool(problem)):
        return None, problem or "another process cannot read it"
    found = _sum(tree)
    if distributed.anywhere(recorded not in (None, found)):  # None: of before there were sums
        return None, "its arrays are not those that were saved"
    return tree, ""


def _set_aside(folder: pathlib.Path, why: str) -> None:
    """Rename it to what Orbax does not take for a checkpoint."""
    if not distributed.is_first():
        return
    aside = folder.with_name(f"{folder.name}.damaged")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}+")
    folder.rename(aside)
    print(f"warning: {folder} is damaged, and now {aside.name} ({why}", file=sys.stderr)


def _lost(folder: pathlib.Path, problem: str) -> DataError:
    return DataError(
        f"the selected checkpoint, {folder}, is damaged: {problem}. Put it back from a copy, or "
        "train again in another --workdir: the same config gives the same"
    )


def _short(error: Exception) -> str:
    """The first line of what an error says, without the many that TensorStore adds."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"


def _note_failures() -> None:
    """What fails in Orbax's threads is noted; so far it is only logged, at length, as are the other
    reads and writes that Orbax then abandons.
    """

    def unraisable(args: Any) -> None:
        if str(args.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(args)

    _failures.clear()
    sys.unraisablehook = unraisable
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_note)


def _note(record: logging.LogRecord) -> bool:
    """Of Orbax's messages with a traceback, keep the error and drop the message."""
    if not record.exc_info or record.exc_info[1] is None:
        return True
    if "orbax" in record.pathname:
        _failures.append(record.exc_info[1])
    return record.name != "asyncio" and "orbax" not in record.pathname


def _sum(tree: Any) -> int:
    """Of all bits of all arrays, modulo 2³²; the same however they are laid out."""
    return int(_bits(jax.tree.leaves(tree)))


@jax.jit
def _bits(leaves: list[jax.Array]) -> jax.Array:
    total = jnp.uint32(0)
    for i, x in enumerate(leaves):
        kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
        total += jnp.uint32(2 * i + 1) * bits.sum(dtype=jnp.uint32)
    return total


def _abstract(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        tree,
    )
