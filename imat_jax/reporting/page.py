"""A report as one HTML file: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import math
import pathlib
from collections.abc import Sequence
from html import escape

import numpy as np

from imat_jax import metrics
from imat_jax.reporting import literature, tables
from imat_jax.reporting.evidence import SAMPLES, Comparison, Evidence
from imat_jax.reporting.runs import Found, Row, Run
from imat_jax.tasks import higher_is_better

STYLE = pathlib.Path(__file__).with_name("page.css")

TERMS = {
    "± ": "Sample standard deviation over seeds of one config: what another seed may change.",
    "small numbers below a value, bars": f"95 % bootstrap interval (BCa, {SAMPLES} samples of the "
    "utterances) of the mean over seeds: what other utterances may change. Circles are seeds.",
    "p, Holm": "Paired permutation test over utterances against the row named; Holm's correction "
    "is for all tests of the table. It is about these trained networks.",
    "p over runs": "Exact permutation test that exchanges whole runs; with 5 seeds each it can be "
    "0.008 at best, with 3 seeds 0.1.",
    "detectable": "The true difference that such a test finds four times in five. A difference "
    "below it that was not told apart is no evidence that there is none.",
    "best constant answer": "The most frequent class, the median or the share of the training "
    "split: what can be had without looking at an utterance.",
    "published": "Numbers by the same protocol on a test split of the same size, as their sources "
    "give them: other features, mostly without seeds or intervals.",
}


def render(evidence: Sequence[Evidence], found: Found, folder: pathlib.Path) -> str:
    """The page; links to run directories are relative to `folder`."""
    runs = sum(len(row.runs) for one in evidence for row in one.table.rows)
    links = "".join(
        f'<li><a href="#t{i}">{escape(one.table.protocol)}</a></li>'
        for i, one in enumerate(evidence)
    )
    sections = "".join(_section(i, one, folder) for i, one in enumerate(evidence))
    terms = "".join(f"<dt>{escape(t)}</dt><dd>{escape(d)}</dd>" for t, d in TERMS.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>Results of {runs} runs</title>
<style>
{STYLE.read_text()}</style>
</head>
<body>
<a class="skip" href="#main">to the results</a>
<header>
<h1>Results of {runs} runs</h1>
<p class="dim">Checkpoints were selected on validation. Configurations tried:
{escape(tables.tried(found))}.</p>
<nav aria-label="tables"><ul>{links}<li><a href="#reading">how to read this</a></li></ul></nav>
</header>
<main id="main">
{sections}
{_missing(found)}
<section id="reading"><h2>How to read this</h2><dl>{terms}</dl></section>
</main>
</body>
</html>
"""


def _section(i: int, one: Evidence, folder: pathlib.Path) -> str:
    variance = "".join(f"<li>{_ticks(sentence)}</li>" for sentence in tables.variance(one))
    parts = [
        f'<section id="t{i}" aria-labelledby="h{i}">',
        f'<h2 id="h{i}">{escape(one.table.protocol)}</h2>',
        f'<p class="dim">{escape(tables.caption(one))}; dataset '
        f'<code title="SHA-256">{one.table.first.results["dataset"][:12]}</code></p>',
        _warnings(one.warnings),
        _forest(one),
        '<p class="small dim">mean ± deviation over seeds, 95 % interval over '
        f"{one.unit}s below; a value leads to its runs</p>",
        _scroll(f"scores on {one.table.protocol}", _scores(i, one)),
        _sources(one),
    ]
    if one.comparisons:
        name = _ticks(tables.code(one.baseline.name))
        parts.append(f"<h3>Against {name}</h3>")
        parts.append(_scroll(f"comparisons on {one.table.protocol}", _comparisons(one)))
    if variance:
        parts.append(f'<h3>Where the error comes from</h3><ul class="small">{variance}</ul>')
    parts += [_classes(one), _runs(i, one, folder), _plots(one), "</section>"]
    return "\n".join(parts)


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{_ticks(w)}</li>" for w in warnings)
    title = "<strong>Before you believe it</strong>"
    return f'<div class="warnings" role="note">{title}<ul>{items}</ul></div>'


