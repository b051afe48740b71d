"""Media files into a dataset: python -m imat_jax.extract --input=FOLDER_OR_TABLE --output=data/NAME

Decodes each clip, encodes words, sound and face with the encoders that --encoders names, and writes
a dataset like that of `imat build`, with what made each modality. What is finished stays: the same
command again goes on where an interrupted one was. See docs/your-own-video.md.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import shutil
import sys

import tqdm
from absl import flags

from imat_jax import __version__, describe, encoders
from imat_jax.cli import UsageError, run
from imat_jax.data import builder, protocols, records
from imat_jax.data.corpus import Corpus, DataError, Utterance
from imat_jax.encoders import chunks as parts
from imat_jax.encoders import clips
from imat_jax.encoders.chunks import Chunk
from imat_jax.encoders.clips import Clip
from imat_jax.encoders.extractor import Extractor, Recipe

UNLABELLED = {"category": "unlabelled"}


def define_flags() -> None:
    named = "; ".join(f"{m}={' '.join(names)}" for m, names in encoders.usage().items())
    flags.DEFINE_string("input", None, "Folder of media, or a CSV table of clips.", required=True)
    flags.DEFINE_string("output", None, "Directory of the dataset to write.", required=True)
    flags.DEFINE_list("encoders", [], f"MODALITY=NAME[:PATH],…; default: offline ones. {named}")
    flags.DEFINE_float("fps", 10.0, "Pictures of a video that are looked at, a second.", 0.1, 120)
    flags.DEFINE_string("asr", "", "Directory of a speech recogniser for what has no transcript.")
    flags.DEFINE_enum(
        "on_error", "fail", ["fail", "skip"], "Where a file cannot be read: stop, or leave it out."
    )
    flags.DEFINE_enum(
        "protocol", None, list(protocols.PROTOCOLS), "Splits and labels; default: of the table."
    )
    flags.DEFINE_integer("fold", None, "Fold of the protocol; 1 is the first.")
    flags.DEFINE_float("hold_out", 0.0, "Make a validation split of this share of train, by group.")
    flags.DEFINE_enum("dtype", "bfloat16", list(records.DTYPES), "Storage of the features.")
    flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
    flags.DEFINE_integer("workers", 1, "Processes that extract, each with its own encoders.", 1)
    flags.DEFINE_string(
        "beam", None, "Extract with Apache Beam: options of a runner, as --runner=DirectRunner."
    )


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    source = pathlib.Path(f.input)
    recipe = Recipe(encoders.parse(f.encoders), f.fps, f.asr)
    found, utterances, columns = clips.find(source)
    extractor = Extractor(recipe)  # a missing weight is found before hours of work
    corpus = _corpus(source, extractor, found, utterances, columns)
    corpus = protocols.apply(corpus, f.protocol, f.fold)
    if f.hold_out:
        corpus = protocols.hold_out(corpus, f.hold_out)
    output = pathlib.Path(f.output).absolute()
    builder.check(corpus, output, f.overwrite)
    wanted = [found[u.row] for u in corpus.utterances]
    seconds = parts.durations(wanted)
    broken = {c.id: str(s) for c, s in zip(wanted, seconds, strict=True) if not _is_time(s)}
    if broken and f.on_error == "fail":
        _fail(broken)
    readable = [(c, s) for c, s in zip(wanted, seconds, strict=True) if _is_time(s)]
    folder = output.with_name(f"{output.name}.extracting")
    folder.mkdir(parents=True, exist_ok=True)
    settings = [__version__, dataclasses.asdict(recipe)]
    settings += [dataclasses.asdict(modality) for modality in corpus.modalities.values()]
    planned = parts.plan([c for c, _ in readable], [s for _, s in readable], folder, settings)
    _extract(planned, recipe, f, broken)
    corpus = _finished(corpus, found, planned, broken)
    builder.build(corpus, output, dtype=f.dtype, overwrite=f.overwrite)
    shutil.rmtree(folder)
    print(describe.table(output))


def _is_time(value: float | DataError) -> bool:
    return isinstance(value, float)


def _fail(broken: dict[str, str]) -> None:
    more = f" (and {len(broken) - 1} more files)" if len(broken) > 1 else ""
    raise UsageError(f"{next(iter(broken.values()))}{more}; --on_error=skip leaves such files out")


def _corpus(
    source: pathlib.Path,
    extractor: Extractor,
    found: list[Clip],
    utterances: list[Utterance],
    columns: list[str],
) -> Corpus:
    warnings = []
    if not any(u.annotations for u in utterances):
        utterances = [dataclasses.replace(u, annotations=UNLABELLED) for u in utterances]
        warnings.append("no labels: a table with a column `label` gives them")
    return Corpus(
        name=source.stem,
        utterances=utterances,
        modalities=extractor.modalities,
        read=lambda row: {},
        label_names={"dimensions": columns},
        files=(str(source),) if source.is_file() else (),
        facts={"extraction": dataclasses.asdict(extractor.recipe)},
        warnings=tuple(warnings),
    )


def _extract(
    planned: list[Chunk], recipe: Recipe, f: flags.FlagValues, broken: dict[str, str]
) -> None:
    """Extract what is not done yet; what cannot be read is added to `broken`."""
    waiting = [chunk for chunk in planned if not parts.is_done(chunk)]
    total = sum(len(chunk.clips) for chunk in planned)
    done = total - sum(len(chunk.clips) for chunk in waiting)
    if done:
        print(f"{done} of {total} clips were extracted before", file=sys.stderr)
    if f.beam is not None:
        from imat_jax.data import beam

        beam.run(waiting, functools.partial(parts.worker, recipe), f.beam.split())
        finished = iter(waiting)
    else:
        finished = parts.run(waiting, recipe, min(f.workers, os.cpu_count() or 1))
    with tqdm.tqdm(total=total, initial=done, desc="extract", unit="clip") as bar:
        for chunk in finished:
            bar.update(len(chunk.clips))
            if f.on_error == "fail":
                _note_errors([chunk], broken)
                if broken:
                    chunk.path.unlink()  # to be read again, when the file is mended
                    _fail(broken)
    _note_errors(planned, broken)
    for reason in broken.values():
        print(f"left out: {reason}", file=sys.stderr)


def _note_errors(chunks: list[Chunk], broken: dict[str, str]) -> None:
    for chunk in chunks:
        for clip, note in zip(chunk.clips, parts.notes(chunk), strict=True):
            if "error" in note:
                broken[clip.id] = note["error"]


def _finished(
    corpus: Corpus, found: list[Clip], planned: list[Chunk], broken: dict[str, str]
) -> Corpus:
    """`corpus` with its features, transcripts and what was left out."""
    notes = {
        clip.id: note
        for chunk in planned
        for clip, note in zip(chunk.clips, parts.notes(chunk), strict=True)
    }
    kept = [
        dataclasses.replace(u, transcript=notes[u.id]["words"])
        for u in corpus.utterances
        if u.id not in broken
    ]
    if not kept:
        _fail(broken)
    digests = "".join(f"{notes[u.id]['sha256']}  {u.id}\n" for u in kept)
    facts = dict(corpus.facts) | {"left_out": broken}
    facts["media_sha256"] = hashlib.sha256(digests.encode()).hexdigest()
    facts["pictures"] = sum(notes[u.id]["pictures"] for u in kept)
    facts["pictures_with_a_face"] = sum(notes[u.id]["faces"] for u in kept)
    warnings = list(corpus.warnings)
    if broken:
        warnings.append(f"{len(broken)} clips left out: {'; '.join(list(broken.values())[:5])}")
    read = parts.Reader(found, planned, tuple(corpus.modalities))
    return dataclasses.replace(
        corpus, utterances=kept, read=read, facts=facts, warnings=tuple(warnings)
    )


if __name__ == "__main__":
    run(main, define_flags)
