"""What a sweep costs besides its runs, and what seeds save that are trained by one process.

    python benchmarks/sweep.py [--seeds=5] [--steps=200] [--width=32]

Trains the seeds as one would without a sweep, a process each, and then as a sweep with one worker,
on the synthetic corpus; compiled programs are in the cache before either begins. Then times updates
of all seeds one after the other and as one program (`jax.vmap` over states and batches).
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from configs import common
from imat_jax import config as configs
from imat_jax import sharding, train
from imat_jax.data import builder
from imat_jax.data.sources import synthetic


def call(verb: str, *flags: str) -> float:
    """Seconds of a program."""
    start = time.perf_counter()
    command = [sys.executable, "-m", f"imat_jax.{verb}", *flags]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def taken(sweep: pathlib.Path) -> tuple[list[float], float]:
    """Seconds of each run, in their order; and of all that was between one's end and the next's
    beginning.
    """
    found = []
    for path in sweep.glob("runs/*/job.json"):
        end = (path.parent / "results.json").stat().st_mtime
        found.append((end, json.loads(path.read_text())["seconds"]))
    found.sort()
    between = sum(
        end - before - seconds for (before, _), (end, seconds) in itertools.pairwise(found)
    )
    return [seconds for _, seconds in found], between


def updates(config, seeds: int, repeats: int = 20) -> tuple[float, float]:
    """Milliseconds for an update of every seed: (one after the other, vmapped)."""
    prepared = train.prepare(config, ("valid",))
    mesh = prepared.experiment.mesh
    batches = [prepared.experiment.split("train", seed=s)[0] for s in range(seeds)]
    batches = [sharding.put(b, mesh) for b in batches]
    stack = lambda trees: jax.tree.map(lambda *x: jax.numpy.stack(x), *trees)  # noqa: E731
    # The update donates its state, so each way has states of its own.
    states = [prepared.initial(s) for s in range(seeds)]
    together, batch = stack([prepared.initial(s) for s in range(seeds)]), stack(batches)
    vmapped = jax.jit(jax.vmap(prepared.update), donate_argnums=0)
    times: dict[str, list[float]] = {"each": [], "vmapped": []}
    for _ in range(repeats + 1):
        start = time.perf_counter()
        states = [prepared.update(s, b)[0] for s, b in zip(states, batches, strict=True)]
        jax.block_until_ready(states)
        middle = time.perf_counter()
        together = jax.block_until_ready(vmapped(together, batch)[0])
        times["each"].append(middle - start)
        times["vmapped"].append(time.perf_counter() - middle)
    each, one = (1e3 * float(np.median(t[1:])) for t in times.values())
    return each, one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=32)
    args = parser.parse_args()
    numbers = {
        "model.width": args.width, "model.ffn": 2 * args.width, "model.head_width": args.width,
        "data.buckets": 1, "steps": args.steps,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        corpus = synthetic.corpus({"train": 400, "valid": 100, "test": 100})
        builder.build(corpus, folder / "d", progress=False)
        numbers["dataset"] = str(folder / "d")
        flags = ["--config=configs/tiny.py", *(f"--config.{k}={v}" for k, v in numbers.items())]
        call("train", *flags, f"--workdir={folder / 'warm'}", "--evaluate=valid")
        separate = 0.0
        for seed in range(args.seeds):
            where = f"--workdir={folder / 'separate' / str(seed)}"
            separate += call("train", *flags, where, f"--config.seed={seed}", "--evaluate=valid")
        sweep = call("sweep", *flags, f"--workdir={folder / 'sweep'}", f"--seeds={args.seeds}")
        runs, between = taken(folder / "sweep")
        config = configs.override(common.get_config(), numbers | {"modalities": ""})
        each, one = updates(config, args.seeds)
    around = sweep - sum(runs) - between
    print(
        f"{args.seeds} seeds of {args.steps} updates, width {args.width}\n"
        f"  a process each       {separate:8.1f} s\n"
        f"  a sweep, one worker  {sweep:8.1f} s, {separate / sweep:.2f} times as fast\n"
        f"    of it runs         {sum(runs):8.1f} s: the first {runs[0]:.1f}, others "
        f"{np.mean(runs[1:]):.1f} each\n"
        f"    start and end      {around:8.1f} s, however many runs there are\n"
        f"    between runs       {between:8.2f} s, {between / sum(runs):.2%} of the runs\n"
        f"an update of all seeds: {each:.1f} ms one after the other, {one:.1f} ms as one program, "
        f"{each / one:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
