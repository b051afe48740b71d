"""What a prediction rests on: imat explain --workdir=RUN [--split=test] [--ids=A,B]

One self-contained HTML page and one PNG for each chosen utterance: what the run says, how much of
it each modality brings (Shapley values over all subsets), where attention goes and which frames
speak for and against it (integrated gradients, gradient times input). Writes index.html and
explain.json too. See docs/explanations.md for what the numbers mean, and how far to trust them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from imat_jax import metrics, rundir, tasks
from imat_jax.analysis import (
    attribution,
    corruptions,
    explain_page,
    explain_plots,
    robustness,
    runs,
    targets,
    words,
)
from imat_jax.analysis.shapley import shapley
from imat_jax.cli import UsageError, run
from imat_jax.data.corpus import subsets
from imat_jax.experiment import Experiment


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Run directory.", required=True)
    flags.DEFINE_string("split", "test", "Split of the utterances.")
    flags.DEFINE_list("ids", [], "Utterances; default: the first --count.")
    flags.DEFINE_integer("count", 5, "How many, where --ids names none.", 1)
    flags.DEFINE_string("output", None, "Where pages go; default: RUN/explained.")


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Of one utterance, for a reader.

    Attributes:
      values: {answer: probability or score}; `label` what the corpus says, as text.
      answer: which of them is explained.
      base: what it is for someone who sees nothing: the share, or median, in training.
      shapley: {modality: share of values[answer] - base}.
      seconds: {modality: of one frame, or None where frames follow no clock}.
      tokens: a string for each frame of text that was read, where they are known.
      found: its `attribution.Attribution`.
      regression: whether `values` are scores.
    """

    id: str
    split: str
    run: str
    transcript: str
    label: str
    values: Mapping[str, float]
    answer: str
    base: float
    shapley: Mapping[str, float]
    seconds: Mapping[str, float | None]
    tokens: Sequence[str] | None
    found: attribution.Attribution
    regression: bool


def modality_values(
    experiment: Experiment, params: Any, split: str
) -> tuple[np.ndarray, dict[str, float]]:
    """Shapley values of the modalities, over all of their subsets.

    Returns:
      [M, N] of each utterance's predicted answer: they add up to its probability (or score) less
      that of the best answer that sees nothing; and {modality: of the headline metric}, which add
      up to the metric less that of the best constant answer.
    """
    task, here = experiment.task, tuple(experiment.dims)
    index, train = experiment.dataset.index(split), experiment.dataset.index("train")["label"]
    sets = subsets(here)
    conditions = [corruptions.condition(here, keep=s) for s in sets]
    outputs, left = robustness.outputs(experiment, params, split, conditions)
    rows = np.arange(len(index["label"]))
    answer = np.asarray(targets.chosen(task, outputs[-1]))
    nothing = targets.constant(task, train)[answer]
    value: dict[tuple[str, ...], np.ndarray] = {(): nothing}
    trivial = tasks.trivial_outputs(task, train, len(rows))
    with warnings.catch_warnings():  # a constant has no correlation, and that is no news
        warnings.simplefilter("ignore", metrics.UndefinedMetricWarning)
        score = {(): task.score(index["label"], trivial)[task.headline]}
        for s, one, frames in zip(sets, outputs, left, strict=True):
            # An utterance that has none of these modalities is one of which nothing is seen.
            seen = frames.any(axis=1)
            value[s] = np.where(seen, targets.values(task, one)[rows, answer], nothing)
            score[s] = task.score(index["label"], one)[task.headline]
    of_metric = dict(zip(here, map(float, shapley(here, score)), strict=True))
    return shapley(here, value), of_metric


