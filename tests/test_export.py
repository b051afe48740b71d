"""A run as an artefact: the same answers, everywhere, with nothing of what trained it."""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import programs
import pytest
from test_encoders import CONFIG, random_bert
from torch_files import safetensors

from configs import common
from imat_jax import artifact, cli, experiment, export, models, sharding, tasks, windows
from imat_jax.analysis import confidence, conformal
from imat_jax.artifact import ArtifactError
from imat_jax.encoders import bert

pytestmark = pytest.mark.usefixtures("library_promotion")

DIMS = {"text": 3, "audio": 4, "vision": 5}
LIMITS = {"text": 20, "audio": 40, "vision": 24}
FEW = {"model.encoder_layers": 0, "model.cls_token": "statistics"}  # compiles in no time
CLASSES = ("multiclass", ["sad", "glad", "calm"])


def metadata_of(task="sentiment", names=(), dtype="bfloat16"):
    return {
        "modalities": {m: dict(dim=d, extractor="x", checkpoint="c", layer="l", rate_hz=None)
                       for m, d in DIMS.items()},
        "task": task, "class_names": list(names), "dtype": dtype, "facts": {},
        "statistics": {m: {"mean": [1.0] * d, "std": [2.0] * d} for m, d in DIMS.items()},
    }  # fmt: skip


def network_of(metadata, **changes):
    config = common.get_config()
    config.model.update(width=8, heads=2, ffn=8, head_width=8, encoder_layers=1, ima_layers=1)
    config.model.mult.update(layers=1, memory_layers=1)
    config.data.max_frames.update(LIMITS)
    config.update_from_flattened_dict({"model.attention": "plain"} | changes)
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    return experiment.network(config, metadata, mesh)


def made_of(net, metadata, **known):
    params = net.params(jax.random.key(0))
    manifest = export.describe(net, metadata) | dict(run={}, metrics={}) | known
    return params, *export.make(net, params, manifest)


def example(rng, dims=DIMS, **lengths):
    return {m: rng.standard_normal((lengths.get(m, 7), d)).astype("f4") for m, d in dims.items()}


def assert_same(answers, readings):
    for answer, reading in zip(answers, readings, strict=True):
        np.testing.assert_allclose(answer.outputs, reading.outputs, atol=1e-6, rtol=0)
        assert dict(answer.frames) == dict(reading.frames)
        assert set(answer.attention) == set(reading.attention)
        for pair, weights in reading.attention.items():
            np.testing.assert_allclose(answer.attention[pair], weights, atol=1e-6, rtol=0)


@pytest.fixture
def readers(monkeypatch):
    """The run's own readers that `export` compares with: compiled once for both."""
    made, make = [], windows.make_reader
    monkeypatch.setattr(windows, "make_reader", lambda *a: made.append(make(*a)) or made[-1])
    return made


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_answers_as_its_run(name, readers):
    """All modalities, some, one frame, all frames; more of them than are read."""
    metadata, changes = metadata_of(), {"model.name": name, "model.heads": 1}
    if name in ("imat", "sseft", "mult", "mbt"):  # stacks of all pairs compile for long
        del metadata["modalities"]["vision"]
    if name in ("tfn", "lmf", "misa", "selfmm"):  # their encoders are those of `late`
        changes |= FEW | {"model.cls_token": "statistics"}
    if name == "sseft":  # a stack is a stack of `imat`
        changes |= {"model.directions": "audio<-text"}
    net = network_of(metadata, **changes)
    _, made, files = made_of(net, metadata)
    assert set(made.manifest["platforms"]) == {"cpu", "cuda", "tpu"}
    rng = np.random.default_rng(1)
    lengths = [(20, 40, 24), (3, 33, 7), (0, 60, 1), (5, 0, 0), (1, 1, 1), (40, 2, 20), (0, 0, 0)]
    examples = [example(rng, net.dims, **dict(zip(DIMS, n, strict=True))) for n in lengths]
    assert_same(made.predict(examples), readers[0](examples))
    loaded = artifact.arrays(files["weights.npz"])
    assert sum(x.size for x in loaded.values()) == sum(
        x.size for x in jax.tree.leaves(net.abstract)
    )


