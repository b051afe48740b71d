"""Runs that train their text encoder: at first those of its frozen features, then better."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from flax import nnx
from golden_arrays import draw
from test_encoders import CONFIG, random_bert
from test_train import assert_same_run, small_config
from torch_files import safetensors

from imat_jax import (
    cli,
    distributed,
    dryrun,
    evaluate,
    experiment,
    flops,
    inference,
    optim,
    predict,
    rundir,
    sharding,
    train,
    tuning,
    update,
)
from imat_jax.checkpoint import Checkpoints
from imat_jax.data import builder, loader
from imat_jax.data.corpus import Corpus, Modality, Utterance
from imat_jax.data.dataset import Dataset
from imat_jax.encoders import bert

pytestmark = pytest.mark.usefixtures("library_promotion")

ONE = dict(data=1, fsdp=1, model=1)
OFF = 3
SIZES = {"train": 48, "valid": 16, "test": 19}


def write_bert(folder, **changes):
    """A small checkpoint of Hugging Face's, with a word for each number."""
    config = CONFIG | {"num_hidden_layers": 1} | changes
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    arrays = random_bert(config)
    for leaf in ("weight", "bias"):  # a feature that is all but switched off, as MiniLM has some
        arrays[f"encoder.layer.0.output.LayerNorm.{leaf}"][OFF] = 1e-9 * (leaf == "weight")
    (folder / "model.safetensors").write_bytes(safetensors(arrays))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *map(str, range(55))]))
    return folder


def corpus_of(directory, **changes):
    """Utterances of 0 to 18 numbers, whose class is which of two numbers is among them."""
    random = np.random.RandomState(0)
    utterances = []
    for split, count in SIZES.items():
        for i in range(count):
            label = int(random.randint(2))
            words = [*random.randint(2, 55, size=random.randint(1, 18)), label]
            random.shuffle(words)
            transcript = "" if i % 8 == 5 else " ".join(map(str, words))
            utterances.append(
                Utterance(f"{split}-{i}", len(utterances), {"category": "ab"[label]}, split=split,
                          transcript=transcript, label=label)
            )  # fmt: skip
    encoder = bert.encoder(directory)
    text = encoder.encode([u.transcript for u in utterances])
    corpus = Corpus(
        name="numbers",
        utterances=utterances,
        modalities={"text": encoder.modality, "audio": Modality(4)},
        read=lambda row: {"text": text[row], "audio": draw(f"audio {row}", (3 + row % 9, 4))},
        protocol="numbers",
        task="multiclass",
        class_names=("a", "b"),
        facts={"extraction": {"encoders": {"text": f"bert:{directory}"}, "fps": 10.0, "asr": ""}},
    )
    return dataclasses.replace(corpus, **changes)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("weights") / "bert")


@pytest.fixture(scope="module")
def dataset(directory, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "numbers"
    builder.build(corpus_of(directory), path, dtype="float32", progress=False)
    return Dataset.open(path)


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """Programs for one device compile in a third of the time; the function for all of them."""
    make_mesh = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda *_: make_mesh(ONE, jax.devices()[:1]))
        yield make_mesh


def plain(dataset, **changes):
    """Of a small run on the stored features."""
    small = {"data.buckets": 1, "modalities": "text", "model.encoder_layers": 0,
             "model.cls_token": "statistics"}  # fmt: skip
    return small_config(dataset, **small | changes)


def tuned(dataset, **changes):
    """Of a small run that trains the text encoder."""
    return plain(dataset, **{"tune.text": True, "tune.lr_scale": 1.0} | changes)


def started(config):
    run = experiment.make(config)
    return run, update.make_initial(run, optim.make(config.optim, config.steps))(config.seed)


def text_of(params):
    return jax.device_get(params["bert"])


def untrained(directory):
    return nnx.state(bert.load(directory, np.asarray), nnx.Param)


