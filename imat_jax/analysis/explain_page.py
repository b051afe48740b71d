"""An explanation as one HTML page: inline CSS and SVG, no script, nothing loaded from anywhere.

Every picture has a text for screen readers and a table of its numbers below, which opens by mouse
or keyboard. No meaning is in colour alone: attention is how dark, gradient is up or down.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH = 860  # of all drawings, in their own units; they shrink with the page

CSS = """
:root { --ink: #1f2430; --soft: #5b6472; --line: #dfe3ea; --paper: #ffffff; --back: #f5f6f9;
  --attention: #5b3a9e; --for: #0b6e69; --against: #b5420a; --bar: #3d5a98; color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 940px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
p, figure, blockquote { margin: 0 0 .75rem; }
section, header { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 22px; margin-bottom: 16px; }
blockquote { border-left: 4px solid var(--line); padding-left: 14px; font-size: 1.1rem; }
.soft, figcaption, summary { color: var(--soft); font-size: .875rem; }
figcaption { margin-bottom: .35rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; }
details { margin-top: .25rem; } details div { max-height: 20rem; overflow: auto; }
summary { cursor: pointer; width: max-content; }
summary:focus-visible, a:focus-visible, div:focus-visible { outline: 3px solid var(--bar); }
.tokens { list-style: none; margin: 0 0 .75rem; padding: 0; display: flex; flex-wrap: wrap;
  row-gap: 6px; }
.tokens li { padding: 2px 4px; margin-left: 4px; border-radius: 4px; white-space: pre; }
.tokens li.on { margin-left: 0; padding-left: 0; }
.tokens li.up { border-bottom: 3px solid var(--for); }
.tokens li.down { border-bottom: 3px dashed var(--against); }
a { color: var(--bar); }
@media print { details { display: none; } body { background: none; } }
"""


def page(one: Any) -> str:
    """The page of one `explain.Explanation`."""
    found = one.found
    value = one.values[one.answer]
    amount = f"{value:+.2f}" if one.regression else f"{value:.1%}"
    parts = [
        f"<header><h1>{_(one.id)}</h1><p class='soft'>{_(one.split)} split, run {_(one.run)}</p>"
        f"<p>The run says <strong>{_(one.answer)}</strong>, {amount}; "
        f"the corpus says <strong>{_(one.label)}</strong>.</p>"
    ]
    if one.transcript.strip():
        parts.append(f"<blockquote>{_(one.transcript)}</blockquote>")
    parts.append("</header>")
    parts.append(_section("What the run says", _values(one)))
    parts.append(_section("What each modality brings", _shapley(one)))
    for m in one.shapley:
        pairs = {p: w for p, w in found.attention.items() if p.endswith(f"<-{m}")}
        if m in found.gradient or pairs:
            parts.append(_section(_title(m), _modality(one, m, pairs)))
        else:
            missing = "<p>This utterance has none, or nothing of it can be attributed.</p>"
            parts.append(_section(_title(m), missing))
    if found.context is not None:
        parts.append(_section("The utterances around it", _context(found.context)))
    return _document(f"{one.id}: {one.answer}", "".join(parts))


def index(explained: Sequence[Any], names: Sequence[str], facts: Mapping[str, Any]) -> str:
    """A page that links the pages of all utterances."""
    rows = "".join(
        f"<tr><td><a href='{_(name)}.html'>{_(one.id)}</a></td><td>{_(one.answer)}</td>"
        f"<td class='n'>{one.values[one.answer]:.3f}</td><td>{_(one.label)}</td>"
        + "".join(f"<td class='n'>{v:+.3f}</td>" for v in one.shapley.values())
        + "</tr>"
        for one, name in zip(explained, names, strict=True)
    )
    heads = "".join(f"<th scope='col' class='n'>{_(m)}</th>" for m in facts["shapley_mean"])
    body = (
        f"<header><h1>{_(facts['run'])}, {_(facts['split'])}</h1><p class='soft'>Shapley values of "
        "modalities: how the number that is predicted divides among them.</p></header>"
        "<section><h2>Utterances</h2><table><thead><tr><th scope='col'>utterance</th>"
        "<th scope='col'>predicted</th><th scope='col' class='n'>value</th>"
        f"<th scope='col'>label</th>{heads}</tr></thead><tbody>{rows}</tbody></table></section>"
    )
    means = {
        "mean of what is predicted": facts["shapley_mean"],
        "mean of its size": facts["shapley_mean_absolute"],
        f"{facts['metric']}, over the best constant answer": facts["shapley_of_metric"],
    }
    rows = "".join(
        f"<tr><th scope='row'>{_(name)}</th>"
        + "".join(f"<td class='n'>{v:+.3f}</td>" for v in values.values())
        + "</tr>"
        for name, values in means.items()
    )
    body += (
        f"<section><h2>All {facts['utterances']} utterances</h2><table><thead><tr><td></td>{heads}"
        f"</tr></thead><tbody>{rows}</tbody></table></section>"
    )
    return _document(f"{facts['run']}, {facts['split']}", body)


def _document(title: str, body: str) -> str:
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_(title)}</title><style>{CSS}</style></head><body><main>{body}</main></body>"
        "</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_(title)}</h2>{content}</section>"


def _context(weights: Mapping[int, float]) -> str:
    """How attention divides among the neighbours."""
    if not weights:
        return "<p>There are none: it is the first of its group, or alone.</p>"
    rows = "".join(
        f"<tr><th scope='row'>{abs(n)} {'before' if n < 0 else 'after'}</th>"
        f"<td class='n'>{weight:.3f}</td></tr>"
        for n, weight in weights.items()
    )
    return (
        "<p class='soft'>Attention of its joint vector, mean of heads. The gradients above are of "
        "its own frames, with these as they are; of the modalities, all utterances lose one.</p>"
        f"<table><thead><tr><td></td><th scope='col' class='n'>weight</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _title(m: str) -> str:
    return {"text": "Text", "audio": "Audio", "vision": "Vision"}[m]


def _values(one: Any) -> str:
    """Bars of all answers; of regressions around 0."""
    low = min(0.0, *one.values.values()) if one.regression else 0.0
    high = max(1e-9, *one.values.values()) if one.regression else 1.0
    scale = (WIDTH - 260) / (high - low)
    shapes = []
    for i, (name, value) in enumerate(one.values.items()):
        y = 26 * i
        start = 150 + (min(value, 0) - low) * scale
        weight = " font-weight='700'" if name == one.answer else ""
        fill = "var(--bar)" if name == one.answer else "#a9b4cc"
        amount = f"{value:+.3f}" if one.regression else f"{value:.1%}"
        shapes.append(
            f"<text x='140' y='{y + 17}' text-anchor='end'{weight}>{_(name)}</text>"
            f"<rect x='{start:.1f}' y='{y + 4}' width='{abs(value) * scale:.1f}' height='18' "
            f"rx='3' fill='{fill}'/><text x='{start + abs(value) * scale + 8:.1f}' "
            f"y='{y + 17}'{weight}>{amount}</text>"
        )
    read = "; ".join(f"{name} {value:.3f}" for name, value in one.values.items())
    return _figure("".join(shapes), 26 * len(one.values) + 4, "", read)


def _shapley(one: Any) -> str:
    """A waterfall from what one knows without seeing anything to what the run says."""
    steps, at = [("seeing nothing", 0.0, one.base)], one.base
    for m, value in one.shapley.items():
        steps.append((m, at, at + value))
        at += value
    steps.append((f"{one.answer}", 0.0, at))
    low = min(0.0, *(min(a, b) for _, a, b in steps))
    high = max(1e-9, *(max(a, b) for _, a, b in steps))
    place = lambda v: 150 + (v - low) * (WIDTH - 260) / (high - low)  # noqa: E731
    shapes = [
        f"<line x1='{place(0):.1f}' y1='0' x2='{place(0):.1f}' y2='{26 * len(steps)}' "
        "stroke='var(--soft)'/>"
    ]
    for i, (name, start, stop) in enumerate(steps):
        total = i in (0, len(steps) - 1)
        fill = "var(--bar)" if total else ("var(--for)" if stop >= start else "var(--against)")
        left, right, y = place(min(start, stop)), place(max(start, stop)), 26 * i
        amount = f"{stop:.3f}" if total else f"{stop - start:+.3f}"
        shapes.append(
            f"<text x='140' y='{y + 17}' text-anchor='end'>{_(name)}</text>"
            f"<rect x='{left:.1f}' y='{y + 4}' width='{max(right - left, 1):.1f}' height='18' "
            f"rx='3' fill='{fill}'/><text x='{right + 8:.1f}' y='{y + 17}'>{amount}</text>"
        )
    what = "score" if one.regression else "probability"
    caption = (
        f"From the {what} of “{_(one.answer)}” without seeing anything to the one that is "
        "predicted: Shapley values, over all subsets of the modalities."
    )
    read = "; ".join(f"{m} {v:+.3f}" for m, v in one.shapley.items())
    return _figure("".join(shapes), 26 * len(steps) + 4, caption, read)


def _modality(one: Any, m: str, pairs: Mapping[str, np.ndarray]) -> str:
    gradient = one.found.gradient.get(m)
    count = len(gradient) if gradient is not None else len(next(iter(pairs.values())))
    tokens = one.tokens if m == "text" else None
    seconds = one.seconds[m]
    parts = []
    for pair, weights in pairs.items():
        caption = (
            f"Where {_(pair.split('<-')[0])} looks: attention, dark is much; the most, "
            f"{weights.max():.3f}, on one frame; spread evenly it were {1 / count:.3f}."
        )
        if tokens:
            parts.append(f"<p class='soft'>{caption}</p>{_tokens(tokens, weights)}")
        else:
            parts.append(_strip(weights, seconds, caption))
    for name, values in (
        ("integrated gradients, from average frames to these", one.found.integrated.get(m)),
        ("gradient times input, near these frames only", gradient),
    ):
        if values is None:
            continue
        signs = ("underlined", "dashed") if tokens else ("up", "down")
        verbs = ("raises", "lowers it") if one.regression else ("speaks for", "against it")
        caption = (
            f"What {verbs[0]} {_(one.answer)} ({signs[0]}, teal) and {verbs[1]} "
            f"({signs[1]}, rust): {name}."
        )
        if tokens:
            parts.append(f"<p class='soft'>{caption}</p>{_signed_tokens(tokens, values)}")
        else:
            parts.append(_bars(values, seconds, caption))
    if gradient is None:
        parts.append("<p class='soft'>No gradients: this run reads token ids.</p>")
    if not tokens and m == "text":
        parts.append(
            "<p class='soft'>Frames are numbered: the dataset does not say which words they are "
            "of.</p>"
        )
    parts.append(_numbers(m, count, seconds, tokens, pairs, one.found.integrated.get(m), gradient))
    return "".join(parts)


def _tokens(tokens: Sequence[str], weights: np.ndarray) -> str:
    top = max(float(weights.max()), 1e-12)
    items = []
    for token, weight in zip(tokens, weights, strict=True):
        alpha = 0.55 * float(weight) / top
        items.append(
            _token(token, "", f"background: rgb(91 58 158 / {alpha:.3f})", f"{weight:.3f}")
        )
    return f"<ul class='tokens'>{''.join(items)}</ul>"


def _signed_tokens(tokens: Sequence[str], gradient: np.ndarray) -> str:
    top = max(float(np.abs(gradient).max()), 1e-12)
    items = []
    for token, value in zip(tokens, gradient, strict=True):
        alpha = 0.5 * abs(float(value)) / top
        colour = "11 110 105" if value >= 0 else "181 66 10"
        kind = "" if abs(value) < 0.05 * top else ("up" if value > 0 else "down")
        items.append(
            _token(token, kind, f"background: rgb({colour} / {alpha:.3f})", f"{value:+.3f}")
        )
    return f"<ul class='tokens'>{''.join(items)}</ul>"


def _token(token: str, kind: str, style: str, title: str) -> str:
    joined = token.startswith("##") and len(token) > 2
    kind = f"{kind} on".strip() if joined else kind
    shown = token[2:] if joined else token
    return f"<li class='{kind}' style='{style}' title='{title}'>{_(shown)}</li>"


def _strip(weights: np.ndarray, seconds: float | None, caption: str) -> str:
    """One row of cells, darker where there is more."""
    top, width = max(float(weights.max()), 1e-12), WIDTH / len(weights)
    shapes = [f"<rect width='{WIDTH}' height='26' fill='var(--back)' stroke='var(--line)'/>"]
    shapes += [
        f"<rect x='{i * width:.2f}' width='{width:.2f}' height='26' fill='var(--attention)' "
        f"fill-opacity='{float(w) / top:.3f}'/>"
        for i, w in enumerate(weights)
        if w > 0.004 * top
    ]
    first = int(weights.argmax())
    read = f"most, {weights[first]:.3f}, at {_where(first, seconds)}, of {len(weights)} frames"
    return _figure("".join(shapes) + _axis(len(weights), seconds, 26), 48, caption, read)


def _bars(values: np.ndarray, seconds: float | None, caption: str) -> str:
    """Bars up for more than 0, down for less."""
    top, width = max(float(np.abs(values).max()), 1e-12), WIDTH / len(values)
    shapes = []
    for i, value in enumerate(values):
        size = 40 * abs(float(value)) / top
        fill = "var(--for)" if value >= 0 else "var(--against)"
        y = 42 - size if value >= 0 else 42
        shapes.append(
            f"<rect x='{i * width + 0.06 * width:.2f}' y='{y:.2f}' width='{0.88 * width:.2f}' "
            f"height='{size:.2f}' fill='{fill}'/>"
        )
    shapes.append(f"<line x1='0' y1='42' x2='{WIDTH}' y2='42' stroke='var(--soft)'/>")
    best, worst = int(values.argmax()), int(values.argmin())
    read = (
        f"highest, {values[best]:+.3f}, at {_where(best, seconds)}; lowest, "
        f"{values[worst]:+.3f}, at {_where(worst, seconds)}, of {len(values)} frames"
    )
    return _figure("".join(shapes) + _axis(len(values), seconds, 84), 106, caption, read)


def _axis(count: int, seconds: float | None, y: float) -> str:
    """Six ticks, in seconds where frames follow a clock."""
    shapes = []
    for k in range(6):
        share = k / 5
        text = f"{share * count * seconds:.1f} s" if seconds else f"{round(share * count)}"
        anchor = "start" if k == 0 else ("end" if k == 5 else "middle")
        x = share * WIDTH
        shapes.append(
            f"<text class='soft' x='{x:.0f}' y='{y + 15}' text-anchor='{anchor}'>{text}</text>"
        )
    return "".join(shapes)


def _where(i: int, seconds: float | None) -> str:
    return f"{i * seconds:.2f} s" if seconds else f"frame {i + 1}"


def _figure(shapes: str, height: float, caption: str, read: str) -> str:
    captioned = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f"<figure>{captioned}<svg viewBox='0 0 {WIDTH} {height:g}' role='img' "
        f"aria-label='{_(read)}'>{shapes}</svg></figure>"
    )


def _numbers(m, count, seconds, tokens, pairs, integrated, gradient) -> str:
    """All numbers of a modality, in a table that opens."""
    heads = ["frame", *(["from, s"] if seconds else []), *(["token"] if tokens else [])]
    columns = [(f"attention of {p.split('<-')[0]}", w, ".4f") for p, w in pairs.items()]
    if gradient is not None:
        columns.append(("integrated gradients", integrated, "+.4f"))
        columns.append(("gradient × input", gradient, "+.4f"))
    top = "".join(f"<th scope='col'>{_(h)}</th>" for h in heads)
    top += "".join(f"<th scope='col' class='n'>{_(name)}</th>" for name, _w, _f in columns)
    rows = []
    for i in range(count):
        cells = f"<th scope='row'>{i + 1}</th>"
        cells += f"<td>{i * seconds:.2f}</td>" if seconds else ""
        cells += f"<td>{_(tokens[i])}</td>" if tokens else ""
        cells += "".join(f"<td class='n'>{values[i]:{form}}</td>" for _n, values, form in columns)
        rows.append(f"<tr>{cells}</tr>")
    return (
        f"<details><summary>All numbers of {_(m)}</summary><div tabindex='0' role='region' "
        f"aria-label='numbers of {_(m)}'><table><thead><tr>{top}</tr></thead><tbody>"
        f"{''.join(rows)}</tbody></table></div></details>"
    )


def _(text: str) -> str:
    return html.escape(text, quote=True)
