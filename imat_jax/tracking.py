"""Reports of a run to Weights & Biases or MLflow, beside TensorBoard: `train --track=wandb`.

The run directory stays the record; these get copies of its numbers. Where they go is set as their
own manuals say (WANDB_MODE, WANDB_PROJECT; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME). A run that
is started again goes on as the same run there; of updates that are repeated, W&B shows the later
numbers and MLflow both, which are the same.
"""

from __future__ import annotations

import pathlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from imat_jax import config as configs
from imat_jax.cli import package


class Tracker(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of `step`."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """What `results.json` holds; the run is over."""

    def stop(self, failed: bool) -> None:
        """The run ends without results: it failed, or else was pruned or stopped."""


def start(names: Sequence[str], workdir: pathlib.Path, config) -> list[Tracker]:
    """The trackers called `names`, told the config.

    Raises:
      UsageError: the package of one is not installed.
    """
    return [TRACKERS[name](workdir, config) for name in names]


def tell(trackers: Sequence[Tracker], what: str, *args: Any) -> None:
    """Call the method `what` of all of them; one that does not answer does not end the run, nor
    hide what it ended of.
    """
    for tracker in trackers:
        try:
            getattr(tracker, what)(*args)
        except Exception as error:
            name = type(tracker).__name__
            print(f"{name} did not take what {what} has to say: {error}", file=sys.stderr)


class WandB:
    """A run of Weights & Biases; its id is kept in RUN/wandb_id."""

    def __init__(self, workdir: pathlib.Path, config):
        self._wandb = wandb = package("wandb", "tracking")
        file = workdir / "wandb_id"
        if not file.is_file():
            file.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            dir=workdir, id=file.read_text(), resume="allow", name=workdir.name,
            config=config.to_dict(), reinit="finish_previous",
        )  # fmt: skip
        # W&B drops what comes at a step of its own that is past; a resumed run repeats some.
        self._run.define_metric("*", step_metric="update")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"update": step} | values)

    def finish(self, results: Mapping[str, Any]) -> None:
        self._run.summary.update(_numbers(results))
        self._end(0)

    def stop(self, failed: bool) -> None:
        self._end(1)  # it knows of no third way to end

    def _end(self, status: int) -> None:
        self._run.finish(exit_code=status)
        self._wandb.teardown()  # or its own process may still be writing when this one ends


class MLflow:
    """A run of MLflow; its id is kept in RUN/mlflow_id."""

    def __init__(self, workdir: pathlib.Path, config):
        self._mlflow = package("mlflow", "tracking")
        file = workdir / "mlflow_id"
        known = file.read_text() if file.is_file() else None
        self._client = self._mlflow.MlflowClient()
        if known is None:
            with self._mlflow.start_run(run_name=workdir.name) as run:
                known = run.info.run_id
            file.write_text(known)
            for key, value in configs.flatten(config.to_dict()).items():
                self._client.log_param(known, key, value)
        self._client.update_run(known, status="RUNNING")
        self._id = known

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._client.log_metric(self._id, key, value, step=step)

    def finish(self, results: Mapping[str, Any]) -> None:
        for key, value in _numbers(results).items():
            self._client.log_metric(self._id, f"results/{key}", value)
        self._client.set_terminated(self._id)

    def stop(self, failed: bool) -> None:
        self._client.set_terminated(self._id, status="FAILED" if failed else "KILLED")


TRACKERS = {"wandb": WandB, "mlflow": MLflow}


def _numbers(results: Mapping[str, Any]) -> dict[str, float]:
    flat = configs.flatten(results)
    return {
        key.replace(".", "/"): float(value)
        for key, value in flat.items()
        if isinstance(value, int | float)
    }
