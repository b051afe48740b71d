"""Checkpoints of a run: the last states to resume from, and the selected one.

    RUN/checkpoints/last/STEP    {params, opt_state, step, rng}, the two newest
    RUN/checkpoints/best/STEP    params with the best validation score so far, and the score

Orbax writes in the background under a temporary name and renames; a killed write is ignored.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of the run in `workdir`."""

    def __init__(self, workdir: str | os.PathLike):
        root = pathlib.Path(workdir).absolute() / "checkpoints"
        self._last = ocp.CheckpointManager(
            root / "last", options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )
        self._best = ocp.CheckpointManager(
            root / "best", options=ocp.CheckpointManagerOptions(max_to_keep=1)
        )

    @property
    def last_step(self) -> int | None:
        return self._last.latest_step()

    @property
    def best_step(self) -> int | None:
        return self._best.latest_step()

    def save(self, step: int, state: State) -> None:
        """Start writing `state`; returns once it is copied off the devices."""
        if step != self.last_step:
            self._last.save(step, args=ocp.args.StandardSave(state))

    def restore(self, like: State) -> State:
        """The last state, laid out as `like`."""
        return self._last.restore(self.last_step, args=ocp.args.StandardRestore(_abstract(like)))

    def best_scores(self) -> dict[str, float]:
        """The validation metrics of the selected checkpoint."""
        args = ocp.args.Composite(scores=ocp.args.JsonRestore())
        return self._best.restore(self.best_step, args=args)["scores"]

    def save_best(self, step: int, params: Any, scores: dict[str, float]) -> None:
        """Replace the selected checkpoint."""
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(params), scores=ocp.args.JsonSave(scores)
        )
        self._best.save(step, args=args)

    def restore_best(self, like: Any) -> Any:
        """The selected parameters, laid out as `like`."""
        args = ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like)))
        return self._best.restore(self.best_step, args=args)["params"]

    def wait(self) -> None:
        """Return once everything is on disk."""
        self._last.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._last.close()
        self._best.close()


def _abstract(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        tree,
    )
