"""Fault drills: a small run is killed, its disk filled, its files damaged, and it is started again.

    python benchmarks/faults.py [--moments=20] [--seed=0] [--drills=kill,disk,checkpoint,shard]

Two processes train as one run on this machine. Whatever happens to them, they are to end by
themselves, and the same command is to go on to the very outcome of a run that nothing happened to:
metrics, results and predictions bit by bit; on other devices, losses within 1e-5. Status 1 if not.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import os
import pathlib
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from imat_jax import rundir
from imat_jax.data import builder
from imat_jax.data.sources import synthetic

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
               "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
LIMIT = 120  # seconds in which the other process has to end; JOIN: where they had not met yet
JOIN = 330  # JAX waits for 300
SMALL = """--config=configs/tiny.py --config.model.width=8 --config.model.heads=2
    --config.model.ffn=8 --config.model.head_width=8 --config.data.buckets=1
    --config.modalities=text+audio --config.batch_size=16 --config.steps=30 --config.eval_steps=3
    --config.log_steps=1""".split()


class Drills:
    """What they share: a data set, and a run that nothing happens to."""

    def __init__(self, folder: pathlib.Path):
        self.dataset, self.reference = folder / "data", folder / "reference" / "run"
        corpus = synthetic.corpus({"train": 96, "valid": 40, "test": 50})
        builder.build(corpus, self.dataset, progress=False)
        self.start = functools.partial(Run, dataset=self.dataset)
        self.start(folder / "warm").finish()  # compiles
        run = self.start(folder / "reference")
        run.finish()
        self.seconds = time.monotonic() - run.began


class Run:
    """The processes of the run in `folder`/run, of so many simulated devices each."""

    def __init__(self, folder: pathlib.Path, dataset: pathlib.Path, processes=2, devices=1):
        folder.mkdir(exist_ok=True)
        self.workdir, self.began = folder / "run", time.monotonic()
        self.outputs, self.processes = [], []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        options = {"cwd": ROOT, "env": os.environ | flags, "stderr": subprocess.STDOUT}
        command = [sys.executable, "-m", "imat_jax.train", *SMALL, f"--workdir={self.workdir}"]
        command.append(f"--config.dataset={dataset}")
        if processes > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
        for i in range(processes):
            mine = [f"--process_id={i}"] if processes > 1 else []
            self.outputs.append(folder / f"out-{len(list(folder.glob('out-*')))}")
            file = self.outputs[-1].open("w")
            self.processes.append(subprocess.Popen(command + mine, stdout=file, **options))

    @property
    def alive(self) -> list[subprocess.Popen]:
        return [p for p in self.processes if p.poll() is None]

    def check(self, good: object, what: str) -> None:
        tails = (f"--- {o.name}\n{o.read_text()[-2500:]}" for o in self.outputs)
        assert good, "\n".join([what, *tails])

    def end(self, limit: float = LIMIT) -> float:
        """Seconds until the last process ended."""
        began = time.monotonic()
        while self.alive and time.monotonic() - began < limit:
            time.sleep(0.1)
        hang = [(p.kill(), p.wait()) for p in self.alive]
        self.check(not hang, f"{len(hang)} processes did not end in {limit} s")
        return time.monotonic() - began

    def finish(self) -> None:
        self.end(600)
        self.check({p.returncode for p in self.processes} == {0}, "did not go on")

    def fails(self, *said: str) -> None:
        """All end with an error; one of them says this, in one line and without a traceback."""
        self.end()
        self.check(all(p.returncode for p in self.processes), "status 0")
        text = "\n".join(o.read_text() for o in self.outputs)
        lines = [line for line in text.splitlines() if "error: " in line]
        self.check(any(all(s in x for s in said) for x in lines), f"no line of {said}")
        self.check("Traceback" not in text, "tracebacks")

    def until_saving(self, step: int) -> None:
        """Until Orbax writes a checkpoint, once that of `step` is there."""
        last = self.workdir / "checkpoints" / "last"
        while self.alive and not (last / str(step)).exists():
            time.sleep(0.005)
        while self.alive and not list((self.workdir / "checkpoints").glob("*/*tmp*")):
            time.sleep(0.001)


def compare(workdir: pathlib.Path, reference: pathlib.Path, exact: bool = True) -> None:
    both = workdir, reference
    if not exact:
        loss = lambda x: (x["step"], x.get("loss", x.get("valid/loss")))  # noqa: E731
        curves = [[loss(x) for x in rundir.read_metrics(w)] for w in both]
        return np.testing.assert_allclose(*curves, rtol=1e-5)
    for name in ("metrics.jsonl", "results.json"):
        assert len({(w / name).read_bytes() for w in both}) == 1, f"another {name}"
    outputs = [np.load(w / "predictions/test.npz")["outputs"] for w in both]
    assert np.array_equal(*outputs), "other predictions"


def kill(drill: Drills, folder: pathlib.Path, seed: str, at_save: bool) -> str:
    rng = random.Random(seed)
    victims = rng.choice([[0], [1], [0, 1]])
    moment, step = rng.uniform(0, drill.seconds), rng.randrange(0, 27, 3)
    again, devices = rng.choice([(2, 1), (2, 1), (1, 2), (1, 1)])
    run = drill.start(folder)
    if at_save:
        run.until_saving(step)
    while run.alive and not at_save and time.monotonic() - run.began < moment:
        time.sleep(0.01)
    for i in victims:
        run.processes[i].kill()
    seconds = run.end(LIMIT if run.workdir.exists() else JOIN)
    drill.start(folder, processes=again, devices=devices).finish()
    compare(run.workdir, drill.reference, exact=again == 2)
    return f"{seconds:.0f} s"


def disk(drill: Drills, folder: pathlib.Path, how: str) -> str:
    """Full, or no file over 60 kB any more, once there is a checkpoint."""
    (folder / "run").mkdir(parents=True)
    if how == "full":
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder / "run"]
        if subprocess.run(mount, capture_output=True).returncode:
            return "skipped: cannot mount a tmpfs"
    try:
        run = drill.start(folder)
        run.until_saving(3)
        filler = run.workdir / "filler"
        if how == "full":
            subprocess.run(["dd", "if=/dev/zero", f"of={filler}"], capture_output=True)
        for p in run.processes if how == "limit" else ():
            resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
        run.fails("cannot write", str(run.workdir), "Make room")
        filler.unlink(missing_ok=True)
        drill.start(folder).finish()
        compare(run.workdir, drill.reference)
        return ""
    finally:
        if how == "full":
            subprocess.run(["umount", folder / "run"], check=True)


def damage(path: pathlib.Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half] ^= 16
    path.write_bytes({"cut": data[:half], "zeros": bytes(len(data)), "bit": data}[how])


def checkpoint(drill: Drills, folder: pathlib.Path, which: str, name: str, how: str) -> None:
    """Files `name` of checkpoints `which` of the finished run are damaged."""
    outcome = shutil.ignore_patterns("predictions", "results.json")
    root = shutil.copytree(drill.reference, folder / "run", ignore=outcome) / "checkpoints"
    steps = list(root.glob(which))
    for path in (path for step in steps for path in step.glob(name) if path.is_file()):
        damage(path, how)
    before = sorted(root.rglob("*"))
    run = drill.start(folder)
    if which == "last/30":
        run.finish()
        said = f"warning: {root / which} is damaged, and now 30.damaged"
        run.check(said in run.outputs[0].read_text(), "not told")
        assert (root / "last" / "30.damaged").is_dir()
        compare(run.workdir, drill.reference)
    else:
        run.fails(*map(str, steps), "from a copy")
        assert sorted(root.rglob("*")) == before, "files have gone or come"


def shard(drill: Drills, folder: pathlib.Path, split: str, how: str, processes: int) -> None:
    folder.mkdir()
    data = shutil.copytree(drill.dataset, folder / "data")
    (path,) = data.glob(f"*-{split}.array_record*")
    damage(path, how)
    Run(folder, data, processes).fails(str(path))


def planned(moments: int, seed: int) -> list[tuple[str, Callable, tuple]]:
    """(title, drill, arguments)"""
    titles = ["kill, at any moment"] * 3 + ["kill, while saving"]
    plan = [(titles[i % 4], kill, (f"{seed} {i}", i % 4 == 3)) for i in range(moments)]
    plan += [("disk", disk, (how,)) for how in ("full", "limit")]
    ways = ["default/_METADATA cut", "default/**/d/* zeros", "default/**/d/* cut",
            "default/d/* bit", "default/*.ocdbt cut", "_CHECKPOINT_METADATA cut"]  # fmt: skip
    plan += [("damaged checkpoint", checkpoint, ("last/30", *way.split())) for way in ways]
    ways = ["last/* default/*.ocdbt cut", "best/* params/**/d/* zeros", "best/* scores/* cut"]
    plan += [("no whole checkpoint", checkpoint, tuple(way.split())) for way in ways]
    ways = [(s, how, n) for s in ("train", "test") for how in ("cut", "bit") for n in (1, 2)]
    return plan + [("damaged shard", shard, way) for way in ways]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("moments", 20), ("seed", 0), ("jobs", 2)):  # jobs: drills at a time
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--drills", default="kill,disk,checkpoint,shard")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ |= ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
        drills = Drills(folder)
        print(f"undisturbed: {drills.seconds:.0f} s", flush=True)

        def one(number, title, drill, arguments):
            try:
                said = drill(drills, folder / str(number), *arguments) or ""
                result = "skipped" if said.startswith("skipped") else "survived"
            except Exception as error:
                said, result = f"{type(error).__name__}: {error}", "FAILED"
            print(f"{title} {arguments}: {result} {said}", flush=True)
            shutil.rmtree(folder / str(number), ignore_errors=True)
            return title, result

        named = args.drills.split(",")
        plan = [x for x in planned(args.moments, args.seed) if x[1].__name__ in named]
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            results = list(pool.map(lambda x: one(x[0], *x[1]), enumerate(plan)))
    print(f"\n{'drill':<24}{'tried':>8}{'survived':>10}{'skipped':>10}")
    for title in dict.fromkeys(t for t, _ in results):
        ends = [r for t, r in results if t == title]
        print(f"{title:<24}{len(ends):>8}{ends.count('survived'):>10}{ends.count('skipped'):>10}")
    return int("FAILED" in {r for _, r in results})


if __name__ == "__main__":
    sys.exit(main())
