"""`imat VERB …` is `python -m imat_jax.MODULE …`; and how every program ends on bad input."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from absl import app

from imat_jax.data.corpus import DataError

VERBS = {
    "build": "turn a corpus into a dataset",
    "describe": "say what is in a dataset",
    "train": "train a model; started again, it resumes",
    "evaluate": "score a run's selected checkpoint",
    "extract": "media files into a dataset",
    "predict": "what a run says of media files",
    "sweep": "train over values and seeds, or search; started again, it goes on",
    "report": "tables and a page over runs: deviations, intervals, tests",
    "export": "a run as StableHLO, for use without the training code",
    "reproduce": "run an experiment again and judge its numbers",
    "compare": "what two runs differ in",
    "robustness": "score a run with less: modalities, frames, noise",
    "calibrate": "how sure a run is: ECE, temperature, conformal sets",
    "explain": "what a prediction rests on, a page an utterance",
    "serve": "a service and a page over an exported run",
}
# Verbs whose module is not called as they are.
MODULES = {
    "robustness": "analysis.robustness",
    "calibrate": "analysis.calibration",
    "explain": "analysis.explain",
}


class UsageError(ValueError):
    """A wrong flag, config key or combination: one line for the user, no traceback."""


def run(main: Callable[[list[str]], None], define_flags: Callable[[], None]) -> None:
    """`absl.app.run` that ends on bad input with one line and status 1, not with a traceback.

    Args:
      main: the program; bad input is its `UsageError` or `DataError`.
      define_flags: called first; looks into the config that the command line names.
    """

    def guarded(argv: list[str]) -> None:
        for noisy in ("absl", "jax"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        try:
            main(argv)
        except (UsageError, DataError) as error:
            fail(error)

    try:
        define_flags()
    except UsageError as error:
        fail(error)
    app.run(guarded)


def package(name: str, extra: str) -> ModuleType:
    """Import an optional package; raises `UsageError` that says which extra it comes with."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{name} is needed: pip install 'imat_jax[{extra}]' ({error})") from error


def fail(error: Exception) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """The console script `imat`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb not in VERBS:
        listed = "".join(f"  {name:<10}{what}\n" for name, what in VERBS.items())
        print(f"usage: imat VERB --help\n\n{listed}", file=sys.stderr)
        sys.exit(0 if verb in ("-h", "--help") else 2)
    sys.argv = [f"imat {verb}", *sys.argv[2:]]
    module = importlib.import_module(f"imat_jax.{MODULES.get(verb, verb)}")
    run(module.main, module.define_flags)