@pytest.fixture(scope="module")
def imat():
    """An artefact of text and audio, its run's reader."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        metadata = metadata_of(*CLASSES)
        del metadata["modalities"]["vision"]
        net = network_of(metadata, **{"model.directions": "text<-audio"} | FEW)
        known = {"temperature": 2.0, "coverage": 0.9, "score": "lac", "threshold": 0.6}
        params, made, files = made_of(net, metadata, calibration=known)
        yield made, files, windows.make_reader(net, params, "bfloat16")


def test_any_number_of_examples_of_any_length(imat):
    made, _, read = imat
    rng = np.random.default_rng(2)
    dims = {m: DIMS[m] for m in ("text", "audio")}
    for count, text, audio in ((1, 2, 3), (3, 18, 1), (67, 1, 16)):
        examples = [example(rng, dims, text=text, audio=audio) for _ in range(count)]
        assert_same(made.predict(examples), read(examples))
    assert made.predict([]) == []


def test_a_missing_modality_need_not_be_said(imat):
    made, *_ = imat
    text = np.ones((2, 3), np.float32)
    for other in ({}, {"audio": []}, {"audio": np.zeros((0, 4))}):
        [answer] = made.predict([{"text": text} | other])
        assert answer.frames == {"text": 2, "audio": 0} and answer.attention == {}


def test_subsets_are_answers_without_the_rest(imat):
    made, *_ = imat
    one = example(np.random.default_rng(3), {"text": 3, "audio": 4})
    found = made.subsets(one)
    assert set(found) == {frozenset(s) for s in (("text",), ("audio",), ("text", "audio"))}
    for subset, values in found.items():
        [answer] = made.predict([{m: one[m] for m in subset}])
        np.testing.assert_allclose(values, answer.values, atol=1e-6)
    assert made.subsets({}) == {}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"smell": [[1.0]]}, "reads text, audio, not 'smell'"),
        ({"text": np.ones((2, 4))}, r"text is \[2, 4\], and is to be \[T, 3\]"),
        ({"text": np.ones(3)}, "and is to be"),
        ({"text": 1.0}, "and is to be"),
        ({"text": [["a", "b", "c"]]}, "is to be numbers"),
        ({"text": [[1, 2, np.nan]]}, "not finite"),
        ({"text": [[1, 2, 1e300]]}, "not finite"),
        ({"text": None}, "is to be"),
    ],
)
def test_a_bad_example_is_an_error(imat, bad, said):
    with pytest.raises(ValueError, match=said):
        imat[0].predict([bad])


def test_one_program_for_all_platforms(imat):
    """Lowered for each, with no kernel that only one of them has."""
    _, files, _ = imat
    exported = jax.export.deserialize(bytearray(files["program.bin"]))
    assert exported.platforms == ("cpu", "cuda", "tpu") and exported.mlir_module_serialized
    assert set(re.findall(r"custom_call @(\w+)", exported.mlir_module())) <= {
        "shape_assertion"  # of lengths beyond the limit
    }
    shapes = {str(aval.shape[:2]) for aval in exported.in_avals if aval.dtype == bool}
    assert shapes == {"(B, Tt)", "(B, Ta)"}


def test_the_program_alone_gives_calibrated_probabilities(imat):
    made, files, _ = imat
    exported = jax.export.deserialize(bytearray(files["program.bin"]))
    batch = {"text": np.ones((1, 5, 3), "f4"), "audio": np.ones((1, 9, 4), "f4")}
    batch |= {f"{m}_mask": np.ones(x.shape[:2], bool) for m, x in batch.items()}
    found = exported.call(artifact.arrays(files["weights.npz"]), batch)
    wanted = confidence.probabilities(np.asarray(found["outputs"]), 2.0)
    np.testing.assert_allclose(found["values"], wanted, atol=1e-6)
    assert found["attention"]["text<-audio"].shape == (1, 9)
    [answer] = made.predict([{m: batch[m][0] for m in ("text", "audio")}])
    np.testing.assert_allclose(answer.values, found["values"][0], atol=1e-6)


@pytest.mark.parametrize("loss", ["", "ordinal"])
@pytest.mark.parametrize("name", tasks.TASKS)
def test_outputs_are_read_as_the_run_reads_them(name, loss):
    if loss and name != "sentiment":
        pytest.skip("the ordinal loss is of sentiment")
    task = tasks.make(name, () if name == "sentiment" else ["a", "b", "c"], loss=loss or None)
    outputs = np.random.default_rng(0).normal(0, 3, (20, task.outputs)).astype("f4")
    found = export.read(task, jax.numpy.asarray(outputs), np.float32(1))
    for values, one in zip(found, outputs, strict=True):
        wanted = list(tasks.describe(task, one)["values"].values())
        np.testing.assert_allclose(values, wanted, atol=1e-6)


def calibrated(name, names, label, outputs):
    """(calibration, `labels` of an artefact with it, values of `outputs`) for a task."""
    task = tasks.make(name, names)
    found = export.calibrate(task, label, outputs)
    manifest = {"task": name, "values": names or ["sentiment"], "modalities": {}}
    temperature = np.float32(found["temperature"])
    values = np.asarray(export.read(task, jax.numpy.asarray(outputs), temperature), np.float64)
    exported = type("Exported", (), {"call": staticmethod(lambda *a: None)})
    made = artifact.Artifact(manifest | {"calibration": found}, exported, {}, {})
    return found, made.labels, values


def test_sets_of_classes_are_those_before_the_temperature():
    rng = np.random.default_rng(0)
    names, outputs = list("abcd"), rng.normal(0, 3, (1000, 4)).astype("f4")
    label = np.array([rng.choice(4, p=p) for p in confidence.probabilities(outputs, 2.5)])
    found, labels, values = calibrated("multiclass", names, label, outputs)
    assert 2.2 < found["temperature"] < 2.8 and found["examples"] == 1000
    raw = confidence.probabilities(outputs)
    limit = conformal.threshold(raw, label, 0.9)
    assert found["threshold"] == pytest.approx(limit)
    at_least, at_most = conformal.sets(raw, limit), conformal.sets(raw, limit + 3e-6)
    assert (at_least != at_most).sum() < 3  # by the rounding of float32
    for row, least, most, one in zip(values, at_least, at_most, raw, strict=True):
        said = labels(row)
        assert said["label"] == names[one.argmax()]
        inside = np.isin(names, said["set"])
        assert (inside >= least).all() and (inside <= most).all()


def test_each_emotion_has_its_own_temperature_and_set():
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 2, (400, 2)).astype("f4")
    present = rng.random((400, 2)) < tasks.sigmoid(outputs * np.array([1.0, 0.3]))
    found, labels, values = calibrated("multilabel", ["a", "b"], present.astype("f4"), outputs)
    assert found["temperature"][0] < 1.5 < 2.5 < found["temperature"][1]
    sets = [labels(row)["set"] for row in values]
    for k, name in enumerate("ab"):  # who has the emotion is in the set nine times of ten or more
        inside = np.array([name in one for one in sets])
        raw = tasks.sigmoid(outputs[:, k])
        assert (1 - raw[inside] <= found["threshold"][k] + 1e-6).all()
        assert (1 - raw[~inside] >= found["threshold"][k] - 1e-6).all()
    assert "label" not in labels(values[0])


def test_intervals_of_scores():
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 1, (99, 1)).astype("f4")
    label = outputs[:, 0] + rng.normal(0, 0.5, 99)
    found, labels, values = calibrated("sentiment", [], label, outputs)
    assert found["radius"] == pytest.approx(np.sort(np.abs(label - outputs[:, 0]))[89])
    said = labels(values[0])
    assert said["high"] - said["low"] == pytest.approx(2 * found["radius"])
    _, labels, values = calibrated(
        "dimensions", ["v", "a"], np.zeros((99, 2)), np.ones((99, 2), "f4")
    )
    assert labels(values[0]) == {"low": {"v": 0.0, "a": 0.0}, "high": {"v": 2.0, "a": 2.0}}


def test_too_few_examples_give_no_guess():
    outputs = np.float32([[3, 0], [0, 3], [3, 0]])
    found, labels, values = calibrated("multiclass", ["a", "b"], np.array([0, 1, 0]), outputs)
    # Right on all: no temperature is best. Of three, none is the 90th hundredth.
    assert found["temperature"] == 1.0 and found["threshold"] is None
    assert labels(values[0]) == {"label": "a"}
    found, labels, values = calibrated("sentiment", [], np.zeros(3), np.ones((3, 1), "f4"))
    assert found["radius"] is None and labels(values[0]) == {}
    json.dumps(found, allow_nan=False)


def test_a_run_with_a_text_encoder_takes_tokens(tmp_path, readers):
    config = CONFIG | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(safetensors(random_bert(config)))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(55))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    info = bert.modality(tmp_path, bert.read_config(tmp_path))
    metadata = metadata_of()
    metadata["modalities"] = {"text": vars(info)}
    metadata["statistics"]["text"] = {"mean": [0.0] * info.dim, "std": [1.0] * info.dim}
    changes = {"tune.text": True, "tune.text_encoder": f"bert:{tmp_path}", "model.name": "early"}
    net = network_of(metadata, **changes)
    _, made, _ = made_of(net, metadata)
    facts = made.modalities["text"]
    assert facts["tokens"] and (facts["max_frames"], facts["vocabulary"]) == (20, 60)
    rng = np.random.default_rng(0)
    examples = [{"text": rng.integers(60, size=n, dtype=np.int32)} for n in (2, 18, 20, 1)]
    assert_same(made.predict(examples), readers[0](examples))
    for bad in ([60], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match="text"):
            made.predict([{"text": bad}])


def test_in_context_each_example_stands_alone(readers):
    metadata = metadata_of()
    metadata["modalities"] = {"text": metadata["modalities"]["text"]}
    _, made, _ = made_of(network_of(metadata, **{"model.context": 2} | FEW), metadata)
    rng = np.random.default_rng(0)
    examples = [example(rng, {"text": 3}, text=n) for n in (4, 5, 6)]
    assert_same(made.predict(examples), readers[0](examples))
    [alone] = made.predict(examples[1:2])
    np.testing.assert_allclose(alone.outputs, made.predict(examples)[1].outputs, atol=1e-6)


def test_published_masks_are_refused():
    metadata = metadata_of()
    net = network_of(metadata, **{"data.mode": "published", "model.name": "early"})
    with pytest.raises(cli.UsageError, match=r"data\.mode=published"):
        made_of(net, metadata)


# ---- On disk -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(shared, finished):
    """The finished run, exported by the program."""
    workdir, _ = finished

    def make(folder):
        done = programs.run("export", f"--workdir={workdir}", f"--output={folder / 'out'}")
        assert done.returncode == 0, done.stderr
        assert "calibrated on 40 examples, coverage 0.9\n" in done.stdout

    return shared("exported", make) / "out"


def test_it_answers_as_the_run_predicted(finished, exported, tiny_dataset):
    """The outputs that evaluation kept, from the data set's own features."""
    with np.load(finished[0] / "predictions" / "test.npz") as archive:
        wanted = archive["outputs"]
    loaded = artifact.load(exported)
    records = tiny_dataset.source("test")
    examples = [{m: records[i][m] for m in loaded.modalities} for i in range(len(wanted))]
    found = np.stack([answer.outputs for answer in loaded.predict(examples)])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert loaded.check() <= 1e-6


