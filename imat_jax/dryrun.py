"""What a run would cost on a mesh that is not there: compiled for it, never run.

    python -m imat_jax.train --config=configs/sseft.py --dry_run --devices=256 --chip=v5e \
      --config.mesh.fsdp=16 --config.batch_size=2048

Each device of the mesh is simulated by this CPU, and XLA's partitioner splits the program over them
as it would over real ones; what it allots and sends is exact for that program. On an accelerator
XLA fuses and schedules otherwise, so that activations come out smaller there, seldom larger.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imat_jax import chips, experiment, flops, hlo, optim, sharding, update
from imat_jax.cli import UsageError
from imat_jax.data import published
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset
from imat_jax.experiment import Experiment, Network

# Where there is no dataset to ask: the published features and task, every utterance of full length.
WIDTHS = {"text": 1024, "audio": 512, "vision": 256}
GIB = 2**30


def simulate(devices: int) -> None:
    """Be a machine of so many devices; to be called before JAX is used."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def network(config) -> tuple[Network, tuple[int, ...], str]:
    """(network, padded lengths of a batch, where they come from)."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.batch_size, config.accumulate, mesh)
    with contextlib.suppress(DataError):
        if Dataset.open(config.dataset):
            made = experiment.make(config)
            return made, made.buckets[-1], f"{config.dataset}, its largest batch"
    if config.tune.text:
        raise UsageError(f"tune.text: {config.dataset} is not there to say which text encoder")
    metadata = {
        "modalities": {m: {"dim": config.model.features[m] or w} for m, w in WIDTHS.items()},
        "task": "sentiment", "class_names": [], "statistics": None,
    }  # fmt: skip
    config.data.standardize = False
    net = experiment.network(config, metadata, mesh)
    limits = published.LIMITS if config.data.mode == "published" else config.data.max_frames
    return net, tuple(limits[m] for m in net.dims), "no dataset: published widths, full lengths"


def batch_of(net: Network, shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and placement of a batch of features stored in bfloat16."""
    size, where = net.config.batch_size, sharding.rows(net.mesh)
    label = net.dataset.index("train")["label"] if isinstance(net, Experiment) else np.zeros(1)
    kind = np.int32 if np.issubdtype(label.dtype, np.integer) else np.float32

    def array(dtype, *dims: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *dims), dtype, sharding=where)

    batch = {"label": array(kind, *label.shape[1:]), "weight": array(np.float32)}
    for (m, dim), frames in zip(net.dims.items(), shape, strict=True):
        is_tokens = net.text is not None and m == "text"
        x = array(np.int32, frames) if is_tokens else array(jnp.bfloat16, frames, dim)
        batch |= {m: x, f"{m}_mask": array(np.bool_, frames)}
    return batch


def plan(config, chip: str) -> dict[str, Any]:
    """Per device: bytes held, operations, bytes sent, seconds, of one update."""
    peak = chips.CHIPS[chip]
    net, shape, source = network(config)
    devices = net.mesh.size
    tx = optim.make(config.optim, 1000)
    like = update.like(net, tx)
    compiled = update.make_update(net, tx).lower(like, batch_of(net, shape)).compile()
    memory = compiled.memory_analysis()
    model = nnx.merge(net.graphdef, net.abstract)
    operations = 3 * float(flops.forward(model, np.asarray([shape]))[0]) * config.batch_size
    sent = hlo.collectives(compiled.as_text(), devices)
    lines = peak.links if devices <= peak.reach else peak.network
    held = {
        "parameters": _held(like["params"]),
        "optimizer": _held({k: v for k, v in like.items() if k != "params"}),
        "activations": memory.temp_size_in_bytes,
    }
    # To and from HBM: the state is read and written once, and so is what activations are held.
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes + 2 * held["activations"]
    seconds = {
        "compute": operations / devices / peak.flops,
        "memory": moved / peak.bandwidth,
        "communication": sum(sent.values()) / lines,
    }
    return {
        "source": source,
        "shape": dict(zip(net.dims, shape, strict=True)),
        "mesh": dict(net.mesh.shape),
        "parameters": sum(math.prod(p.shape) for p in jax.tree.leaves(like["params"])),
        "bytes": held
        | {
            "peak": memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes,
        },
        "flops": operations / devices,
        "sent": sent,
        "seconds": seconds,
    }


def table(config, chip: str, values: dict[str, Any]) -> str:
    """The plan as text."""
    held, sent, size = values["bytes"], values["sent"], config.batch_size
    fits = "fits" if held["peak"] <= chips.CHIPS[chip].memory else "DOES NOT FIT"
    best, worst = max(values["seconds"].values()), sum(values["seconds"].values())
    frames = ", ".join(f"{m} {n}" for m, n in values["shape"].items())
    mesh = ", ".join(f"{a} {n}" for a, n in values["mesh"].items())
    devices = math.prod(values["mesh"].values())
    lines = [
        f"mesh of {devices} {chip}: {mesh}; batch of {size}",
        f"frames: {frames} ({values['source']})",
        f"{values['parameters']:,} parameters",
        "a device holds",
        *(f"  {k:<20}{v / GIB:10.3f} GiB" for k, v in held.items()),
        f"  which {fits} in its {chips.CHIPS[chip].memory / GIB:.0f} GiB",
        "and for an update",
        f"  {'computes':<20}{values['flops'] / 1e9:10.1f} GFLOP",
        *(f"  {'sends, ' + k:<20}{v / 2**20:10.2f} MiB" for k, v in sent.items()),
        "at the published peaks it takes",
        *(f"  {k:<20}{1e3 * v:10.3f} ms" for k, v in values["seconds"].items()),
        f"{1e3 * best:.2f} ms an update if the three go on at once, {1e3 * worst:.2f} ms if not:",
        f"{size / worst:,.0f} to {size / best:,.0f} utterances a second; "
        "real programs reach a third to a half of that",
    ]
    return "\n".join(lines)


def run(config, chip: str) -> None:
    """Print the plan of `config`.

    Raises:
      UsageError: the config does not fit the mesh, or nothing is known of the chip.
    """
    if chip not in chips.CHIPS:
        raise UsageError(f"--chip is one of {', '.join(chips.CHIPS)}, not {chip!r}")
    print(table(config, chip, plan(config, chip)))


def _held(tree: Any) -> int:
    """Bytes on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