def _ticks(text: str) -> str:
    """Escaped, with what is between backticks as code; keys may break at their points."""
    parts = escape(text).split("`")
    breaking = [part.replace(".", ".<wbr>").replace("=", "=<wbr>") for part in parts]
    return "".join(f"<code>{breaking[k]}</code>" if k % 2 else part for k, part in enumerate(parts))


def _scroll(label: str, table: str) -> str:
    region = f'class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"'
    return f"<div {region}>{table}</div>"


# ---- Scores --------------------------------------------------------------------------------------


def _scores(i: int, one: Evidence) -> str:
    table, columns = one.table, one.table.columns
    head = "".join(
        f'<th scope="col">{c} {"↑" if higher_is_better(c) else "↓"}</th>' for c in columns
    )
    best = {
        c: (max if higher_is_better(c) else min)(one.cells[r.name][c].mean for r in table.rows)
        for c in columns
    }
    ours = ""
    for k, row in enumerate(table.rows):
        cells = ""
        for c in columns:
            cell = one.cells[row.name][c]
            below = "" if math.isnan(cell.low) else f"{cell.low:.3f} – {cell.high:.3f}"
            mark = ' class="best"' if cell.mean == best[c] and len(table.rows) > 1 else ""
            cells += (
                f'<td{mark}><a href="#r{i}-{k}">{tables.number(cell)}</a>'
                f'<span class="interval">{below}</span></td>'
            )
        size = row.runs[0].results["parameters"]
        name = _ticks(tables.code(row.name))
        ours += (
            f'<tr><th scope="row">{name}</th>{cells}<td>{len(row.runs)}</td><td>{size:,}</td></tr>'
        )
    other = _fixed("best constant answer", {c: table.trivial[c] for c in columns}, columns)
    for name, ceiling in _ceilings(one).items():
        other += _fixed(name, {"acc": ceiling}, columns)
    for system in one.published:
        name = f'published: <a href="{escape(system.url)}">{escape(system.name)}</a>'
        other += _fixed(name, system.values, columns)
    return (
        f'<table><thead><tr><th scope="col">model</th>{head}<th scope="col">seeds</th>'
        f'<th scope="col">parameters</th></tr></thead><tbody>{ours}</tbody>'
        f'<tbody class="other">{other}</tbody></table>'
    )


def _sources(one: Evidence) -> str:
    """Where the published numbers are from, each source once."""
    systems: dict[str, list[str]] = {}
    for system in one.published:
        note = f" ({system.note})" if system.note else ""
        systems.setdefault(f"{system.source}{note}", []).append(system.name)
    listed = "; ".join(f"{', '.join(names)}: {source}" for source, names in systems.items())
    return f'<p class="small dim">Published: {escape(listed)}.</p>' if listed else ""


def _fixed(name: str, values, columns: Sequence[str]) -> str:
    cells = "".join(f"<td>{values[c]:.3f}</td>" if c in values else "<td></td>" for c in columns)
    return f'<tr><th scope="row">{name}</th>{cells}<td></td><td></td></tr>'


def _ceilings(one: Evidence) -> dict[str, float]:
    return {
        f"best possible with {'+'.join(row.runs[0].results['modalities'])}": row.runs[0].results[
            "ceiling"
        ][one.table.split]
        for row in one.table.rows
        if "ceiling" in row.runs[0].results
    }


def _comparisons(one: Evidence) -> str:
    names = ("model", "metric", "difference", "95 % interval", "p", "Holm", "p over runs",
             "detectable", "")  # fmt: skip
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_comparison(c) for c in one.comparisons)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _comparison(c: Comparison) -> str:
    name, *values, verdict = tables.comparison(c)
    cells = "".join(f"<td>{_ticks(value)}</td>" for value in values)
    kind = verdict if verdict in ("better", "worse") else "dim"
    return f'<tr><th scope="row">{_ticks(name)}</th>{cells}<td class="{kind}">{verdict}</td></tr>'


