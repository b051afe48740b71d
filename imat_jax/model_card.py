"""A model card in Markdown, from the files of a run: what was measured, and what was not.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from imat_jax.data.corpus import DataError
from imat_jax.reporting import evidence
from imat_jax.reporting import runs as reported

INTENDED = """\
Research on multimodal emotion recognition, and demonstrations in which people look at what a model
says of themselves, knowingly and by their own choice. Its outputs are guesses at how annotators
would label an expression in recordings like those of the training data. They are not what a person
feels, and nothing about a person should be decided by them: not hiring, grading, credit, insurance,
policing, border control or diagnosis."""

LIMITS = """\
- Labels are what annotators or actors made of expressions; expressions differ between persons,
  cultures and situations, and acted ones from lived ones.
- It knows no "none of these": of several classes one always gets the largest probability, of a
  silent room too.
- Features are made by other networks (table above), whose errors and biases it inherits.
- Other microphones, cameras, lighting, languages, ages and noise than in the training data can make
  it wrong without making it unsure: calibration and coverage hold for data like that they were
  fitted on."""

UNMEASURED = """\
**Not measured**: differences between groups of people (gender, age, skin, accent, language,
disability); other corpora than the one above; recordings made in use; change over time; attempts to
deceive it."""

ETHICS = """\
- **Consent.** Process recordings of people only with their informed and freely given consent, for a
  stated purpose, and let them withdraw it. Voices and faces identify people; where the law on
  personal data applies, such as the GDPR, it applies to recordings, features and outputs.
- **Bias.** Systems that read emotions have been found to err more for some groups than for others.
  Measure it for the people that you mean to use it on before you do; here it was not measured.
- **European Union.** Regulation (EU) 2024/1689 (AI Act) calls a system that infers emotions from
  biometric data, such as voice or face, an emotion recognition system (Article 3(39)). Article
  5(1)(f) prohibits inferring emotions of people in the workplace and in education, except for
  medical or safety reasons. Other such systems are high-risk (Annex III, point 1(c)), with the
  duties that follow, and those who use one must tell the people exposed to it (Article 50(3)).
  Recital 44 names the reason: the scientific basis is doubtful; expressions vary across cultures,
  situations and even in one person, so that such systems lack reliability, are not specific
  and do not generalise well, and may discriminate. This is a summary, and no legal advice.
- **Transparency.** Show people that a machine reads them, what it reads, and how unsure it is."""


def write(workdir: pathlib.Path, metadata: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The card of the run in `workdir`.

    Args:
      metadata: its dataset.json.
      manifest: of the artefact; `calibration` is described as it is there.

    Raises:
      DataError: a file of the run cannot be read.
    """
    results, config = _read(workdir / "results.json") or {}, _read(workdir / "config.json")
    parts = {
        "": _intro(metadata, manifest, results, config),
        "Data": _data(metadata, manifest),
        "Protocol": _protocol(metadata, results),
        "Results": _results(workdir, metadata, results, config),
        "Calibration": _calibration(workdir, manifest),
        "Robustness": _robustness(workdir),
        "Intended use": [INTENDED],
        "Limits": [LIMITS, UNMEASURED],
        "Ethics and law": [ETHICS],
    }
    title = f"# Model card: {config['model']['name']} on {metadata['protocol']}"
    bodies = (f"## {name}\n\n" * bool(name) + "\n\n".join(body) for name, body in parts.items())
    return "\n\n".join([title, *bodies]) + "\n"


def _intro(metadata, manifest, results, config) -> list[str]:
    environment = manifest["run"]["environment"]
    packages = environment.get("packages", {})
    code = f"{environment.get('git_commit', 'unknown')[:12]}"
    code += " with changes that are not committed" * bool(environment.get("git_dirty"))
    selected = results.get("selected", {})
    chosen = "not recorded"
    if selected:
        chosen = (
            f"step {selected['step']}, by `{selected['metric']}` on validation "
            f"({_number(selected['valid'])})"
        )
    rows = [
        ("Model", f"`{config['model']['name']}`, imat_jax"),
        ("Reads", ", ".join(manifest["modalities"])),
        ("Predicts", f"{metadata['task']}: {', '.join(manifest['values'])}"),
        ("Parameters", f"{results['parameters']:,}" if "parameters" in results else "not recorded"),
        ("Checkpoint", chosen),
        ("Seed", config["seed"]),
        ("Code", code),
        ("Trained with", ", ".join(f"{p} {packages[p]}" for p in ("jax", "flax") if p in packages)),
    ]
    return [_table(("", ""), rows)]


def _data(metadata, manifest) -> list[str]:
    modalities = manifest["modalities"]
    splits = []
    for name, split in metadata.get("splits", {}).items():
        classes = ", ".join(f"{k} {v}" for k, v in split.get("classes", {}).items())
        missing = ", ".join(f"{m} {split[m]['missing']}" for m in modalities if m in split)
        splits.append((name, split["examples"], classes or "–", missing))
    features = [
        (m, f["extractor"], f["checkpoint"], f["layer"], f["dim"], f["rate_hz"] or "–")
        for m, f in modalities.items()
    ]
    warnings = [f"- {text}" for text in metadata.get("warnings", ())]
    sources = ", ".join(f"`{pathlib.PurePath(s).name}`" for s in metadata.get("sources", {}))
    return [
        f"Protocol `{metadata['protocol']}`" + f", from {sources}." * bool(sources),
        _table(("split", "examples", "labels", "missing"), splits),
        _table(("modality", "extractor", "weights", "layer", "features", "Hz"), features),
        *(["What building the dataset warned of:", "\n".join(warnings)] if warnings else ()),
    ]


