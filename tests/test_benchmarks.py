"""The benchmarks as programs: what they refuse in one line, and what they do not do twice."""

import json
import pathlib
import runpy
import sys
import types

import attribution
import folds
import inner_folds
import linear
import missing
import numpy as np
import pytest

from imat_jax import config as configs
from imat_jax.analysis import attribution as attributions
from imat_jax.cli import UsageError
from imat_jax.data.sources import synthetic

ROOT = pathlib.Path(__file__).parents[1]
TINY = f"--config={ROOT}/configs/tiny.py"


def refused(name, argv, monkeypatch, capsys) -> str:
    """What the program says before it ends with status 1, after that nothing has been trained."""
    monkeypatch.setattr(missing.subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(sys, "argv", [name, *argv])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("attribution", ["--workdir=/nonexist"], "/nonexist is not a run directory"),
        ("linear", ["/nonexist"], "/nonexist: no dataset there"),
        ("linear", ["DATA", "face"], "has text+audio+vision, not 'face'"),
        ("missing", ["--dataset=/nonexist"], "/nonexist: no dataset there"),
        ("missing", ["--dataset=DATA", "--modalities=face"], "not 'face'"),
        ("missing", ["--dataset=DATA", "--modalities=audio+face"], "not 'face'"),
        ("missing", ["--dataset=DATA", "--metric=mae"], "--metric=mae: there are acc"),
        ("missing", ["--dataset=DATA", "--config=nothing.py"], "nothing.py: no such file"),
        ("missing", ["--dataset=DATA", f"{TINY}:x=1"], "unknown config argument 'x=1'"),
        ("missing", ["--dataset=DATA", "--override=epochs=4"], "take --config.KEY=VALUE"),
        ("missing", ["--dataset=DATA", "--override=--config.nix=4"], "no config key 'nix'"),
        ("missing", ["--dataset=DATA", "--override=--config.seed=4"], "--config.seed=…: this"),
    ],
)
def test_mistakes_are_one_line(name, argv, message, tiny_dataset, tmp_path, monkeypatch, capsys):
    argv = [item.replace("DATA", str(tiny_dataset.path)) for item in argv]
    if name == "missing":
        argv = [TINY, f"--workdir={tmp_path / 'runs'}", *argv]
    assert message in refused(name, argv, monkeypatch, capsys)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def archive(tmp_path):
    """Ten utterances of five videos, 1 to 3 frames each; the first video is the test split."""
    video = np.repeat(list("abcde"), [3, 1, 2, 2, 2])
    lengths = np.arange(10) % 3 + 1
    np.savez(
        tmp_path / "ten.npz",
        ids=np.array([f"u{i}" for i in range(10)]),
        video=video,
        split=np.where(video == "a", "test", "train"),
        label=np.arange(10, dtype=np.float32) / 10,
        audio=np.repeat(np.arange(10), lengths)[:, None].astype(np.float16),
        audio_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )
    return tmp_path / "ten.npz"


def test_inner_folds_leave_the_test_split_out(archive, tmp_path, monkeypatch):
    argv = ["inner_folds", f"--input={archive}", f"--output={tmp_path / 'out'}", "--folds=3"]
    monkeypatch.setattr(sys, "argv", argv)
    inner_folds.main()
    tested = []
    for k in (1, 2, 3):
        fold = np.load(tmp_path / "out" / f"{k}.npz")
        assert set(fold["ids"]) == {f"u{i}" for i in range(3, 10)} and "a" not in fold["video"]
        of = {name: set(fold["video"][fold["split"] == name]) for name in np.unique(fold["split"])}
        assert sorted(of) == ["test", "train", "valid"] and len(set.union(*of.values())) == sum(
            map(len, of.values())
        )
        tested += list(fold["ids"][fold["split"] == "test"])
        starts = fold["audio_offsets"]
        for row, name in enumerate(fold["ids"]):
            frames = fold["audio"][starts[row] : starts[row + 1], 0]
            number = int(name[1:])
            np.testing.assert_array_equal(frames, np.full(number % 3 + 1, number))
            assert fold["label"][row] == np.float32(number / 10)
    assert sorted(tested) == [f"u{i}" for i in range(3, 10)]


@pytest.mark.parametrize("name", [b"test", "Test", "testing", "tst"])
def test_inner_folds_know_the_fields_names_of_test(archive, tmp_path, name, monkeypatch):
    arrays = dict(np.load(archive))
    other = b"train" if isinstance(name, bytes) else "train"
    split = np.asarray([name if s == "test" else other for s in arrays["split"]])
    np.savez(archive, **arrays | {"split": split})
    argv = ["inner_folds", f"--input={archive}", f"--output={tmp_path / 'out'}", "--folds=3"]
    monkeypatch.setattr(sys, "argv", argv)
    inner_folds.main()
    assert len(np.load(tmp_path / "out" / "1.npz")["ids"]) == 7


def test_inner_folds_of_an_archive_without_test_are_refused(archive, tmp_path, monkeypatch, capsys):
    np.savez(archive, **dict(np.load(archive)) | {"split": np.full(10, "all")})
    argv = [f"--input={archive}", f"--output={tmp_path / 'out'}"]
    assert "no split is test, but all" in refused("inner_folds", argv, monkeypatch, capsys)


def test_a_class_that_training_lacks_keeps_its_place():
    x, label = np.asarray([[0.0], [1.0]]), np.asarray([0, 2])
    model = linear.LogisticRegression().fit(x, label)
    got = linear.of_all(model, x, 3)
    assert got.shape == (2, 3) and not got[:, 1].any()
    np.testing.assert_array_equal(got.argmax(axis=1), label)


