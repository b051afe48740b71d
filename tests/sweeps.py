"""What tests of sweeps do to them from outside."""

import json
import os
import pathlib
import signal
import threading
import time


def contents(root):
    """{file of a run: its bytes} of a sweep."""
    return {p: p.read_bytes() for p in sorted(root.glob("runs/**/*")) if p.is_file()}


def killed(root, lines, workers):
    """A `setup`: the sweep gets SIGKILL once its runs have written so many lines of metrics.

    Args:
      workers: they too, before.
    """

    def watch():
        while written(root) < lines:
            time.sleep(0.02)
        for path in pathlib.Path(root).glob("runs/*/job.json") if workers else ():
            job = json.loads(path.read_text())
            if job["status"] == "running":
                os.kill(job["pid"], signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def written(root):
    files = pathlib.Path(root).glob("runs/*/metrics.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)
