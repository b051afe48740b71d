"""Turn a corpus into a dataset: python -m imat_jax.build --source=synthetic --output=data/tiny

Writes a TFDS dataset (ArrayRecord, no TensorFlow needed to read it) with its provenance,
statistics and checksums, then describes it. See docs/data.md.
"""

from __future__ import annotations

from absl import flags

from imat_jax import describe
from imat_jax.cli import UsageError, run
from imat_jax.data import builder
from imat_jax.data.sources import npz, synthetic

SOURCES = ("synthetic", "npz")


def define_flags() -> None:
    flags.DEFINE_enum("source", None, SOURCES, "Format of the input.", required=True)
    flags.DEFINE_string("input", None, "File or directory to read; none for synthetic.")
    flags.DEFINE_string("output", None, "Directory of the dataset to write.", required=True)
    flags.DEFINE_string("protocol", None, "Name to record; default the file's stem.")
    flags.DEFINE_enum("dtype", "bfloat16", list(builder.DTYPES), "Storage of the features.")
    flags.DEFINE_enum(
        "nonfinite", "error", builder.NONFINITE, "What to do with NaN and infinity in features."
    )
    flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
    flags.DEFINE_list(
        "sizes", ["4000", "1000", "2000"], "synthetic: utterances of train, valid and test."
    )
    flags.DEFINE_integer("seed", 0, "synthetic: seed of the corpus.")


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    if f.source == "synthetic":
        try:
            sizes = dict(zip(("train", "valid", "test"), map(int, f.sizes), strict=True))
        except ValueError as error:
            raise UsageError(f"--sizes takes three numbers, not {','.join(f.sizes)}") from error
        corpus = synthetic.corpus(sizes, f.seed)
    elif not f.input:
        raise UsageError(f"--source={f.source} needs --input=FILE")
    else:
        corpus = npz.corpus(f.input, f.protocol)
    builder.build(corpus, f.output, dtype=f.dtype, nonfinite=f.nonfinite, overwrite=f.overwrite)
    print(describe.table(f.output))


if __name__ == "__main__":
    run(main, define_flags)
