"""The tables of a report as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

from imat_jax.reporting.evidence import Cell, Comparison, Evidence
from imat_jax.reporting.runs import Found, Row, Run


def markdown(evidence: Sequence[Evidence], found: Found, folder: pathlib.Path | None = None) -> str:
    """All tables, comparisons and warnings; with links relative to `folder` where one is given."""
    parts = [_markdown_table(one, folder) for one in evidence]
    parts += [f"configurations tried: {tried(found)}"]
    if found.unfinished:
        parts.append("not finished: " + ", ".join(map(str, found.unfinished)))
    if found.replaced:
        names = ", ".join(map(str, found.replaced))
        parts.append(f"of another version of the code than the runs that count: {names}")
    parts += [f"failed: {name}: {error}" for name, error in found.failed.items()]
    return "\n\n".join(parts)


def tried(found: Found) -> str:
    """How many configurations were tried, as far as anything says so."""
    if not found.sweeps:
        return "no sweep recorded how many; a best one of many is too good by chance"
    return "; ".join(
        f"{sweep.get('configurations_tried', 'an unknown number')} in {folder}, "
        f"{sweep.get('runs_with_test_scores', 'an unknown number')} runs of them scored on test"
        for folder, sweep in found.sweeps.items()
    )


def _markdown_table(one: Evidence, folder: pathlib.Path | None) -> str:
    table, columns = one.table, one.table.columns
    lines = [
        f"**{table.protocol}**, {caption(one)}",
        "",
        "| model | parameters | seeds | " + " | ".join(f"`{c}`" for c in columns) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for row in table.rows:
        cells = [number(one.cells[row.name][c]) for c in columns]
        seeds = str(len(row.runs))
        if folder is not None:
            cells = [f"[{text}]({link(row.runs, folder)})" for text in cells]
            seeds += ": " + " ".join(f"[{r.seed}]({link([r], folder)})" for r in row.runs)
        if "ceiling" in row.runs[0].results:
            cells[0] += f" (best possible {row.runs[0].results['ceiling'][table.split]:.3f})"
        size = row.runs[0].results["parameters"]
        lines.append(f"| {code(row.name)} | {size:,} | {seeds} | " + " | ".join(cells) + " |")
    constant = " | ".join(f"{table.trivial[c]:.3f}" for c in columns)
    lines.append(f"| best constant answer | | | {constant} |")
    for system in one.published:
        cells = [f"{system.values[c]:.3f}" if c in system.values else "" for c in columns]
        source = f"[{system.source}]({system.url})" + (f"; {system.note}" if system.note else "")
        lines.append(f"| published: {system.name} ({source}) | | | " + " | ".join(cells) + " |")
    headline = columns[0]
    lines += ["", f"95 % intervals of `{headline}` over {one.unit}s: " + "; ".join(
        f"{code(row.name)} {interval(one.cells[row.name][headline])}" for row in table.rows
    )]  # fmt: skip
    if one.comparisons:
        lines += [
            "",
            f"Against {code(one.baseline.name)}:",
            "",
            "| model | metric | difference | 95 % interval | p | Holm | p over runs | detectable "
            "| |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(comparison(c))} |" for c in one.comparisons]
    lines += [f"\n{sentence}" for sentence in variance(one)]
    lines += [f"\n**!** {warning}" for warning in one.warnings]
    return "\n".join(lines)


def caption(one: Evidence) -> str:
    groups = f" of {one.groups} groups" if one.groups else ""
    return f"{one.table.split}, {one.table.examples} utterances{groups}"


def code(name: str) -> str:
    """The `key=value` in a row's name set as code."""
    model, modalities, *keys = name.split(" ")
    return " ".join([model, modalities, *(f"`{key}`" for key in keys)])


def number(cell: Cell) -> str:
    deviation = "" if math.isnan(cell.deviation) else f" ± {cell.deviation:.3f}"
    return f"{cell.mean:.3f}{deviation}"


def interval(cell: Cell | Comparison, sign: str = "") -> str:
    return "none" if math.isnan(cell.low) else f"{cell.low:{sign}.3f} to {cell.high:{sign}.3f}"


def p_value(p: float) -> str:
    return "none" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison(c: Comparison) -> list[str]:
    """The cells of a comparison's line."""
    return [
        code(c.row.name), f"`{c.metric}`", f"{c.difference:+.3f}", interval(c, "+"),
        p_value(c.p), p_value(c.holm), p_value(c.p_runs), f"{c.detectable:.3f}", c.verdict,
    ]  # fmt: skip


def variance(one: Evidence) -> list[str]:
    """What the variance split and the detectable difference come to, a sentence each."""
    headline, sentences = one.table.columns[0], []
    for name, split in one.variance.items():
        if math.isnan(split.error):
            continue
        seeds = "of one seed, so without what seeds add"
        if not math.isnan(split.seed):
            seeds = (
                f"{split.seed_share:.0%} of its square from the seeds, the rest from {one.unit}s"
            )
        sentences.append(
            f"{code(name)}: standard error of `{headline}` {split.error:.3f}, {seeds}."
        )
    if not math.isnan(one.detectable):
        sentences.append(
            f"With these {one.units} {one.unit}s, a difference in `{headline}` below "
            f"{one.detectable:.3f} is missed in more than one of five tests at 5 %."
        )
    return sentences


