"""Reports: rows, evidence, links, warnings, and the page in a browser."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil

import numpy as np
import programs
import pytest
from programs import SMALL

from configs import common
from imat_jax import cli, plots, report, rundir, tasks
from imat_jax.data.corpus import DataError
from imat_jax.reporting import evidence, literature, page, runs, tables
from imat_jax.reporting.evidence import Cell

NAN = float("nan")


def make_run(workdir, dataset, seed=0, signal=1.0, finished=True, **changes):
    """A run directory whose predictions were made up: label plus noise, better by `signal`."""
    config = common.get_config()
    config.dataset = str(dataset.path)
    config.update_from_flattened_dict(SMALL | {"seed": seed} | changes)
    rundir.start(workdir, config, dataset)
    if not finished:
        return
    task = tasks.make("multiclass", dataset.metadata["class_names"])
    rng = np.random.default_rng([seed, int(100 * signal)])
    results = {
        "protocol": "p", "dataset": dataset.fingerprint, "parameters": 9, "seed": seed,
        "modalities": config.modalities.split("+"), "trivial": {},
    }  # fmt: skip
    (workdir / "predictions").mkdir()
    for split in ("valid", "test"):
        index = dataset.index(split)
        outputs = rng.normal(size=(len(index["id"]), 4)) + signal * np.eye(4)[index["label"]]
        results[split] = {"examples": len(outputs)} | task.score(index["label"], outputs)
        constant = tasks.trivial_outputs(task, dataset.index("train")["label"], len(outputs))
        results["trivial"][split] = task.score(index["label"], constant)
        named = {name: index[name] for name in ("id", "group", "label")}
        np.savez(workdir / "predictions" / f"{split}.npz", **named, outputs=outputs)
    plots.predictions(task, index["label"], outputs, workdir / "plots" / "test.png", "test")
    results["selected"] = {"step": 3, "metric": "acc", "valid": results["valid"]["acc"]}
    rundir.write_json(workdir / "results.json", results)


@pytest.fixture(scope="session")
def made(shared, tiny_dataset):
    """text+audio far better than text, three seeds each; one more not finished, two of a sweep."""

    def make(folder):
        for seed in range(3):
            make_run(folder / f"both/{seed}", tiny_dataset, seed, 2.0)
            make_run(folder / f"text/{seed}", tiny_dataset, seed, 0.5, modalities="text")
        make_run(folder / "both/3", tiny_dataset, 3, finished=False)
        (folder / "sweep.json").write_text(
            '{"configurations_tried": 2, "runs_with_test_scores": 6, "runs": {"finished": 6}}'
        )
        (folder / "runs/x").mkdir(parents=True)
        (folder / "runs/x/job.json").write_text(
            '{"status": "failed", "error": "<OOM> 17", "attempts": 1, "overrides": {}, '
            '"code": "c", "content": "x", "group": "x"}'
        )

    return shared("report_runs", make)


@pytest.fixture(scope="session")
def weighed(made):
    found = runs.collect([str(made)])
    return found, [evidence.weigh(table) for table in runs.tables(found.runs, "test")]


def test_mean_and_deviation_over_seeds(tmp_path, tiny_dataset):
    for seed, acc in enumerate((0.5, 0.7)):
        make_run(tmp_path / str(seed), tiny_dataset, seed, finished=False)
        scores = {"examples": 50, "acc": acc, "bacc": acc, "wf1": acc, "macro_f1": acc}
        rundir.write_json(
            tmp_path / str(seed) / "results.json",
            {"protocol": "p", "dataset": "d", "modalities": ["text"], "parameters": 9, "seed": seed,
             "test": scores, "trivial": {"test": scores | {"acc": 0.25}}},
        )  # fmt: skip
    make_run(tmp_path / "2", tiny_dataset, 2, finished=False)
    shutil.copytree(tmp_path / "1", tmp_path / "again")
    found = runs.collect([str(tmp_path)])
    [table] = runs.tables(found.runs, "test")
    text = tables.markdown([evidence.weigh(table)], found)
    assert "| imat text | 9 | 2 | 0.600 ± 0.141 |" in text  # sample deviation, no run twice
    assert "| best constant answer | | | 0.250 |" in text
    assert found.unfinished == (tmp_path / "2",)
    assert "not finished" in text and str(tmp_path / "2") in text
    assert "no predictions on test" in text and "seed 1 of this config is there twice" in text


def test_what_does_not_count_is_listed(tmp_path, tiny_dataset):
    for name, seed, width in (("a/0", 0, 8), ("a/1", 1, 8), ("b/0", 0, 16), ("s/runs/x-1", 2, 8),
                              ("s/runs/y-1", 3, 8), ("s/runs/y-2", 3, 8)):  # fmt: skip
        make_run(tmp_path / name, tiny_dataset, seed, **{"model.width": width})
    only_valid = json.loads((tmp_path / "b/0/results.json").read_text())
    del only_valid["test"]
    rundir.write_json(tmp_path / "b/0/results.json", only_valid)
    job = {"content": "c", "group": "g", "attempts": 1, "overrides": {}, "seconds": 1.0}
    for name, status, code in (("x-1", "failed", "old"), ("y-1", "finished", "old"),
                               ("y-2", "finished", rundir.code_version())):  # fmt: skip
        facts = job | {"status": status, "code": code, "content": name[0], "group": name[0]}
        rundir.write_json(tmp_path / "s/runs" / name / "job.json", facts)
    rundir.write_json(tmp_path / "s/sweep.json", {})
    found = runs.collect([str(tmp_path)])
    assert set(found.failed) == {tmp_path / "s/runs/x-1"}
    assert found.replaced == (tmp_path / "s/runs/y-1",)
    [table] = runs.tables(found.runs, "test")
    [row] = table.rows
    assert [run.workdir.name for run in row.runs] == ["0", "1", "y-2"]
    text = tables.markdown([evidence.weigh(table)], found)
    assert f"not scored on test, and so in no row: 1 of the runs, {tmp_path}" in text
    assert f"another version of the code than the runs that count: {found.replaced[0]}" in text


def test_names_that_mean_something_to_latex():
    name = tables._escape(r"a_b 5% {x} ~/y ^2 \z")
    assert name == (r"a\_b 5\% \{x\} \textasciitilde{}/y \textasciicircum{}2 \textbackslash{}z")


def test_evidence_of_two_models(weighed):
    _, [one] = weighed
    assert one.baseline.name == "imat text+audio"  # best on validation
    [c] = one.comparisons
    worse, best = (one.cells[f"imat {m}"]["acc"] for m in ("text", "text+audio"))
    assert c.difference == pytest.approx(worse.mean - best.mean)
    assert c.low < c.difference < c.high < 0 and c.verdict == "worse"
    assert c.p == c.holm < 0.01 and c.p_runs == pytest.approx(0.1) and c.pairs == 3
    for cell in (worse, best):
        assert cell.low < cell.mean < cell.high
    assert 0 < c.detectable < abs(c.difference) and one.detectable == c.detectable
    assert one.units == 50 and one.groups == len(
        np.unique(one.table.first.predictions("test")["group"])
    )
    error = one.variance["imat text"].error
    assert error == pytest.approx((worse.high - worse.low) / 4, rel=0.5)  # both near 2 errors


def test_utterances_are_matched_by_their_ids(made, tmp_path, weighed):
    shutil.copytree(made, tmp_path / "runs")
    path = tmp_path / "runs/text/1/predictions/test.npz"
    kept = dict(np.load(path))
    order = np.random.default_rng(0).permutation(50)
    np.savez(path, **{name: x[order] for name, x in kept.items()})
    [table] = runs.tables(runs.collect([str(tmp_path / "runs")]).runs, "test")
    [expected] = weighed[1]
    assert evidence.weigh(table).comparisons[0].p == expected.comparisons[0].p
    np.savez(path, **kept | {"id": np.char.add(kept["id"], "x")})
    with pytest.raises(DataError, match="predictions are of other utterances"):
        evidence.weigh(table)


def test_groups_baselines_and_metrics(weighed):
    table = weighed[1][0].table
    one = evidence.weigh(table, unit="group", baseline="imat text", metrics=("acc", "wf1"))
    assert one.units == one.groups and one.baseline.name == "imat text"
    assert [c.metric for c in one.comparisons] == ["acc", "wf1"]
    # All exchanges of G groups but two make the difference smaller: p is 2 of 2^G at best.
    for c in one.comparisons:
        assert c.difference > 0 and c.p == pytest.approx(2 / 2**one.groups, rel=0.15)
        assert c.holm >= c.p
    for mistake, message in (
        ({"baseline": "imat"}, "is 2 rows"),
        ({"baseline": "mult"}, "is 0 rows of p: imat text; imat text"),
        ({"metrics": ("mae",)}, "p has acc, bacc"),
        ({"unit": "speaker"}, '"utterance" or "group"'),
    ):
        with pytest.raises(cli.UsageError, match=message):
            evidence.weigh(table, **mistake)


def test_a_split_without_results_and_a_folder_without_runs(weighed, tmp_path):
    with pytest.raises(cli.UsageError, match="no results on 'tset'"):
        runs.tables(weighed[0].runs, "tset")
    with pytest.raises(cli.UsageError, match="no run directory there"):
        runs.collect([str(tmp_path)])


def test_what_a_sweep_records(weighed, made):
    found, _ = weighed
    assert found.failed == {made / "runs/x": "<OOM> 17"}
    # Not what sweep.json says: it is counted anew.
    assert tables.tried(found) == f"1 in {made}, 0 runs of them scored on test"
    assert tables.tried(runs.collect([str(made / "text")])) == tables.tried(found)  # by its parent


def test_runs_not_scored_on_the_split_are_named(weighed):
    _, [one] = weighed
    [text] = [row.runs for row in one.table.rows if row.name == "imat text"]
    left = dataclasses.replace(
        text[2], results={k: v for k, v in text[2].results.items() if k != "test"}
    )
    [table] = runs.tables([*text[:2], left], "test")
    assert table.unscored == (left,) and table.rows[0].seeds == (0, 1)
    assert any("seed 2 is not scored on test" in w for w in evidence.weigh(table).warnings)


@pytest.mark.parametrize(
    ("cell", "metric", "ceiling", "best", "said"),
    [
        (Cell((0.95,), 0.94, 0.96), "acc", 0.93, None, "acc 0.930"),
        (Cell((0.95,), 0.92, 0.97), "acc", 0.93, None, None),  # above, by no more than chance
        (Cell((0.9787,), 0.974, 0.982), "acc7", None, (0.563, "CENET"), "acc7 0.563, CENET"),
        (Cell((0.106,), 0.1, 0.11), "mae", None, (0.526, "CENET"), "mae 0.526, CENET"),
        (Cell((0.53,), 0.51, 0.55), "mae", None, (0.526, "CENET"), None),
        (Cell((0.106,), NAN, NAN), "mae", None, (0.526, "CENET"), "mae 0.526, CENET"),
        (Cell((1.0, 1.0), 1.0, 1.0), "wf1", None, None, "Perfect"),
        (Cell((0.0,), 0.0, 0.0), "mae", None, None, "Perfect"),
    ],
)
def test_what_is_too_good(cell, metric, ceiling, best, said):
    found = evidence.too_good(cell, metric, ceiling, best)
    assert len(found) == (said is not None)
    assert all(said in f"{why}: {detail}" for why, detail in found.items())


def test_published_numbers_stand_beside_the_same_protocol_only():
    mosi = literature.systems("mosi-sentiment", 686)
    assert literature.best(mosi, "mae")[0] == 0.708
    assert literature.best(mosi, "corr") == (0.798, "TETFN (MMSA)")
    assert literature.systems("mosi-sentiment", 190) == []
    assert literature.best(literature.systems("meld-7way", 2610), "mae") is None
    with literature.FILE.open(newline="") as file:
        for line in csv.DictReader(file):
            assert line["source"] and line["url"].startswith("https://")
            assert line["protocol"] in ("mosi-sentiment", "mosei-sentiment", "meld-7way")


def test_every_form_is_written_and_every_link_leads_to_runs(weighed, tmp_path):
    found, one = weighed
    report.write(found, one, tmp_path / "out")
    text = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(text) == {"report.md", "report.tex", "report.csv", "runs.csv", "report.html"}
    html = re.findall(r'href="(?!#|data:|https:)([^"]+)"', text["report.html"])
    markdown = re.findall(r"\]\((?!https:)([^)]+)\)", text["report.md"])
    latex = re.findall(r"\\href{(?!https:)([^}]+)}", text["report.tex"])
    with (tmp_path / "out/runs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for links in (html, markdown, latex, [line["run"] for line in lines]):
        assert len(links) >= 8
        for link in links:
            assert list((tmp_path / "out" / link).rglob("results.json")), link
    for name in re.findall(r'href="#([^"]+)"', text["report.html"]):
        assert f'id="{name}"' in text["report.html"]
    assert "&lt;OOM&gt;" in text["report.html"] and "<OOM>" not in text["report.html"]
    table = one[0].table
    for line in lines:
        [row] = [r for r in table.rows if r.name == line["model"]]
        run = row.runs[row.seeds.index(int(line["seed"]))]
        assert float(line["value"]) == run.results["test"][line["metric"]]
    with (tmp_path / "out/report.csv").open(newline="") as file:
        [line] = [x for x in csv.DictReader(file) if x["p"]]
    assert float(line["p_holm"]) == one[0].comparisons[0].holm and line["model"] == "imat text"
    assert text["report.tex"].count("&") % text["report.tex"].count(r"\\") == 0  # equal columns
    assert "*" in text["report.tex"]


def test_the_program_prints_and_writes(made, tmp_path):
    done = programs.run("report", made, f"--output={tmp_path / 'new' / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "| imat text+audio | 9 | 3 |" in done.stdout
    assert "configurations tried: 1 in" in done.stdout  # sweep.json says 2, and is not asked
    assert (tmp_path / "new" / "out" / "report.html").is_file()
    done = programs.run("report", made, "--baseline=mult")
    assert done.returncode == 1 and "--baseline=mult is 0 rows" in done.stderr


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextlib.contextmanager
def opened(path, width, scheme):
    """The page in headless Chromium, and what it asked for and complained of."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'imat_jax[check]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(pathlib.Path(path).as_uri())
        yield tab, said, asked
        browser.close()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here; apt-get install chromium, or $CHROMIUM")
