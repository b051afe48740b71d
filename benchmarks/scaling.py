"""How cost grows with devices, in bytes and operations a device: compiled, never run.

    python benchmarks/scaling.py [--devices=1,8,64,256] [--chip=v5e] [--width=1024 --layers=12]

Weak scaling gives each device the same share of a growing batch, strong scaling splits one batch;
FSDP splits the parameters too, over all devices. One process a row: simulated devices are set when
JAX starts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
HEADER = (
    "| devices | batch | mesh | parameters, GiB | optimizer, GiB | activations, GiB | GFLOP "
    "| sent, MiB | ms at peak |\n|--:|--:|---|--:|--:|--:|--:|--:|--:|"
)


def row(devices: int, batch: int, mesh: dict[str, int], args) -> dict:
    """The plan of one case, made in a process of its own."""
    case = json.dumps({"devices": devices, "batch": batch, "mesh": mesh, **vars(args)})
    command = [sys.executable, __file__, "--case", case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def plan(case: dict) -> dict:
    sys.path.insert(0, str(ROOT))
    from configs import sseft
    from imat_jax import dryrun

    dryrun.simulate(case["devices"])
    config = sseft.get_config("dataset=nowhere")
    config.batch_size, config.dtype = case["batch"], "bfloat16"
    config.mesh.update(case["mesh"])
    if case["width"]:
        config.model.name, config.model.width, config.model.ffn = (
            "imat",
            case["width"],
            4 * case["width"],
        )
        config.model.heads, config.model.encoder_layers = 8, case["layers"]
    return dryrun.plan(config, case["chip"])


def line(devices: int, batch: int, values: dict) -> str:
    gib = [f"{values['bytes'][k] / 2**30:.3f}" for k in ("parameters", "optimizer", "activations")]
    mesh = " × ".join(str(n) for n in values["mesh"].values())
    sent = sum(values["sent"].values()) / 2**20
    seconds = values["seconds"]
    times = f"{1e3 * max(seconds.values()):.2f} to {1e3 * sum(seconds.values()):.2f}"
    cells = [devices, batch, mesh, *gib, f"{values['flops'] / 1e9:,.1f}", f"{sent:,.1f}", times]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="1,8,64,256")
    parser.add_argument("--chip", default="v5e")
    parser.add_argument("--share", type=int, default=8, help="utterances a device, weak scaling")
    parser.add_argument("--width", type=int, default=0, help="an imat of this width; 0: published")
    parser.add_argument("--layers", type=int, default=12, help="encoder layers of that imat")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(plan(json.loads(args.case))))
        return
    counts = [int(n) for n in args.devices.split(",")]
    whole = args.share * max(counts)
    del args.devices, args.case
    studies = {
        "weak scaling, data": [(n, n * args.share, {"data": n}) for n in counts],
        "weak scaling, fsdp": [(n, n * args.share, {"data": 1, "fsdp": n}) for n in counts],
        "strong scaling, fsdp": [(n, whole, {"data": 1, "fsdp": n}) for n in counts],
    }
    for name, cases in studies.items():
        print(f"\n{name}; mesh is data × fsdp × model\n\n{HEADER}")
        for devices, batch, mesh in cases:
            print(line(devices, batch, row(devices, batch, mesh, args)), flush=True)


if __name__ == "__main__":
    main()
