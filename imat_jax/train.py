"""Train a model: python -m imat_jax.train --config=configs/tiny.py --workdir=runs/tiny

Started again with the same command, it goes on where it stopped. SIGTERM saves and exits with
status 143. Started once on each of several hosts, it is one run (docs/scale.md). The checkpoint
with the best validation score is selected; when training is over it is scored on validation and
test, and RUN/results.json, RUN/plots and RUN/predictions hold the outcome. With `--evaluate=valid`
the test split is not opened, neither then nor before.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import flags

from imat_jax import (
    chips,
    distributed,
    dryrun,
    evaluate,
    inference,
    optim,
    performance,
    plots,
    rundir,
    sharding,
    tracking,
)
from imat_jax import config as configs
from imat_jax import experiment as experiments
from imat_jax import update as updates
from imat_jax.checkpoint import Checkpoints
from imat_jax.cli import UsageError, run
from imat_jax.data import loader, plan
from imat_jax.data.corpus import DataError
from imat_jax.experiment import Experiment
from imat_jax.tasks import higher_is_better

PREEMPTED = 143  # 128 + SIGTERM: what a requeueing scheduler takes as "run me again"
WARMUP = 10  # updates before those that --profile traces
SCORED = ("valid", "test")
LAG = 2  # updates whose loss the host has not looked at yet, so that the device never waits for it


class Pruned(Exception):
    """Raised by `validated`: the run is not worth going on with."""


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Directory of the run; made if absent.")
    flags.DEFINE_integer(
        "profile",
        0,
        "Trace so many updates to RUN/profile, for TensorBoard or Perfetto.",
    )
    flags.DEFINE_list(
        "evaluate", list(SCORED), "Splits to score when training is over, besides valid; of others "
        "nothing is read."
    )  # fmt: skip
    flags.DEFINE_multi_enum(
        "track", [], list(tracking.TRACKERS), "Report to it too, besides TensorBoard."
    )
    flags.DEFINE_bool("dry_run", False, "Print what the run would cost on --devices; runs nothing.")
    flags.DEFINE_integer("devices", 8, "With --dry_run: devices to simulate.")
    flags.DEFINE_string("chip", "v5e", f"With --dry_run: one of {', '.join(chips.CHIPS)}.")
    distributed.define_flags()
    configs.define_flag()


def validate(experiment: Experiment, step, params: Any, split: loader.Split) -> dict[str, float]:
    """{`valid/loss`, `valid/METRIC`, …} of the whole validation split."""
    label = experiment.dataset.index("valid")["label"]
    outputs = inference.outputs(step, params, split, experiment)
    bad = ~np.isfinite(outputs).all(axis=1)
    if bad.any():
        ids = experiment.dataset.index("valid")["id"][bad]
        raise DataError(f"outputs are not finite for {len(ids)} utterances, such as {ids[0]}")
    loss = float(experiment.task.loss(jnp.asarray(outputs), jnp.asarray(label)).mean())
    scores = {"loss": loss} | experiment.task.score(label, outputs)
    if experiment.selection not in scores:
        known = ", ".join(k for k in scores if "/" not in k)
        raise UsageError(f"selection={experiment.selection!r} is no metric of this task: {known}")
    return {f"valid/{k}": v for k, v in scores.items()}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What runs that differ in nothing but the seed share, so that it is compiled once; `prepare`.

    Attributes:
      total: number of updates.
      initial, update, infer: of `update.make_initial`, `update.make_update` and
        `inference.make_step`.
    """

    experiment: Experiment
    tx: optax.GradientTransformation
    total: int
    initial: Callable
    update: Callable
    infer: Callable


def prepare(config, scored: Sequence[str] = SCORED) -> Prepared:
    """Dataset, task, model and jitted steps of `config`.

    Args:
      scored: splits that will be scored; of others but train and valid nothing can be read.
    """
    experiment = experiments.make(config, only=("train", "valid", *scored))
    dataset = experiment.dataset
    for name in ("train", "valid"):
        if name not in dataset.splits:
            raise DataError(f"{config.dataset} has no split {name!r}; training needs it")
    if unknown := set(scored) - {*SCORED, *dataset.splits}:
        raise UsageError(f"--evaluate: {config.dataset} has no split {', '.join(sorted(unknown))}")
    total = config.steps or config.epochs * experiment.split("train").steps_per_epoch
    tx = optim.make(config.optim, total)
    return Prepared(
        experiment, tx, total, updates.make_initial(experiment, tx),
        updates.make_update(experiment, tx), inference.make_step(experiment),
    )  # fmt: skip


