"""Search by Optuna: a trial is a run, its value the run's validation score.

The space is the config's `search(trial) -> overrides`, in Optuna's own terms. Trials are kept in a
journal beside the sweep, or in a database; sweeps of several hosts that share both are one search.
The parameters of trial n depend only on the trials before it, so that a search that was killed goes
on to what it would have been, with one run at a time; a trial that was under way resumes from its
last checkpoint, and may still be pruned.
"""

from __future__ import annotations

import collections
import fcntl
import json
import pathlib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from imat_jax import tasks
from imat_jax.cli import UsageError, package
from imat_jax.sweeping.state import OVER, Job
from imat_jax.train import Pruned

STARTUP = 5  # trials that are trained to the end before any is pruned


def pruner(trial: Mapping[str, Any]) -> Callable[[int, float], None]:
    """For `train`'s `validated`: reports each validation score; raises `Pruned` by the median rule.

    A trial is pruned where its best score so far is worse than the median of the others' at that
    update (Golovin et al., Google Vizier, KDD 2017, section 4.2).
    """
    optuna = package("optuna", "sweep")
    study = optuna.load_study(
        study_name=trial["study"], storage=_storage(trial["storage"]), pruner=_median(optuna)
    )
    me = optuna.trial.Trial(study, trial["trial"])
    known = study.trials[me.number].intermediate_values  # of what a killed worker reported

    def validated(step: int, score: float) -> None:
        if step not in known:
            me.report(score, step)
        if me.should_prune():
            raise Pruned

    return validated


class Search:
    """The search of a sweep, as the source of its jobs.

    Args:
      storage: a database URL, or "" for SWEEP/study.log.
      space: trial -> overrides, the config's `search`.
      job: (overrides, trial) -> the job that tries them.
      metric: what is searched for.
      base: hash of config, dataset and code that the trials have in common.
      trials: how many there are to be, over all processes.

    Raises:
      UsageError: the study there is one of another config, dataset or code.
    """

    def __init__(
        self,
        root: pathlib.Path,
        storage: str,
        space: Callable[[Any], Mapping[str, Any]],
        job: Callable[[Mapping[str, Any], Mapping[str, Any]], Job],
        metric: str,
        base: str,
        trials: int,
    ):
        self._optuna = package("optuna", "sweep")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._space, self._job, self._wanted = space, job, trials
        self._storage, self._name = storage or str(root.absolute() / "study.log"), root.name
        self._study = self._optuna.create_study(
            study_name=self._name,
            storage=_storage(self._storage),
            direction="maximize" if tasks.higher_is_better(metric) else "minimize",
            load_if_exists=True,
        )
        if self._study.user_attrs.setdefault("base", base) != base:
            raise UsageError(
                f"{self._storage} holds a search with another config, dataset or version of the "
                "code, whose scores are not comparable; take another --workdir"
            )
        self._study.set_user_attr("base", base)
        # Held as long as this process lives: a trial whose owner is gone is for others to finish.
        self._owner = root.absolute() / "owners" / uuid.uuid4().hex
        self._owner.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._owner.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._mine: dict[int, int] = {}  # {id: number} of the trials that are under way here

    def next(self, after: Job | None) -> Job | None:
        """The trial to run next: one that was left under way, else a new one, else none."""
        running = [t for t in self._study.trials if t.state.name == "RUNNING"]
        for left in running:
            given = left.user_attrs
            if left.number in self._mine.values() or not _gone(given.get("owner")):
                continue
            if "overrides" in given:
                trial = self._optuna.trial.Trial(self._study, left._trial_id)
                trial.set_user_attr("owner", str(self._owner))
                return self._take(trial, given["overrides"])
            # Its process was killed before it had all its parameters: it tried nothing.
            failed = self._optuna.trial.TrialState.FAIL
            self._study.tell(left.number, state=failed, skip_if_finished=True)
        if len(self._begun()) >= self._wanted:
            return None
        # Anew for each trial, so that it does not matter which process asks, and when.
        count = len(self._study.trials)
        self._study.sampler = self._optuna.samplers.TPESampler(seed=count)
        trial = self._study.ask()
        trial.set_user_attr("owner", str(self._owner))  # first: the space may take its time
        try:
            overrides = dict(self._space(trial))
        except ValueError as error:  # Optuna's, of a parameter that earlier trials have differently
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            raise UsageError(
                f"search(trial) of the config: {error} A space that has changed is another search: "
                "take another --workdir"
            ) from error
        return self._take(trial, overrides)

    def _begun(self) -> list[Any]:
        """The trials, but for those that ended before they had parameters."""
        return [
            t for t in self._study.trials
            if t.state.name != "FAIL" or "overrides" in t.user_attrs
        ]  # fmt: skip

    def _take(self, trial: Any, overrides: Mapping[str, Any]) -> Job:
        spec = {"storage": self._storage, "study": self._name, "trial": trial._trial_id}
        job = self._job(overrides, spec)
        self._mine[trial._trial_id] = trial.number
        trial.set_user_attr("directory", job.directory)
        trial.set_user_attr("overrides", dict(overrides))
        return job

    def done(self, job: Job, status: str) -> None:
        """The job ended so."""
        number = self._mine.pop(job.trial["trial"])
        states = self._optuna.trial.TrialState
        if status == "finished":
            results = json.loads((pathlib.Path(job.directory) / "results.json").read_text())
            self._study.tell(number, results["selected"]["valid"], skip_if_finished=True)
        elif status in OVER:
            state = states.PRUNED if status == "pruned" else states.FAIL
            self._study.tell(number, state=state, skip_if_finished=True)

    def close(self) -> None:
        """Leave what is under way to others."""
        self._owner.unlink(missing_ok=True)
        self._lock.close()

    def facts(self) -> dict[str, Any]:
        """For sweep.json: how many trials there were, and the best."""
        trials = self._begun()
        found: dict[str, Any] = {
            "storage": hidden(self._storage),
            "trials": dict(collections.Counter(t.state.name.lower() for t in trials)),
        }
        if any(t.state.name == "COMPLETE" for t in trials):
            best = self._study.best_trial
            names = {k: best.user_attrs[k] for k in ("overrides", "directory")}
            found["best"] = {"trial": best.number, "value": best.value} | names
        return found


def hidden(url: str) -> str:
    """Without the password, for sweep.json and messages."""
    return re.sub(r"(?<=://)([^:@/]*):[^@/]*@", r"\1:***@", url)


def _gone(owner: str | None) -> bool:
    """The process that held that lock is no more; of a trial without one that is not known."""
    if owner is None:
        return False
    try:
        with open(owner, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def _median(optuna: Any) -> Any:
    # Step 0 is before the first update: nothing is known of a trial there.
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1)


def _storage(where: str) -> Any:
    optuna = package("optuna", "sweep")
    if "://" in where:
        try:
            return optuna.storages.RDBStorage(where)
        except Exception as error:  # of the driver of that database, or its absence
            raise UsageError(f"--storage={hidden(where)}: {error}") from error
    backend = optuna.storages.journal.JournalFileBackend(where)
    return optuna.storages.JournalStorage(backend)
