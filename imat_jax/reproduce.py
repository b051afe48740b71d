"""Run an experiment again and judge it: python -m imat_jax.reproduce NAME… [--workdir=DIR]

For each NAME of configs/NAME.py: checks its dataset, or builds it (from the files in $IMAT_DATA);
trains every run of EXPECTED with every seed; writes a report; and says of every number whether its
mean over the seeds lies in the range that EXPECTED gives, and if not, what differs from what it was
measured with. Stopped, the same command goes on. Status 1 where a number is not as expected.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from absl import flags

from imat_jax import compare, report, rundir
from imat_jax import config as configs
from imat_jax import expected as expectations
from imat_jax.cli import UsageError, run
from imat_jax.data.dataset import Dataset
from imat_jax.expected import Expected, Verdict
from imat_jax.reporting import evidence, runs

Program = Callable[[str, Sequence[str]], int]  # (verb, flags) -> status


def define_flags() -> None:
    flags.DEFINE_string("workdir", "runs/reproduce", "Where runs and reports are kept.")
    flags.DEFINE_string("document", None, "Write what all configs expect to this file, and end.")


def program(verb: str, arguments: Sequence[str]) -> int:
    """`imat VERB` in a process of its own, as the README has it."""
    command = [sys.executable, "-m", f"imat_jax.{verb}", *arguments]
    return subprocess.run(command, check=False).returncode


def reproduce(
    one: Expected, workdir: pathlib.Path, start: Program = program
) -> tuple[list[Verdict], list[str]]:
    """All runs of an experiment, and its report; returns verdicts, and what differs in environment.

    Raises:
      UsageError: the dataset is not there or another one, or a run failed.
    """
    dataset = prepare(one, start)
    folder, verdicts = workdir / one.name, []
    for argument in one.runs:
        results = []
        for seed in one.seeds:
            directory = folder / argument / str(seed)
            results.append(_train(one, argument, seed, directory, start))
            if results[-1]["dataset"] != dataset.fingerprint:
                raise UsageError(
                    f"{directory} is of another dataset than {dataset.path}; delete it"
                )
        verdicts += one.judge(argument, results)
    found = runs.collect([str(folder)])
    weighed = [evidence.weigh(table) for table in runs.tables(found.runs, "test")]
    page = report.write(found, weighed, folder / "report")
    here = [json.loads((run.workdir / "environment.json").read_text()) for run in found.runs]
    changed = list(
        dict.fromkeys(
            line for e in here for line in compare.environment_difference(one.environment, e)
        )
    )
    rundir.write_json(
        folder / "verdict.json",
        {
            "verdicts": [vars(v) | {"holds": v.holds} for v in verdicts],
            "environment": changed,
            "report": str(page),
        },
    )
    return verdicts, changed


def prepare(one: Expected, start: Program = program) -> Dataset:
    """The dataset of an experiment, built if it is not there.

    Raises:
      UsageError: it is another dataset, or the file that it is made of is not there.
    """
    path = pathlib.Path(one.dataset)
    if not (path / "dataset_info.json").is_file():
        data = os.environ.get("IMAT_DATA", "")
        build = [f.replace("--input=", f"--input={data}/") for f in one.build]
        missing = [f for f in build if f.startswith("--input=") and not os.path.exists(f[8:])]
        if missing:
            raise UsageError(
                f"{path}: no dataset there, and no {missing[0][8:]} to build it from; set "
                f"IMAT_DATA to the folder of that file (docs/data.md): {one.command()}"
            )
        if start("build", [*build, f"--output={path}"]):
            raise UsageError(f"{path}: building it failed; the lines above say why")
    dataset = Dataset.open(path)
    one.check(dataset)
    return dataset


def _train(one: Expected, argument: str, seed: int, workdir: pathlib.Path, start: Program) -> dict:
    """results.json of the run; one that is there has to be the one that would be trained."""
    path = workdir / "results.json"
    if path.is_file() and "test" in json.loads(path.read_text()):
        wanted = configs.load_file(one.path).get_config(argument)
        wanted.seed = seed
        changed = configs.difference(configs.load(workdir).to_dict(), wanted.to_dict())
        before = json.loads((workdir / "environment.json").read_text()).get("code")
        if before != rundir.code_version():
            changed.append(f"version of the code: {before} -> {rundir.code_version()}")
        if changed:
            raise UsageError(
                f"{workdir} is a run from before, with other {'; '.join(changed)}. Delete it, or "
                "take another --workdir"
            )
    else:
        config = f"--config={one.path}:{argument}"
        if start("train", [config, f"--config.seed={seed}", f"--workdir={workdir}"]):
            raise UsageError(f"{workdir}: training failed; the same command goes on from there")
    return json.loads(path.read_text())


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    if f.document:
        text = expectations.document(expectations.load_all())
        return rundir.write_text(pathlib.Path(f.document), text)
    if len(argv) < 2:
        names = ", ".join(one.name for one in expectations.load_all())
        raise UsageError(f"name what to reproduce: {names}")
    all_hold = True
    for one in [expectations.load(name) for name in argv[1:]]:
        verdicts, changed = reproduce(one, pathlib.Path(f.workdir))
        print(f"\n{one.name}, {len(one.seeds)} seeds; {f.workdir}/{one.name}/report/report.html")
        for verdict in verdicts:
            print(f"  {verdict}")
        held = all(v.holds for v in verdicts)
        all_hold &= held
        if not held:
            print("measured with other than here: " + ("; ".join(changed) or "nothing recorded"))
    sys.exit(0 if all_hold else 1)


if __name__ == "__main__":
    run(main, define_flags)