def test_folds_of_what_is_no_sweep(tmp_path):
    with pytest.raises(SystemExit, match="is not the directory of a sweep"):
        folds.chosen(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--folds=2"], "--folds=2: take 3 or more"),
        (["--folds=5"], "--folds=5: there are 4 groups outside the test split"),
        (["--group=speaker"], "has no array 'speaker', it has ids, video"),
        (["--input=/nonexist.npz"], "/nonexist.npz: not a readable .npz archive: [Errno 2]"),
        ([f"--input={__file__}"], "test_benchmarks.py: not a readable .npz archive: "),
    ],
)
def test_inner_folds_refuse(archive, tmp_path, flags, message, monkeypatch, capsys):
    argv = [f"--input={archive}", f"--output={tmp_path / 'out'}", *flags]
    assert message in refused("inner_folds", argv, monkeypatch, capsys)
    assert not (tmp_path / "out").exists()


def test_a_linear_row_is_of_classes_or_sentiment():
    for task in ("multilabel", "binary_pairs", "dimensions"):
        dataset = types.SimpleNamespace(path="data/x", metadata={"task": task}, dims={"text": 4})
        with pytest.raises(UsageError, match=f"^data/x: .*not for the task {task}$"):
            linear.fit(dataset, ["text"])


def test_events_are_known_of_the_embedded_corpus_alone(finished, monkeypatch, capsys):
    monkeypatch.setattr(attributions, "attribute", lambda *_: pytest.fail("worked first"))
    made = synthetic.sequence

    def other(*args):
        frames, event = made(*args)
        return frames + np.float32(1), event

    monkeypatch.setattr(synthetic, "sequence", other)
    said = refused("attribution", [f"--workdir={finished[0]}"], monkeypatch, capsys)
    assert "is not the embedded corpus" in said
    for metadata in ({"protocol": "mosi-sentiment", "facts": {}},
                     {"protocol": attribution.PROTOCOL, "facts": {}}):  # fmt: skip
        dataset = types.SimpleNamespace(metadata=metadata)
        run = types.SimpleNamespace(dataset=dataset, config=types.SimpleNamespace(dataset="data/x"))
        with pytest.raises(UsageError, match=r"^data/x is not the embedded corpus$"):
            attribution.events(run, "test", [0])


def test_what_is_trained_is_not_trained_again_and_nothing_else_is_taken_for_it(
    tiny_dataset, tmp_path, monkeypatch, capsys
):
    trained = []

    def train(command, **_):
        flags = dict(item.removeprefix("--").partition("=")[::2] for item in command[3:])
        workdir = pathlib.Path(flags.pop("workdir"))
        values = {k.removeprefix("config."): v for k, v in flags.items() if k.startswith("config.")}
        config = configs.override(missing.base(flags["config"], []), values)
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(config.to_dict()))
        (workdir / "environment.json").write_text(json.dumps({"dataset": tiny_dataset.fingerprint}))
        (workdir / "results.json").write_text(json.dumps({"test": {"acc": 0.4, "bacc": 0.3}}))
        trained.append((workdir.name, config.modalities, config.model.modality_dropout))
        return types.SimpleNamespace(returncode=0)

    scores = {"text": 0.5, "audio": 0.5, "text+audio": 0.5}
    monkeypatch.setattr(missing.subprocess, "run", train)
    monkeypatch.setattr(missing, "with_less", lambda workdir, metric: scores)
    base = [TINY, f"--dataset={tiny_dataset.path}", f"--workdir={tmp_path}",
            "--modalities=text+audio", "--override=--config.epochs=4"]  # fmt: skip

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["missing", *base, *argv])
        missing.main()
        return capsys.readouterr().out

    said = call()
    assert trained == [
        ("dropout", "text+audio", 0.3),
        ("text+audio", "text+audio", 0.0), ("audio", "audio", 0.0), ("text", "text", 0.0),
    ]  # fmt: skip
    best = tiny_dataset.metadata["facts"]["bayes_accuracy_on_split"]["test"]
    assert f"{best['audio']:.3f}" in said and "worst gap: +0.100" in said
    # The same again trains nothing; a known accuracy says nothing about another metric.
    assert len(trained) == 4 and call() == said and len(trained) == 4
    *_, line = [line for line in call("--metric=bacc").splitlines() if line.startswith("audio")]
    assert line.endswith("–") and len(trained) == 4
    # Anything else is refused before anything is trained.
    for argv, changed in (
        (["--override=--config.optim.lr=0.5"], "dropout holds a run .* optim.lr: 0.001 -> 0.5"),
        (["--dropout=0.5"], r"dropout holds a run .* model.modality_dropout: 0.3 -> 0.5\. Take"),
        (
            ["--override=--config.epochs=8", "--seeds", "1", "0"],
            "0/dropout holds .* epochs: 4 -> 8",
        ),
    ):
        with pytest.raises(UsageError, match=changed):
            call(*argv)
    (tmp_path / "0" / "audio" / "environment.json").write_text('{"dataset": "0123456789ab"}')
    with pytest.raises(UsageError, match=r"is not the dataset that .*audio learned from"):
        call()
    assert len(trained) == 4
    # One that failed or was stopped is gone on with.
    (tmp_path / "0" / "audio" / "environment.json").write_text(
        (tmp_path / "0" / "text" / "environment.json").read_text()
    )
    (tmp_path / "0" / "audio" / "results.json").unlink()
    monkeypatch.setattr(
        missing.subprocess, "run", lambda *_, **__: types.SimpleNamespace(returncode=1)
    )
    with pytest.raises(SystemExit, match=r"audio failed; see .*audio\.log"):
        call()
