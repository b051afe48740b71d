"""The programs in processes of their own, as a user runs them, but for the seconds of importing.

Each is forked from a server that has imported everything and started no JAX backend yet.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import socket
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
PRELOADED = [
    f"imat_jax.{name}" for name in ("evaluate", "export", "extract", "predict", "sweep", "train")
]

# A run of a few seconds.
SMALL = {
    "model.width": 8, "model.heads": 2, "model.ffn": 8, "model.head_width": 8,
    "data.buckets": 2, "modalities": "text+audio", "batch_size": 16,
    "steps": 14, "eval_steps": 5, "log_steps": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def small_flags(workdir, dataset, **changes):
    """The command line of a small run."""
    flags = [f"--config.{k}={v}" for k, v in (SMALL | changes).items()]
    where = [f"--workdir={workdir}", f"--config.dataset={dataset.path}"]
    return ["--config=configs/tiny.py", *where, *flags]


def run(verb, *flags, setup=None, devices=1, timeout=300) -> Done:
    """`imat VERB FLAGS…` in the repository's root.

    Args:
      setup: an importable function to call first, in the new process.
      devices: to simulate.
    """
    [done] = _run_all([[verb, *flags]], [setup], devices, timeout)
    return done


def run_together(count, *flags, setup=None, devices=1, timeout=300) -> list[Done]:
    """`imat train FLAGS…` in `count` processes that are one run.

    Args:
      setup: {process: an importable function to call first in it}.
      devices: of each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
    commands = [["train", *flags, *together, f"--process_id={i}"] for i in range(count)]
    setups = [(setup or {}).get(i) for i in range(count)]
    return _run_all(commands, setups, devices, timeout)


def signalled(number, at_step):
    """A `setup`: the process sends itself `number` once update `at_step` is done."""
    from imat_jax import performance

    count = performance.Meter.count
    numbers = [number]

    def count_and_signal(self, step):
        count(self, step)
        if step + 1 >= at_step and numbers:
            os.kill(os.getpid(), numbers.pop())

    performance.Meter.count = count_and_signal


def _run_all(commands, setups, devices, timeout):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [
            [f"{folder}/{i}.{name}" for name in ("out", "err")] for i in range(len(commands))
        ]
        processes = []
        for command, setup, files in zip(commands, setups, outputs, strict=True):
            argv = ["imat", *map(str, command)]
            processes.append(context.Process(target=_run, args=(argv, files, setup, devices)))
            processes[-1].start()
        for process in processes:
            process.join(timeout)
            if process.exitcode is None:
                process.kill()
                process.join()
        said = [[pathlib.Path(f).read_text() for f in files] for files in outputs]
    return [Done(p.exitcode, *texts) for p, texts in zip(processes, said, strict=True)]


def _run(argv, files, setup, devices):
    for number, name in zip((1, 2), files, strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.chdir(ROOT)
    sys.argv = argv
    from imat_jax import cli

    if setup:
        setup()
    cli.main()