def _forest(one: Evidence) -> str:
    """The headline of every row on one axis: seeds, mean, interval; dotted: constant, best."""
    headline = one.table.columns[0]
    marks = {"constant": one.table.trivial[headline]}
    if found := literature.best(list(one.published), headline):
        marks["best published"] = found[0]
    if headline == "acc" and (ceilings := _ceilings(one)):
        marks["best possible"] = max(ceilings.values())
    cells = [one.cells[row.name][headline] for row in one.table.rows]
    shown = [x for c in cells for x in (*c.values, c.low, c.high)] + [*marks.values()]
    shown = [x for x in shown if not math.isnan(x)]
    if not shown:
        return ""
    pad = 0.04 * (max(shown) - min(shown)) or 0.05
    low, high = min(shown) - pad, max(shown) + pad

    def at(x: float) -> str:
        return f"{100 * (x - low) / (high - low):.2f}%"

    dotted = "".join(
        f'<line class="mark" x1="{at(x)}" x2="{at(x)}" y1="0" y2="24"/>' for x in marks.values()
    )
    lines = ""
    for row, cell in zip(one.table.rows, cells, strict=True):
        drawn = '<line class="track" x1="0" x2="100%" y1="12" y2="12"/>' + dotted
        if not math.isnan(cell.low):
            drawn += f'<line class="bar" x1="{at(cell.low)}" x2="{at(cell.high)}" y1="12" y2="12"/>'
        drawn += "".join(
            f'<circle class="seed" cx="{at(x)}" cy="12" r="3.5"/>' for x in cell.values if x == x
        )
        if not math.isnan(cell.mean):
            drawn += (
                f'<line class="mean" x1="{at(cell.mean)}" x2="{at(cell.mean)}" y1="4" y2="20"/>'
            )
        label = f"{headline} {tables.number(cell)}, 95 % interval {tables.interval(cell)}"
        lines += (
            f'<p class="name">{_ticks(tables.code(row.name))}</p>'
            f'<svg height="24" role="img" aria-label="{escape(row.name)}: {label}">{drawn}</svg>'
        )
    listed = ", ".join(f"{name} {x:.3f}" for name, x in marks.items())
    ticks = "".join(
        f'<text x="{at(x)}" y="14" text-anchor="middle">{x:.{_digits(high - low)}f}</text>'
        for x in _ticks_between(low, high)
    )
    return (
        f'<div class="forest">{lines}<svg height="18" aria-hidden="true">{ticks}</svg>'
        f'<p class="small dim"><code>{headline}</code>; dotted: {listed}</p></div>'
    )


def _ticks_between(low: float, high: float) -> np.ndarray:
    step = 10 ** np.floor(np.log10((high - low) / 2))
    step *= 1 if (high - low) / step <= 6 else 2 if (high - low) / step <= 12 else 5
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _digits(span: float) -> int:
    return max(0, int(np.ceil(-np.log10(span / 2))))


# ---- Classes, runs, plots ------------------------------------------------------------------------


def _classes(one: Evidence) -> str:
    blocks = "".join(_confusion(one, row) for row in one.table.rows)
    blocks = blocks or "".join(_by_name(one, row) for row in one.table.rows)
    return f"<details><summary>By class</summary>{blocks}</details>" if blocks else ""