@pytest.mark.parametrize(
    "changes",
    [
        {"modalities": "text+audio"},
        {"model.name": "sseft", "model.heads": 2, "data.standardize": False},
    ],
    ids=["imat", "sseft"],
)
def test_before_the_first_update_outputs_are_those_of_the_stored_features(dataset, changes):
    found = []
    for config in (plain(dataset, **changes), tuned(dataset, **changes)):
        run, state = started(config)
        step, split = inference.make_step(run), run.split("test")
        found.append((inference.outputs(step, state["params"], split, run), split[0]))
    (expected, features), (ours, tokens) = found
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-2  # they do depend on the text
    np.testing.assert_array_equal(tokens["text_mask"], features["text_mask"])
    lengths = experiment.make(config).dataset.index("test")["text_length"]
    empty = [not text for text in dataset.transcripts("test")]
    np.testing.assert_array_equal(lengths == 0, empty)  # missing
    assert any(empty)
    assert tokens["text"].shape == features["text"].shape[:2]
    assert tokens["text"].dtype == np.int32 and features["text"].dtype == np.float32


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A run of text alone that nothing interrupted: its directory and config."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    changes = {"steps": 80, "eval_steps": 40, "optim.lr": 1e-2, "accumulate": 2}
    config = tuned(dataset, **changes, **{"optim.ema": 0.9, "model.dropout": 0.0})
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        train.train(config, workdir)
    return workdir, config


def test_training_lowers_the_loss_and_changes_the_text_network(whole, directory):
    workdir, config = whole
    losses = [line["loss"] for line in rundir.read_metrics(workdir) if "loss" in line]
    assert len(losses) == 80 and np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    run, fresh = started(config)
    for tree in ("params", "ema"):  # what was put in place of zeros
        jax.tree.map(np.testing.assert_array_equal, text_of(fresh[tree]), untrained(directory))
    checkpoints = Checkpoints(workdir)
    last = checkpoints.restore(update.like(run, optim.make(config.optim, config.steps)))
    checkpoints.close()
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), text_of(last["params"]), untrained(directory)
    )
    assert min(jax.tree.leaves(moved)) > 0
    scale = text_of(last["params"])["layers"][0]["ffn_norm"]["scale"][...]
    assert scale[OFF] == np.float32(1e-9)
    norms = [line["grad_norm"] for line in rundir.read_metrics(workdir) if "loss" in line]
    assert max(norms) < 100


def test_an_interrupted_run_goes_on_bit_by_bit(whole, tmp_path, monkeypatch):
    workdir, config = whole
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(distributed.Stop, "reached", lambda self, step: step == 33)
        train.train(config, tmp_path)
    assert ended.value.code == train.PREEMPTED
    train.train(config, tmp_path)
    assert_same_run(workdir, tmp_path)


