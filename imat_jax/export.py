"""A run as an artefact for use elsewhere: python -m imat_jax.export --workdir=RUN --output=OUT

Writes the network as StableHLO for CPU, CUDA and TPU (`jax.export`; any number of examples, any
length), its weights, what is needed to make its inputs and to read its outputs, calibration, and a
model card. `imat_jax/artifact.py` reads it and needs JAX and NumPy only. See docs/export.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from jax import export as jax_export

from imat_jax import artifact, model_card, rundir, sharding, tasks, windows
from imat_jax import config as configs
from imat_jax import experiment as experiments
from imat_jax.analysis import calibration, confidence, conformal, targets
from imat_jax.analysis import runs as analysed
from imat_jax.checkpoint import Checkpoints
from imat_jax.cli import UsageError, run
from imat_jax.data.corpus import DataError, subsets
from imat_jax.data.statistics import standardize
from imat_jax.experiment import Network
from imat_jax.inference import make_step
from imat_jax.inference import outputs as outputs_of
from imat_jax.tasks import Task

PLATFORMS = ("cpu", "cuda", "tpu")
LETTERS = {"text": "Tt", "audio": "Ta", "vision": "Tv"}
COVERAGE = 0.9
CLOSE = 1e-5  # to the run's own outputs, relative to the largest


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Run directory.", required=True)
    flags.DEFINE_string("output", None, "Directory to write the artefact to.", required=True)
    flags.DEFINE_bool("overwrite", False, "Replace an artefact that is already there.")


def main(argv: list[str]) -> None:
    f = flags.FLAGS
    output = pathlib.Path(f.output)
    manifest = export(pathlib.Path(f.workdir), output, overwrite=f.overwrite)
    size = sum(file.stat().st_size for file in output.iterdir())
    fitted = manifest["calibration"]
    print(f"{output}: {manifest['task']}, {'+'.join(manifest['modalities'])}, {size / 1e6:.1f} MB")
    print(f"  {', '.join(sorted(file.name for file in output.iterdir()))}")
    print(f"  {_calibrated(fitted)}" if fitted else "  not calibrated")


def _calibrated(fitted: Mapping[str, Any]) -> str:
    limits = [v for k in ("threshold", "radius") for v in artifact.listed(fitted.get(k, []))]
    few = ", too few for all sets or intervals" * (None in limits)
    return f"calibrated on {fitted['examples']} examples, coverage {fitted['coverage']}{few}"


def export(
    workdir: pathlib.Path, output: pathlib.Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the selected checkpoint of `workdir` to `output`; returns the manifest.

    Raises:
      UsageError: no run, no checkpoint, an output that is there, or a run that cannot be exported.
    """
    check_output(output, overwrite)
    config = configs.load(workdir)
    config.model.attention = "plain"  # the one form that is the same program everywhere
    metadata = json.loads((workdir / "dataset.json").read_text())
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    net = experiments.network(config, metadata, mesh)
    checkpoints = Checkpoints(workdir)
    if checkpoints.best_step is None:
        raise UsageError(f"{workdir} has no checkpoint yet; train it first")
    params = checkpoints.restore_best(net.abstract)
    checkpoints.close()
    manifest = describe(net, metadata)
    manifest["calibration"] = calibrate(net.task, *found) if (found := valid(workdir)) else None
    manifest["base"] = base(workdir, net.task)
    manifest["run"] = {
        "config": without_paths(config.to_dict()),
        "environment": without_paths(_json(workdir / "environment.json", but=("command",))),
        "protocol": metadata["protocol"],
    }
    results = _json(workdir / "results.json")
    manifest["metrics"] = {split: results[split] for split in ("valid", "test") if split in results}
    made, files = make(net, params, manifest)
    card = model_card.write(workdir, metadata, manifest)
    return save(output, made.manifest, files | {"model_card.md": card.encode()})


