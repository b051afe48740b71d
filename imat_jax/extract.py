"""Media files into a dataset: python -m imat_jax.extract --input=FOLDER_OR_TABLE --output=data/NAME

Decodes each clip, encodes words, sound and face with the encoders that --encoders names, and writes
a dataset like that of `imat build`, with what made each modality. What is finished stays: the same
command again goes on where an interrupted one was. See docs/your-own-video.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import tqdm
from absl import flags

from imat_jax import __version__, describe, encoders
from imat_jax.cli import UsageError, run
from imat_jax.data import builder, protocols, records
from imat_jax.data.corpus import Corpus, DataError
from imat_jax.encoders import chunks as parts
from imat_jax.encoders import clips, weights
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
    listing = clips.find(pathlib.Path(f.input))
    # What is missing is found before hours of work: weights, labels, files that cannot be opened.
    extractor = Extractor(Recipe(encoders.parse(f.encoders), f.fps, f.asr))
    corpus = protocols.apply(_corpus(f.input, extractor, listing), f.protocol, f.fold)
    if f.hold_out:
        corpus = protocols.hold_out(corpus, f.hold_out)
    output = pathlib.Path(f.output).absolute()
    builder.check(corpus, output, f.overwrite)
    wanted = [listing.clips[u.row] for u in corpus.utterances]
    known = dict(zip(wanted, parts.durations(wanted), strict=True))
    broken = {clip: str(seconds) for clip, seconds in known.items() if not _is_time(seconds)}
    if broken and f.on_error == "fail":
        _fail(broken)
    readable = [clip for clip in wanted if clip not in broken]
    folder = output.with_name(f"{output.name}.extracting")
    folder.mkdir(parents=True, exist_ok=True)
    settings = [__version__, corpus.facts["extraction"], corpus.facts.get("asr")]
    settings += [dataclasses.asdict(modality) for modality in corpus.modalities.values()]
    planned = parts.plan(readable, [known[clip] for clip in readable], folder, settings)
    broken |= _extract(planned, extractor, f)
    for reason in broken.values():
        print(f"left out: {reason}", file=sys.stderr)
    corpus = _finished(corpus, listing.clips, planned, broken)
    builder.build(corpus, output, dtype=f.dtype, overwrite=f.overwrite)
    shutil.rmtree(folder)
    print(describe.table(output))


def _is_time(value: float | DataError) -> bool:
    return isinstance(value, float)


def _fail(broken: Mapping[Clip, str]) -> NoReturn:
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    raise UsageError(f"{next(iter(broken.values()))}{more}; --on_error=skip leaves such clips out")


def _corpus(source: str, extractor: Extractor, listing: clips.Listing) -> Corpus:
    utterances, warnings = listing.utterances, []
    if not any(u.annotations for u in utterances):
        utterances = [dataclasses.replace(u, annotations=UNLABELLED) for u in utterances]
        warnings.append("no labels: a table with a column `label` gives them")
    facts = {"extraction": dataclasses.asdict(extractor.recipe)}
    if extractor.recipe.asr:
        facts["asr"] = weights.checkpoint(extractor.recipe.asr)
    return Corpus(
        name=pathlib.Path(source).stem,
        utterances=utterances,
        modalities=extractor.modalities,
        read=lambda row: {},
        label_names={"dimensions": listing.columns},
        files=(str(listing.table),) if listing.table else (),
        facts=facts,
        warnings=tuple(warnings),
    )


def _extract(
    planned: Sequence[Chunk], extractor: Extractor, f: flags.FlagValues
) -> dict[Clip, str]:
    """Extract what is not done yet; returns what cannot be read, and why."""
    waiting = [chunk for chunk in planned if not parts.is_done(chunk)]
    total = sum(len(chunk.clips) for chunk in planned)
    done = total - sum(len(chunk.clips) for chunk in waiting)
    if done:
        print(f"{done} of {total} clips were extracted before", file=sys.stderr)
    if f.beam is not None:
        finished = _with_beam(waiting, extractor.recipe, f.beam.split())
    else:
        finished = parts.run(waiting, extractor, min(f.workers, os.cpu_count() or 1))
    broken: dict[Clip, str] = {}
    bar = tqdm.tqdm(total=total, initial=done, desc="extract", unit="clip")
    with bar, contextlib.closing(finished):
        for chunk in finished:
            bar.update(len(chunk.clips))
            for clip, note in zip(chunk.clips, parts.notes(chunk), strict=True):
                if "error" in note:
                    broken[clip] = note["error"]
            if broken and f.on_error == "fail":
                _fail(broken)
    return broken


def _with_beam(chunks: Sequence[Chunk], recipe: Recipe, options: list[str]) -> Iterator[Chunk]:
    from imat_jax.data import beam

    beam.run(chunks, functools.partial(parts.worker, recipe), options)
    yield from chunks


def _finished(
    corpus: Corpus, found: Sequence[Clip], planned: Sequence[Chunk], broken: Mapping[Clip, str]
) -> Corpus:
    """`corpus` with its features, transcripts and what was left out."""
    notes = {
        clip: note
        for chunk in planned
        for clip, note in zip(chunk.clips, parts.notes(chunk), strict=True)
    }
    kept = [
        dataclasses.replace(u, transcript=notes[found[u.row]]["words"])
        for u in corpus.utterances
        if found[u.row] not in broken
    ]
    if not kept:
        raise UsageError(f"no clip is left: {'; '.join(list(broken.values())[:5])}")
    about = [notes[found[u.row]] for u in kept]
    digests = "".join(f"{n['sha256']}  {u.id}\n" for u, n in zip(kept, about, strict=True))
    facts = dict(corpus.facts) | {
        "left_out": {clip.id: reason for clip, reason in broken.items()},
        "media_sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "pictures": sum(note["pictures"] for note in about),
        "pictures_with_a_face": sum(note["faces"] for note in about),
    }
    warnings = list(corpus.warnings)
    if broken:
        warnings.append(f"{len(broken)} clips left out: {'; '.join(list(broken.values())[:5])}")
    read = parts.Reader(found, planned, tuple(corpus.modalities))
    return dataclasses.replace(
        corpus, utterances=kept, read=read, facts=facts, warnings=tuple(warnings)
    )


if __name__ == "__main__":
    run(main, define_flags)