def test_evaluate_and_predict_use_the_trained_network(whole, dataset):
    workdir, config = whole
    before = json.loads((workdir / "results.json").read_text())
    again = evaluate.evaluate(experiment.make(config), workdir, ["test"])
    assert again["test"] == before["test"]
    expected = np.load(workdir / "predictions" / "test.npz")["outputs"]
    extractor, read, _ = predict.open_run(workdir, [], None)
    texts = dataset.transcripts("test")
    read_by_predict = read([{"text": extractor.text(text)} for text in texts])
    ours = np.stack([reading.outputs for reading in read_by_predict])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def steps_of(config):
    """(losses, state) of three updates."""
    run, state = started(config)
    step = update.make_update(run, optim.make(config.optim, config.steps))
    losses = []
    for batch in loader.read(run.split("train", seed=0, steps=3)):
        state, values = step(state, sharding.put(batch, run.mesh))
        losses.append(float(values["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def expected(dataset):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return steps_of(tuned(dataset, **STEADY))[0]


STEADY = {"mesh.fsdp_min": 32, "optim.schedule": "constant", "optim.warmup": 0.0}


def test_a_sharded_text_network_learns_the_same(dataset, expected, one_device, monkeypatch):
    monkeypatch.setattr(sharding, "make_mesh", one_device)
    mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.model": 2}
    losses, state = steps_of(tuned(dataset, **STEADY, **mesh))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for tree in (state["params"], state["opt_state"]):
        for path, array in jax.tree.leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if "bert/layers" in name and "kernel" in name:
                assert array.addressable_shards[0].data.size * 4 == array.size, name
            elif "bert/words" in name:
                assert array.addressable_shards[0].data.size * 2 == array.size, name
    mesh = {"mesh.data": 2, "mesh.model": 4, "model.heads": 4}
    with pytest.raises(cli.UsageError, match=r"not divide the 2 of .*bert/layers/0/qkv"):
        started(tuned(dataset, **mesh))


def test_settings_that_reach_the_text_network(dataset, directory, expected):
    """Compute dtype, rematerialization, and a learning rate of its own."""
    changes = {"dtype": "bfloat16", "model.remat": "layers", "tune.lr_scale": 0.0}
    changed = tuned(dataset, **STEADY, **changes)
    losses, state = steps_of(changed)
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    jax.tree.map(np.testing.assert_array_equal, text_of(state["params"]), untrained(directory))
    run = experiment.make(changed)
    tx = optim.make(changed.optim, 1)
    batch = dryrun.batch_of(run, run.buckets[-1])
    program = str(update.make_update(run, tx).trace(update.like(run, tx), batch).jaxpr)
    assert re.search(r"bf16\[16,\d+,12\]", program)  # its feed-forward layer
    assert re.search(r"= (checkpoint|remat2?)\[", program)
    updates = {"bert": {"kernel": np.float32(4)}, "fusion": {"kernel": np.float32(8)}}
    assert tuning.scaled(updates, 0.5) == {"bert": {"kernel": 2}, "fusion": {"kernel": 8}}


def test_a_longer_text_is_cropped_and_keeps_its_end(dataset):
    run, _ = started(tuned(dataset, **{"data.max_frames.text": 6}))
    tokens = run.text.tokenizer()
    assert tokens("1 2 3 4 5 6 7").tolist() == [2, 6, 7, 8, 9, 3]
    assert tokens("1 2 3 4").tolist() == [2, 6, 7, 8, 9, 3]
    assert tokens(" ").tolist() == [] and run.buckets == [(6,)]


def test_operations_are_counted(dataset):
    run = experiment.make(tuned(dataset))
    model = nnx.merge(run.graphdef, run.abstract)
    lengths = np.array([[10]])
    text = flops.forward(model, lengths) - flops.forward(model.fusion, lengths)
    d, ffn, layers = 8, 12, 1
    assert text == 2 * layers * (10 * (4 * d * d + 2 * d * ffn) + 2 * 10 * 10 * d)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.mode": "published"}, "data.mode=published is of frozen features"),
        ({"data.mixup": 0.2}, "words cannot be mixed"),
        ({"modalities": "audio"}, "no text in audio"),
        ({"tune.text_encoder": "glove:x"}, "text=glove:x is not of the BERT family: minilm, bert"),
        ({"tune.text_encoder": "bert:nowhere"}, "nowhere: .*No such file.*tune.text_encoder=bert"),
    ],
    ids=str,
)
def test_mistakes(dataset, changes, message):
    with pytest.raises((cli.UsageError, builder.DataError), match=message) as error:
        started(tuned(dataset, **changes))
    assert "\n" not in str(error.value)


def test_another_checkpoint_is_refused(dataset, tmp_path):
    other = write_bert(tmp_path / "other")
    (other / "model.safetensors").write_bytes(
        safetensors(random_bert() | {"more": np.zeros(1, np.float32)})
    )
    config = tuned(dataset, **{"tune.text_encoder": f"bert:{other}"})
    with pytest.raises(cli.UsageError, match=r"text in .* is of bert \(model.*; bert:.*other is"):
        experiment.make(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"facts": {}}, "does not say which encoder made its text .*'bert'.*tune.text_encoder"),
        ({"transcript": ""}, "features of text but no transcript"),
    ],
)
def test_a_dataset_that_does_not_do(directory, tmp_path, changes, message):
    corpus = corpus_of(directory)
    if "transcript" in changes:
        changes = {"utterances": [dataclasses.replace(u, **changes) for u in corpus.utterances]}
    corpus = dataclasses.replace(corpus, **changes)
    builder.build(corpus, tmp_path / "d", dtype="float32", progress=False)
    with pytest.raises(cli.UsageError, match=message):
        experiment.make(tuned(Dataset.open(tmp_path / "d")))


def test_a_plan_without_data_is_refused(dataset):
    with pytest.raises(cli.UsageError, match="nowhere is not there to say which text encoder"):
        config = tuned(dataset)
        config.dataset = "nowhere"
        dryrun.plan(config, "v5e")


def test_roberta_places_are_those_of_extraction():
    """Counted from behind the padding's id, and padding in a batch does not move them."""
    config = bert.Config.read(CONFIG | {"model_type": "roberta", "pad_token_id": 1})
    ids = np.array([[0, 31, 5, 2], [0, 7, 2, 0]], np.int32)
    found = np.asarray(jax.jit(config.positions)(ids))
    for row, length in zip(range(2), (4, 3), strict=True):
        np.testing.assert_array_equal(found[row, :length], config.positions(ids[row, :length]))