def _protocol(metadata, results) -> list[str]:
    scored = [split for split in ("valid", "test") if split in results]
    said = [
        "Trained on the training split, with the checkpoint selected on validation; scored on "
        f"{' and '.join(scored) or 'nothing'}. Metrics are defined in docs/metrics.md of imat_jax."
    ]
    if "test" not in results:
        said.append("**It was not scored on a test split**: numbers on validation flatter.")
    return said


def _results(workdir, metadata, results, config) -> list[str]:
    parts = []
    run = reported.Run(workdir, config, metadata, results)
    for split in ("test", "valid"):
        if split not in results:
            continue
        [table] = reported.tables([run], split)
        found = evidence.weigh(table)
        [cells] = found.cells.values()
        constant = results.get("trivial", {}).get(split, {})
        rows = [
            (f"`{key}`", _number(cell.mean), _interval(cell.low, cell.high),
             _number(constant.get(key)))
            for key, cell in cells.items()
        ]  # fmt: skip
        parts.append(f"On {split}, {results[split]['examples']} examples:")
        parts.append(_table(("metric", "value", "95 % interval", "best constant answer"), rows))
        if split in results.get("ceiling", {}):
            parts.append(f"The best possible accuracy is {_number(results['ceiling'][split])}.")
        named = [f"`{k}` {_number(v)}" for k, v in results[split].items() if "/" in k]
        parts += [f"Of each: {', '.join(named)}."] if named else []
        parts += [f"- Warning: {warning}" for warning in found.warnings]
    if not parts:
        return ["Not measured: the run has no results."]
    return [
        *parts,
        "Intervals are of other examples of the same kind (BCa bootstrap, 2000 samples), for this "
        "one trained network; how much another seed would differ is not in them.",
    ]


def _calibration(workdir, manifest) -> list[str]:
    fitted = manifest["calibration"]
    if not fitted:
        return ["None: there were no predictions on validation. Probabilities are as they come."]
    said = [_fitted(fitted, manifest["values"])]
    measured = _read(workdir / "calibration.json")
    if not measured:
        return [*said, "Not verified on another split (`imat calibrate` does that)."]
    rows = []
    for name, one in measured["questions"].items():
        eces = [_number(one[w]["ece_width"]) if w in one else "–" for w in ("before", "after")]
        for c in one["conformal"]:
            expected = f"{_number(c['expected_low'])} to {_number(c['expected_high'])}"
            rows.append((name, *eces, f"{c['coverage']:.0%}", _number(c["reached"]), expected))
    head = ("", "ECE", "ECE with temperature", "coverage asked", "reached", "expected")
    return [*said, f"Verified on {measured['split']}:", _table(head, rows)]


def _fitted(fitted, values: Sequence[str]) -> str:
    count, coverage = fitted["examples"], f"{fitted['coverage']:.0%}"

    def each(value) -> str:
        several = value if isinstance(value, list) else [value]
        said = ["too few examples" if v is None else _number(v) for v in several]
        if len(several) == 1:
            return said[0]
        return ", ".join(f"{n} {s}" for n, s in zip(values, said, strict=True))

    if "radius" in fitted:
        return (
            f"Intervals of ± ({each(fitted['radius'])}) are to hold {coverage} of labels like "
            f"those of the {count} validation examples that they are of."
        )
    return (
        f"Probabilities are of logits over a temperature ({each(fitted['temperature'])}) fitted on "
        f"{count} validation examples; conformal sets ({fitted['score']}, of the probabilities "
        f"before it, threshold {each(fitted['threshold'])}) are to hold {coverage} of labels like "
        "theirs. The same examples selected the checkpoint, which makes both a little too good."
    )


def _robustness(workdir) -> list[str]:
    found = _read(workdir / "robustness" / "robustness.json")
    if not found:
        return ["Not measured (`imat robustness` does that)."]
    own = [r for row in found["runs"].values() for r in row
           if len(found["runs"]) == len(row) == 1
           or pathlib.Path(r["workdir"]).resolve() == workdir.resolve()]  # fmt: skip
    if not own:
        return ["Not measured for this run."]
    metric, [run, *_] = found["facts"]["metric"], own
    subsets = [(name, _number(scores[metric])) for name, scores in run["subsets"].items()]
    parts = [
        f"`{metric}` on {found['facts']['split']} with some of the modalities:",
        _table(("modalities", metric), subsets),
    ]
    for kind, curve in run["curves"].items():
        levels = [f"{level:g}" for level in curve["levels"]]
        scores = [_number(score[metric]) for score in curve["scores"]]
        parts.append(f"`{metric}` under `{kind}` (docs/robustness.md of imat_jax), by level:")
        parts.append(_table(levels, [scores]))
    return parts


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cell = lambda x: str(x).replace("|", "\\|").replace("\n", " ")  # noqa: E731
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def _interval(low: float, high: float) -> str:
    return "not measured" if math.isnan(low) else f"{_number(low)} to {_number(high)}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _read(path: pathlib.Path) -> Any:
    """None where there is no such file."""
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}; make it again") from error