def link(runs: Sequence[Run], folder: pathlib.Path) -> str:
    """Relative link from `folder` to a run's directory, or to the one that holds all of `runs`."""
    common = os.path.commonpath([os.path.abspath(run.workdir) for run in runs])
    return os.path.relpath(common, folder).replace(os.sep, "/").replace(" ", "%20")


# ---- LaTeX ---------------------------------------------------------------------------------------


def latex(evidence: Sequence[Evidence], folder: pathlib.Path) -> str:
    """A `tabular` a table, for booktabs and hyperref; `*` where Holm's p is below 0.05."""
    return "\n\n".join(_latex_table(one, folder) for one in evidence) + "\n"


def _latex_table(one: Evidence, folder: pathlib.Path) -> str:
    table, columns = one.table, one.table.columns
    told = {(c.row.name, c.metric) for c in one.comparisons if c.verdict != "not told apart"}
    lines = [
        rf"% \usepackage{{booktabs,hyperref}} {table.protocol}, {caption(one)}",
        rf"% $\pm$: sample deviation over seeds. *: differs from {_or_none(one.baseline)}, paired "
        "permutation test",
        r"% over utterances, Holm-corrected p < 0.05.",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}",
        r"\toprule",
        " & ".join(["model", "seeds", *(_escape(c) for c in columns)]) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        target = link(row.runs, folder).replace("%", r"\%").replace("#", r"\#")
        cells = [
            rf"\href{{{target}}}{{{_latex_number(one.cells[row.name][c])}}}"
            + ("*" if (row.name, c) in told else "")
            for c in columns
        ]
        lines.append(" & ".join([_escape(row.name), str(len(row.runs)), *cells]) + r" \\")
    lines.append(r"\midrule")
    constant = [f"{table.trivial[c]:.3f}" for c in columns]
    lines.append(" & ".join(["best constant answer", "", *constant]) + r" \\")
    for system in one.published:
        cells = [f"{system.values[c]:.3f}" if c in system.values else "" for c in columns]
        name = rf"\href{{{system.url}}}{{{_escape(system.name)}}}"
        lines.append(" & ".join([name, "", *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _or_none(row: Row | None) -> str:
    return row.name if row else "nothing"


def _latex_number(cell: Cell) -> str:
    deviation = "" if math.isnan(cell.deviation) else rf" \pm {cell.deviation:.3f}"
    return f"${cell.mean:.3f}{deviation}$"


def _escape(text: str) -> str:
    named = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    return "".join(named.get(c, f"\\{c}" if c in "_%&#${}" else c) for c in text)


# ---- CSV -----------------------------------------------------------------------------------------


def csv_of_rows(evidence: Sequence[Evidence], folder: pathlib.Path) -> str:
    """A line a row and metric: everything that is known of it; empty where nothing is."""
    lines = []
    for one in evidence:
        by_key = {(c.row.name, c.metric): c for c in one.comparisons}
        place = {
            "protocol": one.table.protocol,
            "split": one.table.split,
            "utterances": one.table.examples,
        }
        for row in one.table.rows:
            size = row.runs[0].results["parameters"]
            ours = {"kind": "ours", "model": row.name, "parameters": size, "seeds": len(row.runs)}
            runs = " ".join(link([run], folder) for run in row.runs)
            for metric, cell in one.cells[row.name].items():
                numbers = {"mean": cell.mean, "std": cell.deviation}
                numbers |= {"low": cell.low, "high": cell.high}
                numbers |= _tested(by_key.get((row.name, metric)), one.baseline)
                lines.append(place | ours | {"metric": metric, "runs": runs} | numbers)
        for metric in one.table.columns:
            trivial = {"kind": "constant", "model": "best constant answer", "metric": metric}
            lines.append(place | trivial | {"mean": one.table.trivial[metric]})
        for system in one.published:
            theirs = {"kind": "published", "model": system.name, "source": system.source}
            theirs["url"] = system.url
            lines += [place | theirs | {"metric": m, "mean": v} for m, v in system.values.items()]
    fields = (
        "protocol", "split", "utterances", "kind", "model", "parameters", "seeds", "metric",
        "mean", "std", "low", "high", "baseline", "difference", "difference_low",
        "difference_high", "p", "p_holm", "p_runs", "detectable", "runs", "source", "url",
    )  # fmt: skip
    return _csv(fields, lines)


def csv_of_runs(evidence: Sequence[Evidence], folder: pathlib.Path) -> str:
    """A line a run and metric."""
    lines = [
        {
            "protocol": one.table.protocol, "split": one.table.split, "model": row.name,
            "seed": run.seed, "metric": metric, "value": run.results[one.table.split][metric],
            "run": link([run], folder),
        }
        for one in evidence
        for row in one.table.rows
        for run in row.runs
        for metric in one.table.columns
    ]  # fmt: skip
    return _csv(("protocol", "split", "model", "seed", "metric", "value", "run"), lines)


def _tested(c: Comparison | None, baseline: Row | None) -> dict:
    if c is None:
        return {}
    return {
        "baseline": baseline.name, "difference": c.difference, "difference_low": c.low,
        "difference_high": c.high, "p": c.p, "p_holm": c.holm, "p_runs": c.p_runs,
        "detectable": c.detectable,
    }  # fmt: skip


def _csv(fields: Sequence[str], lines: Sequence[Mapping]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        defined = {k: v for k, v in line.items() if not (isinstance(v, float) and math.isnan(v))}
        writer.writerow(defined)
    return text.getvalue()
