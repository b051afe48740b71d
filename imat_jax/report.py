"""Tables over runs: python -m imat_jax.report RUN_OR_FOLDER… [--split=test] [--output=DIR]

Finds every run below the paths given. Runs that differ in nothing but the seed make one row: mean ±
standard deviation over seeds, with a bootstrap interval over utterances; every row is compared with
a baseline by a paired permutation test. The best constant answer stands below each dataset, and
the best possible accuracy and published numbers where they are known. Unfinished and failed runs
are listed. DIR gets report.html, report.md, report.tex, report.csv and runs.csv; docs/reports.md
says how each number is made.
"""

from __future__ import annotations

import pathlib

from absl import flags

from imat_jax import rundir
from imat_jax.cli import UsageError, run
from imat_jax.reporting import evidence, page, runs, tables


def define_flags() -> None:
    flags.DEFINE_string("split", "test", "Split to report.")
    flags.DEFINE_string("output", None, "Directory for the report; default: print only.")
    flags.DEFINE_string(
        "baseline", None, "Row to compare with, or a part of its name; default: best on validation."
    )
    flags.DEFINE_list("metrics", [], "Metrics to compare by; default: the headline.")
    flags.DEFINE_string("units", "utterance", 'What is resampled: "utterance" or "group".')


def write(
    found: runs.Found, weighed: list[evidence.Evidence], output: pathlib.Path
) -> pathlib.Path:
    """All forms of the report, into `output`; returns the page's path."""
    output.mkdir(parents=True, exist_ok=True)
    folder = output.absolute()
    for name, text in (
        ("report.md", tables.markdown(weighed, found, folder) + "\n"),
        ("report.tex", tables.latex(weighed, folder)),
        ("report.csv", tables.csv_of_rows(weighed, folder)),
        ("runs.csv", tables.csv_of_runs(weighed, folder)),
        ("report.html", page.render(weighed, found, folder)),
    ):
        rundir.write_text(output / name, text)
    return output / "report.html"


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UsageError("name run directories, or directories that hold them")
    f = flags.FLAGS
    found = runs.collect(argv[1:])
    weighed = [
        evidence.weigh(table, baseline=f.baseline, metrics=f.metrics, unit=f.units)
        for table in runs.tables(found.runs, f.split)
    ]
    print(tables.markdown(weighed, found))
    if f.output:
        print(f"\n{write(found, weighed, pathlib.Path(f.output))}")


if __name__ == "__main__":
    run(main, define_flags)
