"""Apache Beam writes the same files as one process does; needs the extra [beam]."""

import pathlib
import subprocess
import sys

import talking

ROOT = pathlib.Path(__file__).parents[2]


def build(output, *options):
    command = "-m imat_jax.build --source=synthetic --sizes=40,10,10 --shards=3".split()
    command = [sys.executable, *command, f"--output={output}", *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_beam_writes_what_one_process_writes(tmp_path):
    build(tmp_path / "one", "--workers=1")
    build(tmp_path / "beam", "--beam=--runner=DirectRunner")
    one, beam = ((tmp_path / name / "SHA256SUMS").read_text() for name in ("one", "beam"))
    assert one == beam


def test_beam_extracts_what_one_process_extracts(tmp_path):
    (tmp_path / "media").mkdir()
    talking.make(tmp_path / "media")
    two = "--direct_num_workers=2 --direct_running_mode=multi_processing"
    for name, options in (("one", []), ("beam", [f"--beam=--runner=DirectRunner {two}"])):
        command = [sys.executable, "-m", "imat_jax.extract", f"--input={tmp_path / 'media'}"]
        command += [f"--output={tmp_path / name}", *options]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    one, beam = ((tmp_path / name / "SHA256SUMS").read_text() for name in ("one", "beam"))
    assert one == beam