@pytest.mark.parametrize(("width", "scheme", "count"), [(1280, "light", 2), (390, "dark", 1)])
def test_the_page_in_a_browser(weighed, tmp_path, width, scheme, count):
    found, one = weighed
    path = report.write(found, count * one, tmp_path)  # of so many corpora
    with opened(path, width, scheme) as (tab, said, asked):
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        images = tab.evaluate(
            "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        )
        assert len(images) == 2 * count and min(images) > 100  # test.png of either model
        # Nothing but the file itself, and nothing wider than the screen.
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert said == []
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        boxes = tab.evaluate(
            "[...document.querySelectorAll('main > section, .forest svg, table')].map(e => "
            "{const b = e.getBoundingClientRect(); return [b.width, b.height]})"
        )
        assert len(boxes) > 8 and all(w > 100 and h > 10 for w, h in boxes)
        bars = tab.evaluate("[...document.querySelectorAll('.bar')].map(e => e.getBBox().width)")
        assert len(bars) == 2 * count and min(bars) > 5
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 384) == (scheme == "light")
        # By keyboard: the first stop leads past the head; tables that scroll can be reached.
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        unnamed = tab.evaluate(
            "[...document.querySelectorAll('[role=img], [role=region], img')]"
            ".filter(e => !(e.getAttribute('aria-label') || e.alt)).length"
        )
        assert unnamed == 0
        assert tab.locator("h1").count() == 1
        # A value leads to its runs.
        tab.locator("main table a").first.click()
        assert tab.evaluate("document.querySelector('tbody:target').id") == "r0-0"
        tab.locator("main table a[href^='#r']").last.click()
        assert tab.evaluate("document.querySelector('tbody:target').id") == f"r{count - 1}-1"


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_has_its_page_and_tables(tmp_path, task):
    names = () if task == "sentiment" else ("joy", "fear")
    made = tasks.make(task, names)
    rng = np.random.default_rng(0)
    label = {
        "sentiment": rng.integers(-3, 4, 40).astype(np.float32),
        "multiclass": rng.integers(2, size=40),
        "dimensions": rng.normal(size=(40, 2)).astype(np.float32),
    }.get(task, rng.integers(2, size=(40, 2)))
    found = []
    for seed in range(2):
        outputs = rng.normal(size=(40, made.outputs)).astype(np.float32)
        config = {"seed": seed, "model": {"name": "imat"}, "task": {"threshold": -1.0}}
        scores = {"examples": 40} | made.score(label, outputs)
        results = {"protocol": task, "dataset": "d", "modalities": ["text"], "parameters": 1,
                   "test": scores, "trivial": {"test": scores}}  # fmt: skip
        run = runs.Run(tmp_path / str(seed), config, {"task": task, "class_names": names}, results)
        (run.workdir / "predictions").mkdir(parents=True)
        ids = [f"u{i}" for i in range(40)]
        np.savez(run.workdir / "predictions/test.npz", id=ids, label=label, outputs=outputs)
        found.append(run)
    [table] = runs.tables(found, "test")
    one = evidence.weigh(table)
    for metric in table.columns:
        assert one.cells["imat text"][metric].low < one.cells["imat text"][metric].high
    nothing = runs.Found(tuple(found), (), (), {}, {})
    text = page.render([one], nothing, tmp_path)
    assert f'id="h0">{task}<' in text and ("By class" in text) == (task != "sentiment")
    assert ("joy" in text) == (task != "sentiment") and "nan" not in text
    assert f"**{task}**" in tables.markdown([one], nothing, tmp_path)


def test_what_a_page_holds_is_escaped(weighed):
    found, [one] = weighed
    text = page.render([one], found, pathlib.Path("/tmp"))
    assert text.count("<table") == text.count("</table>") and "http-equiv" not in text
    assert "<script" not in text and "@import" not in text and "url(" not in text