def explain(
    experiment: Experiment, params: Any, split: str, rows: Sequence[int], name: str
) -> tuple[list[Explanation], dict[str, Any]]:
    """Explanations of the utterances `rows` of a split, and facts about all of it.

    Args:
      name: of the run, for a reader.
    """
    task, dataset, here = experiment.task, experiment.dataset, tuple(experiment.dims)
    index = dataset.index(split)
    attributions = attribution.attribute(experiment, params, split, rows)
    of_each, of_metric = modality_values(experiment, params, split)
    constant = targets.constant(task, dataset.index("train")["label"])
    rates = {m: dataset.metadata["modalities"][m].get("rate_hz") for m in here}
    if "extraction" in dataset.metadata["facts"]:
        # Extraction has no frame where there is no face, and the records do not say when that was.
        rates["vision"] = None
    transcripts, tokens = dataset.transcripts(split), words.tokens_of(experiment)
    explained = []
    for found in attributions:
        i, answers = found.row, targets.names(task)
        values = targets.values(task, found.outputs[None])[0]
        strings = None
        if "text" in here:
            strings = tokens(transcripts[i], int(index["text_length"][i]))
            read = experiment.split(split).lengths[i][here.index("text")]
            strings = strings and strings[:read]
        explained.append(
            Explanation(
                id=str(index["id"][i]),
                split=split,
                run=name,
                transcript=transcripts[i],
                label=said(task, index["label"][i]),
                values=dict(zip(answers, map(float, values), strict=True)),
                answer=answers[found.answer],
                base=float(constant[found.answer]),
                shapley=dict(zip(here, map(float, of_each[:, i]), strict=True)),
                seconds={m: 1 / rate if rate else None for m, rate in rates.items()},
                tokens=strings,
                found=found,
                regression=task.name in targets.REGRESSIONS,
            )
        )
    facts = {
        "run": name,
        "split": split,
        "utterances": len(index["label"]),
        "metric": task.headline,
        "shapley_of_metric": of_metric,
        "shapley_mean": dict(zip(here, map(float, of_each.mean(axis=1)), strict=True)),
        "shapley_mean_absolute": dict(
            zip(here, map(float, np.abs(of_each).mean(axis=1)), strict=True)
        ),
    }
    return explained, facts


def said(task: tasks.Task, label: np.ndarray) -> str:
    """A label as text."""
    if task.name == "multiclass":
        return task.class_names[int(label)]
    if task.name == "sentiment":
        return f"{float(label):.2f}"
    if task.name == "dimensions":
        pairs = zip(task.class_names, np.ravel(label), strict=True)
        return ", ".join(f"{name} {value:.2f}" for name, value in pairs)
    present = [n for n, y in zip(task.class_names, np.ravel(label), strict=True) if y > 0]
    return ", ".join(present) or "none"


def write(
    explained: Sequence[Explanation], facts: Mapping[str, Any], output: pathlib.Path
) -> list[str]:
    """Pages, pictures, index.html and explain.json; returns the pages' names."""
    output.mkdir(parents=True, exist_ok=True)
    names = file_names([one.id for one in explained])
    with rundir.room(output):
        for one, name in zip(explained, names, strict=True):
            rundir.write_text(output / f"{name}.html", explain_page.page(one))
            explain_plots.draw(one, output / f"{name}.png")
        rundir.write_text(output / "index.html", explain_page.index(explained, names, facts))
        entries = [_plain(one) for one in explained]
        rundir.write_json(output / "explain.json", dict(facts) | {"explained": entries})
    return names


def file_names(ids: Sequence[str]) -> list[str]:
    """A name for the files of each utterance; two ids never share one, nor is one "index"."""
    names: list[str] = []
    for one in ids:
        stem = re.sub(r"[^\w.-]", "_", one).lstrip(".") or "_"
        tried = (stem, *(f"{stem}-{k}" for k in range(2, len(ids) + 3)))
        taken = {"index", *(name.lower() for name in names)}
        names.append(next(name for name in tried if name.lower() not in taken))
    return names


def _plain(one: Explanation) -> dict[str, Any]:
    found = one.found
    return {k: v for k, v in vars(one).items() if k not in ("found", "run", "split")} | {
        "outputs": found.outputs.tolist(),
        "attention": {k: v.tolist() for k, v in found.attention.items()},
        "context": found.context,
        "gradient": {k: v.tolist() for k, v in found.gradient.items()},
        "integrated": {k: v.tolist() for k, v in found.integrated.items()},
    }


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    workdir = pathlib.Path(f.workdir)
    experiment, params = runs.open_run(workdir)
    ids = experiment.dataset.index(f.split)["id"].astype(str).tolist()
    unknown = [i for i in f.ids if i not in ids]
    if unknown:
        raise UsageError(
            f"--ids={','.join(unknown)}: {f.split} of {experiment.config.dataset} has no such id; "
            f"it has {', '.join(ids[:3])}, …"
        )
    rows = [ids.index(i) for i in f.ids] or list(range(min(f.count, len(ids))))
    explained, facts = explain(experiment, params, f.split, rows, workdir.name)
    output = pathlib.Path(f.output) if f.output else workdir / "explained"
    names = write(explained, facts, output)
    for one in explained:
        parts = "  ".join(f"{m} {v:+.3f}" for m, v in one.shapley.items())
        print(f"{one.id}: {one.answer} {one.values[one.answer]:.3f} (label {one.label})  {parts}")
    for key, what in (
        ("shapley_of_metric", f"{facts['metric']} of all {facts['utterances']} over a constant"),
        ("shapley_mean", "mean of what is predicted"),
    ):
        print(f"{what}: " + "  ".join(f"{m} {v:+.3f}" for m, v in facts[key].items()))
    print(f"{output}/index.html, {len(names)} pages and pictures, explain.json")


if __name__ == "__main__":
    run(main, define_flags)