def _confusion(one: Evidence, row: Row) -> str:
    """Where the utterances of each class went, the mean over seeds."""
    names = row.runs[0].dataset["class_names"]
    loaded = [run.predictions(one.table.split) for run in row.runs]
    if one.table.task != "multiclass" or any(x is None for x in loaded):
        return ""
    counts = np.mean(
        [metrics.confusion(x["label"], x["outputs"].argmax(axis=1), len(names)) for x in loaded],
        axis=0,
    )
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = ""
    for name, shares, total in zip(names, share, counts.sum(axis=1), strict=True):
        cells = "".join(f'<td style="--share:{x:.2f}">{x:.0%}</td>' for x in shares)
        body += f'<tr><th scope="row">{escape(name)} ({total:.0f})</th>{cells}</tr>'
    table = (
        f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
    what = "rows: label (utterances); columns: predicted; share of the label, mean over seeds"
    return f"<h3>{_ticks(tables.code(row.name))}</h3><p class='small dim'>{what}</p>" + _scroll(
        f"confusion of {row.name}", table
    )


def _by_name(one: Evidence, row: Row) -> str:
    """Every metric of every emotion or dimension, the mean over seeds."""
    scores = [run.results[one.table.split] for run in row.runs]
    keys = [key.partition("/") for key in scores[0] if "/" in key]
    kinds, names = (list(dict.fromkeys(k[j] for k in keys)) for j in (0, 2))
    if not keys:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = ""
    for kind in kinds:
        values = [np.mean([s.get(f"{kind}/{n}", math.nan) for s in scores]) for n in names]
        cells = "".join(f"<td>{value:.3f}</td>" for value in values)
        body += f'<tr><th scope="row"><code>{kind}</code></th>{cells}</tr>'
    table = (
        f'<table><thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{body}</tbody></table>'
    )
    return f"<h3>{_ticks(tables.code(row.name))}</h3>" + _scroll(f"classes of {row.name}", table)


def _runs(i: int, one: Evidence, folder: pathlib.Path) -> str:
    """Every run's own numbers, each with a link to its directory."""
    columns = one.table.columns
    head = "".join(f'<th scope="col">{c}</th>' for c in ("seed", *columns, "selected at"))
    body = ""
    for k, row in enumerate(one.table.rows):
        span = len(columns) + 2
        body += (
            f'<tbody id="r{i}-{k}"><tr><th colspan="{span}" scope="rowgroup" '
            f'style="text-align:left">{_ticks(tables.code(row.name))}</th></tr>'
        )
        for run in row.runs:
            at = run.results.get("selected", {}).get("step", "")
            values = [run.seed, *(f"{run.results[one.table.split][c]:.3f}" for c in columns), at]
            where = escape(tables.link([run], folder))
            body += (
                "<tr>" + "".join(f'<td><a href="{where}">{v}</a></td>' for v in values) + "</tr>"
            )
        body += "</tbody>"
    table = f"<table><thead><tr>{head}</tr></thead>{body}</table>"
    scroll = _scroll(f"runs on {one.table.protocol}", table)
    return f"<details open><summary>Runs</summary>{scroll}</details>"


def _plots(one: Evidence) -> str:
    figures = ""
    for row in one.table.rows:
        run = row.runs[0]
        for name, what in (("training", "training"), (one.table.split, "predictions")):
            figures += _figure(run, name, f"{row.name}, seed {run.seed}: {what}")
    if not figures:
        return ""
    summary = "<summary>Plots of the first seeds</summary>"
    return f'<details>{summary}<div class="plots">{figures}</div></details>'


def _figure(run: Run, name: str, caption: str) -> str:
    path = run.workdir / "plots" / f"{name}.png"
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _missing(found: Found) -> str:
    items = [
        f"<li><code>{escape(str(path))}</code>: not finished</li>" for path in found.unfinished
    ]
    items += [
        f"<li><code>{escape(str(path))}</code>: of another version of the code than the runs that "
        "count</li>"
        for path in found.replaced
    ]
    items += [
        f"<li><code>{escape(str(path))}</code>: failed<pre>{escape(error)}</pre></li>"
        for path, error in found.failed.items()
    ]
    if not items:
        return ""
    return (
        '<section id="missing"><h2>Not counted</h2><p>No mean above holds these runs.</p>'
        f"<ul>{''.join(items)}</ul></section>"
    )