def train(
    config,
    workdir: pathlib.Path,
    profile: int = 0,
    *,
    scored: Sequence[str] = SCORED,
    track: Sequence[str] = (),
    prepared: Prepared | None = None,
    validated: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train to the end, or go on from the last checkpoint in `workdir`; returns the results.

    Args:
      profile: number of updates to trace, after a few that warm up.
      scored: splits to score in the end; of others but train and valid nothing is read.
      track: names of `tracking.TRACKERS`.
      prepared: of the same config but for the seed, and the same `scored`.
      validated: called after each validation with the step and the score that selects; what it
        raises, such as `Pruned`, ends the run.
    """
    ################################################################################
    # Experiment: config -> mesh, dataset, task, model, steps
    ################################################################################
    say = print if distributed.is_first() else lambda *_, **__: None
    prepared = prepared or prepare(config, scored)
    experiment = dataclasses.replace(prepared.experiment, config=config)
    update, infer, total = prepared.update, prepared.infer, prepared.total
    dataset = experiment.dataset
    rundir.start(workdir, config, dataset)

    ################################################################################
    # Input
    ################################################################################
    train_split = experiment.split("train", seed=config.seed, steps=total)
    valid_split = experiment.split("valid")
    eval_steps = config.eval_steps or train_split.steps_per_epoch
    used = plan.padding(train_split.lengths, train_split.plan(0))

    ################################################################################
    # The state: fresh, or that of the last checkpoint, whatever mesh wrote it
    ################################################################################
    checkpoints = Checkpoints(workdir)
    if checkpoints.last_step is None:
        state = prepared.initial(config.seed)
    else:
        state = checkpoints.restore(updates.like(experiment, prepared.tx))
    first = checkpoints.last_step or 0  # after restoring: it may have been an older one
    best = math.nan
    if checkpoints.best_step is not None:
        checkpoints.restore_best(experiment.abstract)  # it can be read, and so at the end
        best = checkpoints.best_scores()[f"valid/{experiment.selection}"]
    size = sum(p.size for p in jax.tree.leaves(state["params"]))
    say(
        f"{dataset.metadata['protocol']}, {'+'.join(experiment.dims)}: "
        f"{len(train_split.lengths)} training utterances, {total} updates of {config.batch_size}\n"
        f"{config.model.name}, {size:,} parameters, {config.dtype}, on {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}, attention: {experiment.attention}\n"
        f"batches of {len(experiment.buckets)} shapes (frames of {', '.join(experiment.dims)}): "
        f"{' '.join(map(str, experiment.buckets))}; "
        f"real frames {', '.join(f'{share:.0%}' for share in used)}\n"
        + (f"going on from update {first} of {workdir}" if first else f"writing to {workdir}")
    )  # fmt: skip

    ################################################################################
    # Loop: evaluate -> save -> next batch -> update -> log. The order is a contract: what is saved
    # at step s is the state before update s + 1, so that a run that goes on from it repeats exactly
    # what the first one did or would have done.
    ################################################################################
    trackers = tracking.start(track, workdir, config) if distributed.is_first() else []
    writer = rundir.MetricWriter(workdir, first, trackers)
    batches = loader.read(
        train_split, start=first, threads=config.data.threads, ahead=config.data.ahead,
        workers=config.data.workers,
    )  # fmt: skip
    stop = distributed.Stop()
    bar = tqdm.tqdm(
        total=total, initial=first, unit="step", desc="train", dynamic_ncols=True,
        disable=not distributed.is_first(),
    )  # fmt: skip
    pending: collections.deque = collections.deque()
    meter = performance.Meter(experiment, train_split)

    def settle(keep: int) -> None:
        """Look at the results of all but the newest `keep` updates."""
        while len(pending) > keep:
            step, ids, device_values = pending.popleft()
            values = {k: float(v) for k, v in device_values.items()}
            if not all(map(math.isfinite, values.values())):
                raise DataError(
                    f"update {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; "
                    f"batch of {', '.join(ids)}. The last good checkpoint is that of step "
                    f"{checkpoints.last_step}; look at these utterances, or lower optim.lr"
                )
            if step % config.log_steps == 0:
                writer.write(step, values)
                bar.set_postfix(loss=f"{values['loss']:.3f}", utt_per_s=meter.latest)

    try:
        for step in range(first, total + 1):
            due = step % eval_steps == 0 or step == total
            stopping = stop.reached(step)
            if due and not stopping:
                settle(0)
                meter.pause()
                averaged = state.get("ema", state["params"])
                try:
                    scores = validate(experiment, infer, averaged, valid_split)
                except DataError as error:
                    raise DataError(
                        f"validation after update {step}: {error}. The last good checkpoint is "
                        f"that of step {checkpoints.last_step}; lower optim.lr"
                    ) from error
                writer.write(step, scores)
                if _better(scores[f"valid/{experiment.selection}"], best, experiment.selection):
                    best = scores[f"valid/{experiment.selection}"]
                    if step != checkpoints.best_step:  # else a killed run wrote it already
                        checkpoints.save_best(step, averaged, scores)
                meter.resume()
                if validated:
                    validated(step, scores[f"valid/{experiment.selection}"])
            if due or stopping:
                settle(0)
                checkpoints.save(step, state)
            if stopping:
                checkpoints.wait()
                bar.close()
                if distributed.is_first():
                    print(
                        f"SIGTERM: saved update {step}; the same command goes on", file=sys.stderr
                    )
                sys.exit(PREEMPTED)
            if step == total:
                break
            if profile and step == first + WARMUP:
                settle(0)
                jax.profiler.start_trace(workdir / "profile")
            if profile and step == first + WARMUP + profile:
                settle(0)
                jax.profiler.stop_trace()
            batch = meter.waiting(next, batches)
            state, values = update(state, sharding.put(batch, experiment.mesh))
            meter.count(step)
            if (step + 1) % config.log_steps == 0:
                writer.write(step + 1, meter.lap(), file="timing")
            pending.append((step + 1, batch["id"], values))
            settle(LAG)
            bar.update()
    except BaseException as error:
        tracking.tell(trackers, "stop", _failed(error))
        raise
    finally:
        stop.restore()
        bar.close()
        checkpoints.close()
        writer.close()

    ################################################################################
    # The selected checkpoint on validation and, unless it is held back, once on test
    ################################################################################
    if distributed.is_first():
        plots.training(
            rundir.read_metrics(workdir), experiment.selection, workdir / "plots/training.png"
        )
    splits = [s for s in dict.fromkeys(["valid", *scored]) if s in dataset.splits]
    try:
        results = evaluate.evaluate(experiment, workdir, splits, infer)
    except BaseException as error:
        tracking.tell(trackers, "stop", _failed(error))
        raise
    tracking.tell(trackers, "finish", results)
    say(
        f"\n{performance.summary(meter.laps)}\n{_choice(results['selected'])}\n"
        f"{evaluate.table(experiment, results, splits)}\n"
        f"{workdir}/results.json, {workdir}/plots"
    )
    return results


def _choice(selected: Mapping[str, Any]) -> str:
    """Which checkpoint validation selected, in words."""
    metric, valid = selected["metric"], selected["valid"]
    said = f"selected: update {selected['step']}, validation {metric} {valid:.4f}"
    if selected["step"] == 0:
        said += "; this is the untrained network, nothing that it learned is better on validation"
    return said


def _failed(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, Pruned)


def _better(value: float, best: float, metric: str) -> bool:
    if math.isnan(best):
        return True
    return value > best if higher_is_better(metric) else value < best


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    if f.dry_run:
        dryrun.simulate(f.devices)
        return dryrun.run(f.config, f.chip)
    if not f.workdir:
        raise UsageError("--workdir=DIR says where the run is kept")
    workdir = pathlib.Path(f.workdir)
    with distributed.processes(), rundir.room(workdir):
        train(f.config, workdir, f.profile, scored=f.evaluate, track=f.track)


if __name__ == "__main__":
    run(main, define_flags)
