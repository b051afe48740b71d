"""Emotions of media files: python -m imat_jax.predict --workdir=RUN FILE… [--json]

Features are made as the run's data set was made, with the same encoders and weights. Prints what
the run predicts for each file and for windows over time; writes a picture of each and a JSON file.
A transcript (.srt, .vtt, .csv, .txt) beside a file is read. See docs/your-own-video.md.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from imat_jax import config as configs
from imat_jax import encoders, rundir, sharding, spans, strip, tasks, windows
from imat_jax import experiment as experiments
from imat_jax.checkpoint import Checkpoints
from imat_jax.cli import UsageError, run
from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders import media, transcripts
from imat_jax.encoders.clips import Clip
from imat_jax.encoders.extractor import Extractor, Features, reopen
from imat_jax.encoders.faces import Face
from imat_jax.encoders.transcripts import Transcript
from imat_jax.tasks import Task


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Run directory; or the first argument.")
    flags.DEFINE_string("output", None, "Where pictures and JSON go; default: RUN/predicted.")
    flags.DEFINE_bool("json", False, "Print JSON and nothing else.")
    flags.DEFINE_bool("strip", True, "Draw the picture of each file.")
    flags.DEFINE_float("window", 3.0, "Seconds of a window.", 0.1)
    flags.DEFINE_float("hop", 1.0, "Seconds from one window to the next.", 0.1)
    flags.DEFINE_list("encoders", [], "MODALITY=NAME:PATH,…: where the run's weights are now.")
    flags.DEFINE_string("transcript", None, "What is said, where it is one file.")
    flags.DEFINE_string("asr", None, "Directory of a speech recogniser; default: as the run.")


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    files = argv[1:]
    if not f.workdir and files and (pathlib.Path(files[0]) / "config.json").is_file():
        f.workdir = files.pop(0)
    if not f.workdir or not files:
        raise UsageError("which run, and which files? --workdir=RUN FILE…")
    if f.transcript is not None and len(files) > 1:
        raise UsageError("--transcript is that of one file; put FILE.txt or .srt beside each")
    absent = [file for file in files if not pathlib.Path(file).is_file()]
    if absent:
        raise UsageError(f"{', '.join(absent)}: no such file")
    workdir = pathlib.Path(f.workdir)
    extractor, read, task = open_run(workdir, f.encoders, f.asr)
    output = pathlib.Path(f.output) if f.output else workdir / "predicted"
    results, failed = [], 0
    for file in files:
        try:
            clip = Clip(pathlib.Path(file).stem, file, transcript=f.transcript)
            result = predict(clip, extractor, read, task, window=f.window, hop=f.hop)
        except DataError as error:
            if len(files) == 1:
                raise
            results.append({"file": file, "error": str(error)})
            failed += 1
            continue
        output.mkdir(parents=True, exist_ok=True)
        stem = _free_name(output, pathlib.Path(file).stem, [r.get("json", "") for r in results])
        if f.strip:
            result.report["strip"] = str(output / f"{stem}.png")
            strip.draw(result, task, output / f"{stem}.png")
        result.report["json"] = str(output / f"{stem}.json")
        rundir.write_json(output / f"{stem}.json", result.report)
        results.append(result.report)
    print(json.dumps(results, indent=1) if f.json else "\n\n".join(map(_table, results)))
    if failed:
        raise UsageError(f"{failed} of {len(files)} files could not be read")


def _free_name(output: pathlib.Path, stem: str, taken: list[str]) -> str:
    """Two files of one name from two folders do not overwrite each other's results."""
    names = (stem, *(f"{stem}-{k}" for k in range(2, len(taken) + 3)))
    return next(n for n in names if str(output / f"{n}.json") not in taken)


