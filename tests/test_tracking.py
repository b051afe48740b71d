"""Reports to others' trackers: offline, and where they are not installed."""

import sys
import types

import pytest
from programs import SMALL

from configs import common
from imat_jax import cli, rundir, tracking, train
from imat_jax.data.corpus import DataError

RESULTS = {"valid": {"acc": 0.5}, "protocol": "p", "selected": {"step": 3}}


def report(name, workdir):
    """A run that was killed after update 2 and started again from update 1."""
    for first, last in ((0, 2), (1, 3)):
        workdir.mkdir(exist_ok=True)
        trackers = tracking.start([name], workdir, common.get_config())
        writer = rundir.MetricWriter(workdir, first, trackers)
        for step in range(first + 1, last + 1):
            writer.write(step, {"loss": 1 / step})
        writer.close()
    [tracker] = trackers
    tracker.finish(RESULTS)


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_tracker_that_is_not_installed_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(cli.UsageError, match=rf"{name} is needed.*imat_jax\[tracking\]"):
        tracking.start([name], tmp_path, common.get_config())


def test_a_tracker_gets_what_the_files_get(tmp_path):
    class Heard:
        lines: tuple = ()

        def write(self, step, values):
            self.lines += ({"step": step} | values,)

    heard = Heard()
    writer = rundir.MetricWriter(tmp_path, 0, [heard])
    writer.write(1, {"loss": 0.5, "grad_norm": 2})
    writer.write(2, {"valid/acc": 0.25})
    writer.close()
    assert list(heard.lines) == rundir.read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("error", "failed"), [(train.Pruned(), False), (SystemExit(143), False), (DataError("x"), True)]
)
def test_a_run_without_results_is_ended(tiny_dataset, tmp_path, monkeypatch, error, failed):
    heard = []

    class Tracker:
        def __init__(self, workdir, config):
            pass

        def stop(self, failed):
            heard.append(failed)

    class Broken(Tracker):
        def stop(self, *_):
            raise ConnectionError("no answer")

        write = stop

    def validate(*_):
        raise error

    monkeypatch.setitem(tracking.TRACKERS, "broken", Broken)
    monkeypatch.setitem(tracking.TRACKERS, "other", Tracker)
    monkeypatch.setattr(train, "validate", validate)
    config = common.get_config()
    config.dataset = str(tiny_dataset.path)
    config.update_from_flattened_dict(SMALL)
    with pytest.raises(type(error)):
        train.train(config, tmp_path, track=["broken", "other"])
    assert heard == [failed]


def test_mlflow_is_told_how_a_run_ended(tmp_path, monkeypatch):
    told = []

    class Client:
        def __getattr__(self, name):
            return lambda *a, **kw: told.append((name, *a, *kw.values()))

    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client))
    (tmp_path / "mlflow_id").write_text("7")
    tracker = tracking.MLflow(tmp_path, common.get_config())
    tracker.stop(failed=True), tracker.stop(failed=False)
    assert told[1:] == [("set_terminated", "7", "FAILED"), ("set_terminated", "7", "KILLED")]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_run_as_one(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="opt-in: pip install 'imat_jax[tracking]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    report("mlflow", tmp_path / "run")
    client = mlflow.MlflowClient()
    [run] = client.search_runs(["0"])
    assert run.info.status == "FINISHED" and run.data.params["optim.lr"] == "0.001"
    assert run.data.metrics["results/valid/acc"] == 0.5
    losses = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert losses == {1: 1.0, 2: 0.5, 3: 1 / 3}


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_the_run_under_one_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="opt-in: pip install 'imat_jax[tracking]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    report("wandb", tmp_path / "run")
    identifier = (tmp_path / "run" / "wandb_id").read_text()
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{identifier}.wandb"))
    assert files
    content = b"".join(file.read_bytes() for file in files)
    assert b"loss" in content and b"valid/acc" in content and b"optim" in content