def check_output(output: pathlib.Path, overwrite: bool) -> None:
    """Raises `UsageError` for an output that may not be written."""
    if not output.exists():
        return
    if not overwrite:
        raise UsageError(f"{output} exists already; give another --output, or --overwrite")
    try:
        found = json.loads((output / "manifest.json").read_text())["format"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != artifact.FORMAT:
        raise UsageError(f"{output} is not an artefact; --overwrite replaces nothing else")


def describe(net: Network, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of the network and of what it reads."""
    limits = dict(net.config.data.max_frames)
    if net.text:
        limits["text"] = net.text.limit
    modalities = {}
    for m, dim in net.dims.items():
        recorded = metadata["modalities"][m]
        facts = {k: recorded.get(k) for k in ("extractor", "checkpoint", "layer", "rate_hz")}
        tokens = m == "text" and net.text is not None
        modalities[m] = {"dim": dim, "max_frames": limits[m], "tokens": tokens} | facts
        if tokens:
            modalities[m]["vocabulary"] = net.text.config.vocab_size
    recipe = metadata.get("facts", {}).get("extraction")
    if recipe and net.text and net.config.tune.text_encoder:
        recipe = recipe | {"encoders": recipe["encoders"] | {"text": net.config.tune.text_encoder}}
    return {
        "format": artifact.FORMAT,
        "task": net.task.name,
        "values": list(net.task.class_names or ("sentiment",)),
        "outputs": net.task.outputs,
        "headline": net.task.headline,
        "modalities": modalities,
        "dtype": metadata["dtype"],
        "lengths": list(windows.LADDER),
        "extraction": recipe,
        "calibration": None,
        "base": None,
    }


def make(
    net: Network, params: nnx.State, manifest: Mapping[str, Any]
) -> tuple[artifact.Artifact, dict[str, bytes]]:
    """The artefact in memory, and its files but for the manifest and the model card.

    Args:
      manifest: of `describe`, with `calibration`, `run` and `metrics`.

    Raises:
      UsageError: the run cannot be exported, or what comes out is not what the run says.
    """
    exported = program(net, manifest)
    weights = {k: np.asarray(v) for k, v in named(params).items()}
    pairs = jax.tree.unflatten(exported.out_tree, exported.out_avals)["attention"]
    manifest = dict(manifest) | {"attention": sorted(pairs), "platforms": list(exported.platforms)}
    examples = probes(net, manifest)
    check = artifact.pack(examples)
    made = artifact.Artifact(manifest, exported, weights, check)
    answers = made.predict(examples)
    check["outputs"] = np.stack([a.outputs for a in answers])
    check["values"] = np.stack([a.values for a in answers])
    _compare(net, params, examples, check["outputs"], manifest["dtype"])
    files = {
        "program.bin": bytes(exported.serialize()),
        "weights.npz": _archive(weights),
        "check.npz": _archive(check),
    }
    return made, files


def program(net: Network, manifest: Mapping[str, Any]) -> jax_export.Exported:
    """(weights, batch) -> {"outputs": [B, K], "values": [B, V], "attention": {pair: [B, S]}}.

    Batches are {m: [B, T, D] float32 (text [B, T] int32 where it is tokens), m_mask: [B, T] bool},
    features as they are stored; B and the T are symbols, T at most the modality's `max_frames`.

    Raises:
      UsageError: the run cannot be exported.
    """
    config, modalities = net.config, manifest["modalities"]
    if config.data.mode == "published":
        raise UsageError(
            "data.mode=published crops long audio at random and masks what is not padding, as the "
            "published code does; train with data.mode=corrected to export"
        )
    calibrated = manifest["calibration"] or {}
    temperature = np.asarray(calibrated.get("temperature", 1.0), np.float32)

    def predict(weights, batch):
        leaves = [weights[name] for name in named(net.abstract)]
        params = jax.tree.unflatten(jax.tree.structure(net.abstract), leaves)
        if net.statistics:
            batch = standardize(batch, net.statistics)
        outputs, extras = nnx.merge(net.graphdef, params)(batch, deterministic=True)
        attention = {}
        for name, x in extras.items():
            if name.startswith("ima/"):  # [B, layers, H, S]; a learned CLS comes before the frames
                pair = name.removeprefix("ima/")
                frames = batch[f"{pair.partition('<-')[2]}_mask"].shape[1]
                attention[pair] = x.mean(axis=(1, 2))[:, x.shape[-1] - frames :]
        values = read(net.task, outputs, temperature)
        return {"outputs": outputs, "values": values, "attention": attention}

    limits = [f"{LETTERS[m]} <= {facts['max_frames']}" for m, facts in modalities.items()]
    scope = jax_export.SymbolicScope(limits)
    batch = {}
    for m, facts in modalities.items():
        shape = jax_export.symbolic_shape(f"B, {LETTERS[m]}", scope=scope)
        batch[f"{m}_mask"] = jax.ShapeDtypeStruct(shape, jnp.bool)
        batch[m] = jax.ShapeDtypeStruct((*shape, facts["dim"]), jnp.float32)
        if facts["tokens"]:
            batch[m] = jax.ShapeDtypeStruct(shape, jnp.int32)
    weights = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in named(net.abstract).items()}
    return jax_export.export(jax.jit(predict), platforms=PLATFORMS)(weights, batch)


def read(task: Task, outputs: jax.Array, temperature: np.ndarray) -> jax.Array:
    """Outputs [B, K] as `tasks.describe` reads them, [B, V] float32; logits over `temperature`."""
    x = outputs.astype(jnp.float32)
    if task.name in calibration.CLASSES:
        if task.name == "binary_pairs":
            x = x[:, 1::2] - x[:, ::2]
        x = x / jnp.broadcast_to(temperature, x.shape[-1:])[None]
        return jax.nn.softmax(x, axis=-1) if task.name == "multiclass" else jax.nn.sigmoid(x)
    if task.name == "sentiment" and task.outputs == tasks.STEPS:  # ordinal
        return tasks.LOW + jax.nn.sigmoid(x).sum(axis=1, keepdims=True)
    return x


def named(params: nnx.State) -> dict[str, Any]:
    """{"encoders/text/project/kernel": …}, in the order of the tree's leaves."""
    leaves, _ = jax.tree.flatten_with_path(params)
    return {re.sub("/value$", "", jax.tree_util.keystr(p, simple=True, separator="/")): x
            for p, x in leaves}  # fmt: skip


def probes(net: Network, manifest: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    """Made-up examples to check with: of every subset of the modalities, of different lengths."""
    random = np.random.default_rng(0)
    modalities = manifest["modalities"]
    examples = []
    for i, subset in enumerate(reversed(subsets(tuple(modalities)))):
        example = {}
        for m in subset:
            facts = modalities[m]
            length = min(3 + 5 * i, facts["max_frames"])
            if facts["tokens"]:
                example[m] = random.integers(facts["vocabulary"], size=length, dtype=np.int32)
                continue
            x = random.standard_normal((length, facts["dim"]))
            if net.statistics and m in net.statistics:
                x = x * np.asarray(net.statistics[m]["std"]) + np.asarray(net.statistics[m]["mean"])
            dtype = artifact.DTYPES[manifest["dtype"]]
            example[m] = x.astype(dtype).astype(np.float32)
        examples.append(example)
    return examples


def _compare(
    net: Network, params: nnx.State, examples: Sequence, found: np.ndarray, dtype: str
) -> None:
    empty = {m: np.zeros((0, d), np.float32) for m, d in net.dims.items()}
    if net.text:
        empty["text"] = np.zeros(0, np.int32)
    readings = windows.make_reader(net, params, dtype)([empty | x for x in examples])
    wanted = np.stack([reading.outputs for reading in readings])
    off = np.abs(found - wanted).max()
    if not off <= CLOSE * max(1.0, np.abs(wanted).max()):
        raise UsageError(f"the exported program is off the run's outputs by {off:.2g}; not written")


def base(workdir: pathlib.Path, task: Task) -> list[float] | None:
    """[V]: what is best said where nothing is seen, by the training labels; None without them."""
    try:
        dataset = experiments.make(configs.load(workdir)).dataset
        rundir.check_dataset(workdir, dataset)
    except (DataError, UsageError) as error:
        print(f"no contributions of modalities: {error}", file=sys.stderr)
        return None
    return targets.constant(task, dataset.index("train")["label"]).tolist()


def valid(workdir: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(label, outputs) of the validation split: those that are kept, else made anew; or None."""
    if (workdir / "predictions" / "valid.npz").is_file():
        return calibration.predictions(workdir, "valid")
    try:
        experiment, params = analysed.open_run(workdir)
        label = experiment.dataset.index("valid")["label"]
        step = make_step(experiment)
        return label, outputs_of(step, params, experiment.split("valid"), experiment)
    except (DataError, UsageError, KeyError) as error:
        print(f"not calibrated: no predictions on validation, and {error}", file=sys.stderr)
        return None


def calibrate(task: Task, label: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
    """Temperature, and conformal thresholds or radii, of validation examples.

    One number each, or a list of one for each emotion or dimension. A threshold or radius is None
    where there are too few examples. A classifier that is right on all of them has no temperature:
    it keeps 1.

    Args:
      label: [N] or [N, V]; outputs: [N, K].
    """
    questions = list(calibration.questions(task, label, outputs).values())
    found: dict[str, Any] = {"coverage": COVERAGE, "examples": len(label)}
    if task.name in calibration.CLASSES:
        fitted = [
            1.0
            if (logits.argmax(axis=1) == truth).all()
            else confidence.fit_temperature(logits, truth)
            for logits, truth in questions
        ]
        limits = [
            conformal.threshold(confidence.probabilities(logits), truth, COVERAGE)
            for logits, truth in questions
        ]
        found |= {"temperature": fitted, "score": "lac", "threshold": limits}
    else:
        radii = [conformal.radius(truth, score, COVERAGE) for score, truth in questions]
        found |= {"temperature": 1.0, "score": "absolute residual", "radius": radii}
    if task.name in ("multiclass", "sentiment"):
        found = {k: v[0] if isinstance(v, list) else v for k, v in found.items()}
    return jax.tree.map(lambda v: None if isinstance(v, float) and math.isinf(v) else v, found)


def without_paths(value: Any) -> Any:
    """JSON without the folders of this machine: of an absolute path, NAME:PATH too, the end."""
    if isinstance(value, Mapping):
        return {k: without_paths(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v) for v in value]
    if isinstance(value, str):
        head, colon, path = value.rpartition(":")
        if os.path.isabs(path) or path.startswith("~"):
            return f"{head}{colon}{pathlib.PurePath(path).name}"
    return value


def save(
    output: pathlib.Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, Any]:
    """Write an artefact under a temporary name, then rename; returns the manifest with hashes."""
    output = output.absolute()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = dict(manifest) | {"files": hashes}
    manifest["sha256"] = artifact.digest(manifest)
    partial = output.parent / f".{output.name}.exporting"
    shutil.rmtree(partial, ignore_errors=True)  # left by one that was killed
    with rundir.room(output.parent):
        try:
            done = partial / "done"
            done.mkdir(parents=True)
            for name, content in files.items():
                (done / name).write_bytes(content)
            rundir.write_json(done / "manifest.json", manifest)
            artifact.load(done)
            if output.exists():
                output.rename(partial / "replaced")
            done.rename(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _archive(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _json(path: pathlib.Path, but: Sequence[str] = ()) -> dict[str, Any]:
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {k: v for k, v in found.items() if k not in but}


if __name__ == "__main__":
    run(main, define_flags)
