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

_SOURCE = flags.DEFINE_enum("source", None, SOURCES, "Format of the input.", required=True)
_INPUT = flags.DEFINE_string("input", None, "File or directory to read; none for synthetic.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the dataset to write.", required=True)
_PROTOCOL = flags.DEFINE_string("protocol", None, "Name to record; default the file's stem.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", list(builder.DTYPES), "Storage of the features.")
_NONFINITE = flags.DEFINE_enum(
    "nonfinite", "error", builder.NONFINITE, "What to do with NaN and infinity in features."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
_SIZES = flags.DEFINE_list(
    "sizes", ["4000", "1000", "2000"], "synthetic: utterances of train, valid and test."
)
_SEED = flags.DEFINE_integer("seed", 0, "synthetic: seed of the corpus.")


def main(argv: list[str]) -> None:
    if _SOURCE.value == "synthetic":
        try:
            sizes = dict(zip(("train", "valid", "test"), map(int, _SIZES.value), strict=True))
        except ValueError as error:
            raise UsageError(f"--sizes takes three numbers, not {_SIZES.value}") from error
        corpus = synthetic.corpus(sizes, _SEED.value)
    elif not _INPUT.value:
        raise UsageError(f"--source={_SOURCE.value} needs --input=FILE")
    else:
        corpus = npz.corpus(_INPUT.value, _PROTOCOL.value)
    builder.build(
        corpus,
        _OUTPUT.value,
        dtype=_DTYPE.value,
        nonfinite=_NONFINITE.value,
        overwrite=_OVERWRITE.value,
    )
    print(describe.table(_OUTPUT.value))


if __name__ == "__main__":
    run(main)
