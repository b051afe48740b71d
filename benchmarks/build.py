"""Building and reading, as ratios to a bare copy of the same bytes, all in one run:

    python benchmarks/build.py [--utterances=400] [--rounds=3]

Utterances have 1.4 MB of float32 features (40-80 x 1024, 400-600 x 512, 100-200 x 256), a folder of
`.npy` files. Printed: building with 1 and with all cores, reading shuffled padded batches with 1,
2 and 4 threads, and the size on disk against the padded float32 pickle that the field exchanges.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np

from imat_jax.data import builder, loader
from imat_jax.data.dataset import Dataset
from imat_jax.data.sources import npy

WIDTHS = {"text": (40, 80, 1024), "audio": (400, 600, 512), "vision": (100, 200, 256)}


def make(folder: pathlib.Path, utterances: int) -> tuple[int, int]:
    """Write the source; returns its bytes and those of the padded pickle."""
    rng = np.random.default_rng(0)
    size, rows = 0, ["id,split,group,label"]
    for m in WIDTHS:
        (folder / m).mkdir(parents=True)
    for i in range(utterances):
        rows.append(f"u{i:05d},{'valid' if i % 10 == 0 else 'train'},g{i},{i % 7 - 3}.0")
        for m, (fewest, most, dim) in WIDTHS.items():
            frames = rng.standard_normal((rng.integers(fewest, most + 1), dim), np.float32)
            np.save(folder / m / f"u{i:05d}.npy", frames)
            size += frames.nbytes
    (folder / "table.csv").write_text("\n".join(rows))
    return size, utterances * sum(4 * most * dim for _, most, dim in WIDTHS.values())


def copy(folder: pathlib.Path, target: pathlib.Path) -> None:
    """The same bytes from one file to another, through memory."""
    with target.open("wb") as out:
        for m in WIDTHS:
            for path in sorted((folder / m).iterdir()):
                out.write(path.read_bytes())


def read(dataset: Dataset, threads: int) -> int:
    """One epoch of shuffled padded batches; returns the number of utterances."""
    names = tuple(dataset.dims)
    limits = dict.fromkeys(names, 1024)
    split = loader.Split(
        dataset, "train", modalities=names, batch_size=16,
        buckets=loader.buckets_for(dataset, names, limits, 4), seed=0,
    )  # fmt: skip
    split.steps = split.steps_per_epoch
    batches = loader.read(split, start=0, threads=threads, ahead=2 * threads, workers=0)
    return sum(int(batch["weight"].sum()) for batch in batches)


def timed(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        size, padded = make(root / "source", args.utterances)
        corpus = npy.corpus(root / "source")
        reopen = functools.partial(npy.corpus, root / "source")
        engines = {
            "build, 1 process": builder.here(corpus, progress=False),
            f"build, {cores} processes": builder.processes(reopen, cores, progress=False),
        }
        taken: dict[str, list[float]] = {}
        for _ in range(args.rounds):  # alternating, so that a slow minute slows all of them
            taken.setdefault("copy", []).append(timed(copy, root / "source", root / "copy"))
            for name, engine in engines.items():
                build = functools.partial(
                    builder.build, corpus, root / "d", engine=engine, overwrite=True,
                    progress=False, shards=cores,
                )  # fmt: skip
                taken.setdefault(name, []).append(timed(build))
            dataset = Dataset.open(root / "d")
            for threads in (1, 2, 4):
                name = f"read batches of 16, {threads} threads"
                taken.setdefault(name, []).append(timed(read, dataset, threads))
        stored = sum(p.stat().st_size for p in (root / "d").iterdir())
    train = sum(i % 10 != 0 for i in range(args.utterances))
    base = args.utterances / statistics.median(taken["copy"])
    print(f"{args.utterances} utterances, {size / 1e6:.0f} MB of float32, {cores} cores; medians")
    for name, seconds in taken.items():
        count = train if name.startswith("read") else args.utterances
        rate = count / statistics.median(seconds)
        print(f"{name:<32}{rate:>8.0f} utt/s  {rate / base:6.2f} of the copy")
    print(f"on disk {stored / 1e6:.0f} MB, {stored / padded:.2f} of the padded float32 pickle")


if __name__ == "__main__":
    main()
