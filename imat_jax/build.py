"""Turn feature files into a dataset: python -m imat_jax.build --input=FILE --output=data/NAME

Reads what you have (MMSA, MulT, MISA, CMU-SDK, MERTools, EmoBox, SSE-FT, .npz, .npy; detected from
the file), applies a protocol, checks the data, and writes a TFDS dataset (ArrayRecord, read without
TensorFlow) with provenance, statistics and checksums. `--source=synthetic` needs no input.
See docs/data.md.
"""

from __future__ import annotations

import functools
import os
import sys

from absl import flags

from imat_jax import describe
from imat_jax.cli import UsageError, run
from imat_jax.data import builder, protocols, records, sources
from imat_jax.data.sources import synthetic


def define_flags() -> None:
    flags.DEFINE_enum(
        "source", "auto", ["auto", "synthetic", *sources.READERS], "Format of the input."
    )
    flags.DEFINE_string("input", None, "File or folder to read; none for synthetic.")
    flags.DEFINE_string("output", None, "Directory of the dataset to write.", required=True)
    flags.DEFINE_enum(
        "protocol", None, list(protocols.PROTOCOLS),
        "Splits and labels; default: as the source has them.",
    )  # fmt: skip
    flags.DEFINE_integer("fold", None, "Fold of the protocol, or of EmoBox; 1 is the first.")
    flags.DEFINE_float("hold_out", 0.0, "Make a validation split of this share of train, by group.")
    flags.DEFINE_list(
        "features", [], "text=NAME,audio=NAME,vision=NAME: folders or sequences of the features."
    )
    flags.DEFINE_enum("align", "", ["", "text", "audio", "vision"], "csd: average over its frames.")
    flags.DEFINE_enum("dtype", "bfloat16", list(records.DTYPES), "Storage of the features.")
    flags.DEFINE_enum(
        "nonfinite", "error", records.NONFINITE, "What to do with NaN and infinity in features."
    )
    flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
    flags.DEFINE_integer("workers", 0, "Processes that write; 0: one a core, 1: only this one.")
    flags.DEFINE_integer("shards", 0, "Files a split; 0: one for 128 MB.")
    flags.DEFINE_string(
        "beam", None, "Write with Apache Beam: options of a runner, such as --runner=DirectRunner."
    )
    flags.DEFINE_list(
        "sizes", ["4000", "1000", "2000"], "synthetic: utterances of train, valid and test."
    )
    flags.DEFINE_integer("seed", 0, "synthetic: seed of the corpus.")


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    source = _source(f)
    reopen = _opener(f, source)
    corpus = reopen()
    if f.fold and not f.protocol and source != "emobox":
        raise UsageError(f"--fold={f.fold}: no --protocol that it is a fold of")
    folds = f.protocol and protocols.PROTOCOLS[f.protocol].folds
    corpus = protocols.apply(corpus, f.protocol, f.fold if folds or source != "emobox" else None)
    if f.hold_out:
        corpus = protocols.hold_out(corpus, f.hold_out)
    workers = f.workers or os.cpu_count() or 1
    if f.beam is not None:
        from imat_jax.data import beam

        engine = beam.engine(reopen, f.beam.split())
    elif workers > 1 and len(corpus.utterances) > 1000:
        engine = builder.processes(reopen, workers)
    else:
        engine = None
    metadata = builder.build(
        corpus, f.output, dtype=f.dtype, nonfinite=f.nonfinite, overwrite=f.overwrite,
        engine=engine, shards=f.shards,
    )  # fmt: skip
    print(describe.table(f.output))
    if "valid" not in metadata["splits"]:
        print("\nno validation split: training needs one; see --protocol and --hold_out")


def _source(f: flags.FlagValues) -> str:
    if f.source != "synthetic" and not f.input:
        raise UsageError(f"--source={f.source} needs --input=FILE_OR_FOLDER")
    if f.source != "auto":
        return f.source
    source, why = sources.detect(f.input)
    print(f"{f.input}: {source} ({why})", file=sys.stderr)
    return source


def _opener(f: flags.FlagValues, source: str) -> functools.partial:
    """What opens the source, here and in other processes."""
    if source == "synthetic":
        try:
            sizes = dict(zip(("train", "valid", "test"), map(int, f.sizes), strict=True))
        except ValueError as error:
            raise UsageError(f"--sizes takes three numbers, not {','.join(f.sizes)}") from error
        return functools.partial(synthetic.corpus, sizes, f.seed)
    try:
        features = dict(item.split("=", 1) for item in f.features)
    except ValueError as error:
        raise UsageError(f"--features takes text=NAME,audio=NAME, not {f.features}") from error
    fold = f.fold if source == "emobox" else None
    return functools.partial(
        sources.open_corpus, source, f.input, features=features, align=f.align, fold=fold
    )


if __name__ == "__main__":
    run(main, define_flags)