def open_run(
    workdir: pathlib.Path, moved: list[str], asr: str | None
) -> tuple[Extractor, Callable, Task]:
    """The run's extractor, its network as a reader of features, its task.

    Args:
      moved: `MODALITY=NAME:PATH` of weights that are elsewhere now.
      asr: directory of a speech recogniser; None: the one that made the dataset.

    Raises:
      UsageError, DataError: no run, no checkpoint, features that were made elsewhere, or other
        weights.
    """
    config = configs.load(workdir)
    metadata = json.loads((workdir / "dataset.json").read_text())
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    if config.tune.text and config.tune.text_encoder:
        moved = [f"text={config.tune.text_encoder}", *moved]
    if config.tune.text and moved:
        config.tune.text_encoder = encoders.parse(moved).get("text", "")
    net = experiments.network(config, metadata, mesh)
    made = {m: Modality(**metadata["modalities"][m]) for m in net.dims}
    if "extraction" not in metadata["facts"]:
        said = ", ".join(f"{m} by {info.extractor}" for m, info in made.items())
        raise UsageError(
            f"{workdir} was trained on features that were not made by `imat extract` ({said}), so "
            "they cannot be made for a new file; extract a dataset from media and train on that"
        )
    extractor = reopen(metadata["facts"]["extraction"], made, moved, asr)
    if net.text:  # the run has a network of its own for what these are the tokens of
        tokens = net.text.tokenizer()
        extractor.encoders["text"] = dataclasses.replace(
            extractor.encoders["text"], encode=lambda texts: [tokens(text) for text in texts]
        )
    checkpoints = Checkpoints(workdir)
    if checkpoints.best_step is None:
        raise UsageError(f"{workdir} has no checkpoint yet; train it first")
    params = checkpoints.restore_best(net.abstract)
    checkpoints.close()
    return extractor, windows.make_reader(net, params, metadata["dtype"]), net.task


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Of one file: the report that is printed, and what its picture shows besides.

    Attributes:
      whole: of all of the file.
      edges: {modality: [T + 1]} seconds between which each frame that was read lies; words have no
        times and are spread evenly.
      faces: at the times of `strip.times`, where there are pictures.
    """

    report: dict[str, Any]
    whole: windows.Reading
    edges: dict[str, np.ndarray]
    faces: list[Face]


def predict(
    clip: Clip, extractor: Extractor, read: Callable, task: Task, *, window: float, hop: float
) -> Prediction:
    """What the run says of a whole file and of its windows, in seconds.

    Args:
      extractor, read, task: of `open_run`.

    Raises:
      DataError: the file cannot be read, or holds nothing to predict from.
    """
    duration = media.probe(clip.file).duration
    times = strip.times(duration)
    seen: dict[int, Face] = {}

    def keep(face: Face) -> None:
        k = int(np.abs(times - face.time).argmin())
        if k not in seen or abs(times[k] - face.time) < abs(times[k] - seen[k].time):
            seen[k] = face

    [features] = extractor([clip], on_face=keep)
    if isinstance(features, DataError):
        raise features
    [whole] = read([features.frames])
    stretches = spans.cover(duration, window, hop)
    script = _script(clip)
    parts = [_part(script, extractor, features, *span) for span in stretches]
    there = [i for i, part in enumerate(parts) if any(map(len, part.values()))]
    readings = dict(zip(there, read([parts[i] for i in there]), strict=True)) if there else {}
    report = {
        "file": clip.file,
        "seconds": round(duration, 3),
        "prediction": tasks.describe(task, whole.outputs),
        "missing": [m for m, frames in features.frames.items() if not len(frames)],
        "frames": {m: len(frames) for m, frames in features.frames.items()},
        "frames_read": dict(whole.frames),
        "pictures": features.pictures,
        "pictures_with_a_face": len(features.times),
        "transcript": features.words,
        "windows": [
            {"start": a, "end": b, "prediction": tasks.describe(task, readings[i].outputs)}
            for i, (a, b) in enumerate(stretches)
            if i in readings
        ],
    }
    edges = _edges(extractor, features, whole, duration)
    return Prediction(report, whole, edges, list(seen.values()))


def _edges(
    extractor: Extractor, features: Features, whole: windows.Reading, duration: float
) -> dict[str, np.ndarray]:
    edges = {}
    for m, count in whole.frames.items():
        if m == "audio":
            edges[m] = np.arange(count + 1) / extractor.modalities[m].rate_hz
        elif m == "vision":
            last = features.times[:count][-1:] + 1 / extractor.recipe.fps
            edges[m] = np.append(features.times[:count], last)
        else:
            edges[m] = np.arange(count + 1) * duration / max(len(features.frames[m]), 1)
    return edges


def _script(clip: Clip) -> Transcript | None:
    """The transcript beside the file, if it says when its words are said."""
    path = transcripts.beside(clip.file) if clip.transcript is None else None
    script = transcripts.read(path) if path else None
    return script if script and script.cues else None


def _part(
    script: Transcript | None, extractor: Extractor, features: Features, start: float, end: float
) -> dict[str, np.ndarray]:
    """The features between two times; all words, where nobody wrote down when they are said."""
    rate = extractor.modalities["audio"].rate_hz if "audio" in features.frames else 0.0
    part = spans.between(features.frames, features.times, rate, start, end)
    if "text" in part and script:
        part["text"] = extractor.text(script.text_between(start, end))
    return part


def _table(report: Mapping[str, Any]) -> str:
    """The report of one file as text."""
    if "error" in report:
        return f"{report['file']}\n  error: {report['error']}"
    missing = f", without {' and '.join(report['missing'])}" if report["missing"] else ""
    lines = [f"{report['file']}  {report['seconds']:.1f} s{missing}"]
    lines.append(f"  {'whole':<14}{_line(report['prediction'])}")
    for m, count in report["frames"].items():
        if report["frames_read"][m] < count:
            lines.append(f"  (of {count} frames of {m} the first {report['frames_read'][m]})")
    for w in report["windows"] if len(report["windows"]) > 1 else ():
        lines.append(f"  {w['start']:5.1f} –{w['end']:5.1f} s {_line(w['prediction'])}")
    return "\n".join([*lines, *([f"  {report['strip']}"] if "strip" in report else [])])


def _line(prediction: Mapping[str, Any]) -> str:
    numbers = "  ".join(f"{name} {value:.2f}" for name, value in prediction["values"].items())
    return f"{prediction['label']:<10} {numbers}" if "label" in prediction else numbers


if __name__ == "__main__":
    run(main, define_flags)