def test_the_manifest_says_what_is_needed_to_use_it(finished, exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    results = json.loads((finished[0] / "results.json").read_text())
    assert set(manifest["files"]) == {p.name for p in exported.iterdir()} - {"manifest.json"}
    assert manifest["metrics"] == {s: results[s] for s in ("valid", "test")}
    assert list(manifest["modalities"]) == ["text", "audio"]
    assert manifest["values"] == ["sadness", "calm", "anger", "joy"]
    assert manifest["calibration"]["examples"] == results["valid"]["examples"]
    assert manifest["run"]["config"]["model"]["width"] == 8
    said = (exported / "manifest.json").read_text() + (exported / "model_card.md").read_text()
    assert str(finished[0].parent) not in said and '"/' not in said


def test_it_needs_jax_and_numpy_only(exported, tmp_path):
    """The one file and the folder, copied elsewhere, in a fresh interpreter."""
    shutil.copy(artifact.__file__, tmp_path / "artifact.py")
    shutil.copytree(exported, tmp_path / "out")
    program = """
import sys
import artifact
a = artifact.load("out")
loaded = lambda: {name.partition(".")[0] for name in sys.modules}
there = loaded() & {"imat_jax", "flax", "optax", "orbax", "scipy", "ml_collections", "grain"}
assert not there, there
assert a.check() < 1e-6, a.check()
there = loaded() & {"imat_jax", "flax", "optax", "orbax", "ml_collections", "grain"}
assert not there, there  # SciPy is JAX's own, when it compiles
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env={"JAX_PLATFORMS": "cpu", "PATH": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_damage_is_found(exported, tmp_path):
    def copied(name):
        out = tmp_path / name
        shutil.copytree(exported, out)
        return out

    for name in artifact.FILES:
        out = copied(f"flipped-{name}")
        content = bytearray((out / name).read_bytes())
        content[len(content) // 2] ^= 1
        (out / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"{name} is damaged"):
            artifact.load(out)
        (out / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ArtifactError, match=rf"{name} is damaged"):
            artifact.load(out)
        (out / name).unlink()
        with pytest.raises(ArtifactError, match=rf"{name} cannot be read"):
            artifact.load(out)
    out = copied("edited")
    manifest = out / "manifest.json"
    text = manifest.read_text()
    for other, said in [
        (text.replace('"temperature": ', '"temperature": 1'), "damaged or was edited"),
        (text[:100], "is not JSON"),
        ("[]", "format None"),
        ('{"format": "imat_jax-artifact/2"}', "format 'imat_jax-artifact/2'"),
        (json.dumps({"format": artifact.FORMAT}), "damaged or was edited"),
    ]:
        assert other != text
        manifest.write_text(other)
        with pytest.raises(ArtifactError, match=said) as caught:
            artifact.load(out)
        assert "\n" not in str(caught.value)
    for nothing in (tmp_path / "gone", tmp_path):
        with pytest.raises(ArtifactError, match=r"no artefact.*imat_jax\.export"):
            artifact.load(nothing)


def test_a_program_that_is_none_is_an_error(exported, tmp_path):
    """As of another version of JAX: the hashes fit, and yet it cannot be read."""
    manifest = json.loads((exported / "manifest.json").read_text())
    files = {n: (exported / n).read_bytes() for n in artifact.FILES} | {"program.bin": b"no"}
    with pytest.raises(ArtifactError, match=r"cannot be read by JAX .*; it was made with"):
        export.save(tmp_path / "out", manifest, files)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_lost(finished, exported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    with pytest.raises(cli.UsageError, match="exists already"):
        export.check_output(out, False)
    export.check_output(out, True)
    for other in (finished[0], tmp_path):
        with pytest.raises(cli.UsageError, match="not an artefact"):
            export.check_output(other, True)
    export.check_output(tmp_path / "new", False)
    with pytest.raises(cli.UsageError, match="not a run directory"):
        export.export(tmp_path, tmp_path / "new")
    before = json.loads((out / "manifest.json").read_text())
    files = {n: (out / n).read_bytes() for n in artifact.FILES} | {"model_card.md": b"anew"}
    export.save(out, before, files)
    artifact.load(out)
    assert (out / "model_card.md").read_bytes() == b"anew"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_model_card_has_the_runs_numbers(finished, exported):
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    card = (exported / "model_card.md").read_text()
    for split in ("valid", "test"):
        row = re.compile(
            rf"\| `acc` \| {results[split]['acc']:.3f} \| ([\d.]+) to ([\d.]+) \| "
            rf"{results['trivial'][split]['acc']:.3f} \|"
        )
        low, high = map(float, row.search(card).groups())
        assert low <= results[split]["acc"] <= high
    assert f"{results['parameters']:,}" in card
    assert "Not verified on another split" in card and "Not measured (`imat robustness`" in card
    for said in ("Article\n  5(1)(f)", "Annex III, point 1(c)", "50(3)", "Recital 44", "consent"):
        assert said in card


def test_the_model_card_reports_what_was_measured(finished, exported, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("checkpoints", "plots"))
    done = programs.run("calibrate", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    (workdir / "robustness").mkdir()
    damage = {"levels": [0.0, 0.5], "scores": [{"acc": 0.75}, {"acc": 0.4375}]}
    measured = {"workdir": str(workdir), "subsets": {"text": {"acc": 0.3125}},
                "curves": {"frames": damage}}  # fmt: skip
    facts = {"metric": "acc", "split": "test"}
    (workdir / "robustness" / "robustness.json").write_text(
        json.dumps({"facts": facts, "runs": {"a": [measured], "b": [measured | {"workdir": "b"}]}})
    )
    (workdir / "predictions" / "test.npz").unlink()
    manifest = json.loads((exported / "manifest.json").read_text())
    metadata = json.loads((workdir / "dataset.json").read_text())
    card = export.model_card.write(workdir, metadata, manifest | {"calibration": None})
    assert "there were no predictions on validation" in card
    assert "| text | 0.312 |" in card and "| 0.750 | 0.438 |" in card
    assert "| not measured |" in card  # the interval of what has no predictions
    card = export.model_card.write(workdir, metadata, manifest)
    reached = json.loads((workdir / "calibration.json").read_text())["questions"]["class"]
    for one in reached["conformal"]:
        assert f"| {one['coverage']:.0%} | {one['reached']:.3f} |" in card


def test_a_run_without_predictions_is_calibrated_from_its_data(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    label, kept = export.valid(workdir)
    (workdir / "predictions" / "valid.npz").unlink()
    again, outputs = export.valid(workdir)
    np.testing.assert_array_equal(again, label)
    np.testing.assert_allclose(outputs, kept, atol=1e-5)
    config = json.loads((workdir / "config.json").read_text())
    config["dataset"] = str(tmp_path / "gone")
    (workdir / "config.json").write_text(json.dumps(config))
    assert export.valid(workdir) is None
    assert "not calibrated: no predictions on validation" in capsys.readouterr().err


def test_paths_of_this_machine_are_left_behind():
    given = {"a": "/home/me/data/tiny", "b": ["bert:/opt/minilm", "data/tiny", 3], "c": "a: b"}
    assert export.without_paths(given) == {
        "a": "tiny", "b": ["bert:minilm", "data/tiny", 3], "c": "a: b"
    }  # fmt: skip
