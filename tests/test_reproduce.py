"""Expected numbers, their verdicts, what explains a difference; the same run twice."""

import json
import pathlib
import shutil

import programs
import pytest
from programs import SMALL

from imat_jax import cli, compare, expected, reproduce, rundir
from imat_jax import config as configs
from imat_jax.reporting.runs import COLUMNS

ROOT = pathlib.Path(__file__).parents[1]

EXPERIMENT = """
from configs import tiny

EXPECTED = {expected!r}


def get_config(arg=""):
    c = tiny.get_config(arg)
    c.dataset = {dataset!r}
    c.update_from_flattened_dict({small!r})
    return c
"""


def write_experiment(folder, dataset, **changes):
    """configs/tiny.py in the size of tests, and its EXPECTED with `changes`."""
    values = {
        "build": ["--input=corpus.npz", "--protocol=mosi-sentiment"],
        "protocol": "synthetic-4way",
        "splits": {"train": 96, "valid": 40, "test": 50},
        "sources": {},
        "seeds": [0],
        "minutes": 0.1,
        "runs": {
            "modalities=text+audio": {
                "acc": {"mean": 0.4, "low": 0.0, "high": 1.0},
                "bacc": {"mean": 2.5, "low": 2.0, "high": 3.0},
            }
        },
        "notes": "None.",
        "environment": {"packages": {"jax": "0.0.1"}, "devices": ["cpu"]},
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.py"
    text = EXPERIMENT.format(expected=values, dataset=str(dataset), small=SMALL)
    path.write_text(text)
    return path


def start(verb, flags):
    return programs.run(verb, *flags).returncode


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_program_ends_with_status_1_where_a_number_is_not_as_expected(
    finished, tiny_dataset, tmp_path
):
    path = write_experiment(tmp_path / "experiments", tiny_dataset.path)
    shutil.copytree(finished[0], tmp_path / "out/small/modalities=text+audio/0")
    done = programs.run("reproduce", path, f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 1, done.stderr
    assert "bacc: " in done.stdout and "NOT AS EXPECTED" in done.stdout
    assert "measured with other than here: packages.jax: '0.0.1' -> " in done.stdout
    range_ = {"modalities=text+audio": {"acc": {"mean": 0.4, "low": 0.0, "high": 1.0}}}
    write_experiment(tmp_path / "experiments", tiny_dataset.path, runs=range_)
    done = programs.run("reproduce", path, f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 0 and "as expected" in done.stdout


def test_a_missing_and_a_wrong_dataset(tiny_dataset, tmp_path, in_root, monkeypatch):
    monkeypatch.delenv("IMAT_DATA", raising=False)
    one = expected.load(write_experiment(tmp_path, tmp_path / "nothing"))
    with pytest.raises(cli.UsageError, match=r"no dataset there, and no /corpus\.npz to build it"):
        reproduce.prepare(one, start)
    (tmp_path / "corpus.npz").touch()
    monkeypatch.setenv("IMAT_DATA", str(tmp_path))
    asked = []
    with pytest.raises(cli.UsageError, match="building it failed"):
        reproduce.prepare(one, lambda verb, flags: asked.append((verb, *flags)) or 1)
    assert asked == [
        ("build", f"--input={tmp_path}/corpus.npz", "--protocol=mosi-sentiment",
         f"--output={tmp_path / 'nothing'}")
    ]  # fmt: skip
    wrong = expected.load(write_experiment(tmp_path, tiny_dataset.path, splits={"train": 97}))
    with pytest.raises(cli.UsageError, match=r"with train 96, valid 40, test 50; .* with train 97"):
        reproduce.prepare(wrong, start)


def test_another_file_of_the_same_size_is_refused(tiny_dataset, tmp_path, in_root):
    path = write_experiment(tmp_path, tiny_dataset.path, sources={"corpus.npz": "00" * 32})
    with pytest.raises(cli.UsageError, match=r"made of no file; .* about corpus.npz \(0{12}\)"):
        reproduce.prepare(expected.load(path), start)


@pytest.mark.parametrize("file", ["config", "environment"])
def test_a_run_from_before_is_not_taken_for_this_one(
    finished, tiny_dataset, tmp_path, in_root, file
):
    one = expected.load(write_experiment(tmp_path, tiny_dataset.path))
    workdir = tmp_path / "out/small/modalities=text+audio/0"
    shutil.copytree(finished[0], workdir)
    changed = json.loads((workdir / f"{file}.json").read_text())
    changed |= {"epochs": 999} if file == "config" else {"code": "before"}
    rundir.write_json(workdir / f"{file}.json", changed)
    said = {"config": "epochs: 999", "environment": "version of the code: before"}[file]
    with pytest.raises(cli.UsageError, match=f"run from before, with other .*{said}"):
        reproduce.reproduce(one, tmp_path / "out", start)


def test_a_failed_run_is_said(tiny_dataset, tmp_path, in_root):
    one = expected.load(write_experiment(tmp_path, tiny_dataset.path))
    with pytest.raises(cli.UsageError, match="training failed; the same command goes on"):
        reproduce.reproduce(one, tmp_path / "out", lambda verb, flags: 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": {"": {"acc": {"mean": 0.5, "low": 0.6, "high": 0.7}}}}, "is no range"),
        ({"rusn": {}}, "not so rusn"),
    ],
)
def test_mistakes_in_what_is_expected(tmp_path, in_root, changes, message):
    with pytest.raises(cli.UsageError, match=message):
        expected.load(write_experiment(tmp_path, "data", **changes))


def test_a_config_that_expects_nothing(in_root):
    with pytest.raises(cli.UsageError, match=r"has no EXPECTED; mosi, ravdess, tiny have"):
        expected.load("sseft")


def test_results_md_is_what_the_configs_say(in_root):
    assert (ROOT / "docs/results.md").read_text() == expected.document(expected.load_all())


def test_every_expected_run_is_one_of_its_config(in_root):
    for one in expected.load_all():
        experiment = configs.load_file(one.path)
        for argument, metrics in one.runs.items():
            assert experiment.get_config(argument).dataset == one.dataset
            assert any(set(metrics) <= set(columns) for columns in COLUMNS.values())


def test_what_two_runs_differ_in(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "other")
    assert not any(compare.difference(finished[0], tmp_path / "other").values())
    edits = {
        "config": lambda d: d["optim"].update(lr=0.5),
        "environment": lambda d: d["packages"].update(jax="0.0.1"),
        "dataset": lambda d: d.update(sources={"a.npz": "1234"}),
        "results": lambda d: d["test"].update(acc=0.0, corr=float("nan")),
    }
    for name, edit in edits.items():
        path = tmp_path / "other" / f"{name}.json"
        values = json.loads(path.read_text())
        edit(values)
        rundir.write_json(path, values)
    found = compare.difference(finished[0], tmp_path / "other")
    assert found["config"] == ["optim.lr: 0.001 -> 0.5"]
    [environment] = found["environment"]
    assert environment.startswith("packages.jax: ") and environment.endswith("-> '0.0.1'")
    assert found["dataset"][-1].startswith("sources.a.npz: None -> ")
    assert any(line.startswith("test.acc: ") for line in found["results"])
    shutil.copytree(tmp_path / "other", tmp_path / "third")
    assert not any(compare.difference(tmp_path / "other", tmp_path / "third").values())  # nor nan
    done = programs.run("compare", finished[0], tmp_path / "other")
    assert done.returncode == 0 and "  optim.lr: 0.001 -> 0.5" in done.stdout
    done = programs.run("compare", finished[0], tmp_path)
    assert done.returncode == 1 and "is not a run directory" in done.stderr


def test_results_that_differ_for_no_recorded_reason(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "other")
    path = tmp_path / "other" / "results.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    done = programs.run("compare", finished[0], tmp_path / "other")
    assert "nothing recorded differs" in done.stdout
