"""An experiment run again: its verdict, and the same bits as the run before it."""

import json
import pathlib

from test_reproduce import in_root, start, write_experiment  # noqa: F401
from test_train import assert_same_run

from imat_jax import config as configs
from imat_jax import expected, reproduce


def test_an_experiment_run_again_is_judged_and_has_the_same_bits(
    finished,
    tiny_dataset,
    tmp_path,
    in_root,  # noqa: F811
):
    one = expected.load(write_experiment(tmp_path / "experiments", tiny_dataset.path))
    verdicts, changed = reproduce.reproduce(one, tmp_path / "out", start)
    acc, bacc = verdicts
    assert acc.holds and str(acc).endswith("as expected")
    assert not bacc.holds and str(bacc).endswith("2.000 to 3.000 expected, 2.500 measured: NOT AS EXPECTED")  # fmt: skip  # noqa: E501
    assert len(changed) == 1 and changed[0].startswith("packages.jax: '0.0.1' -> ")

    folder = tmp_path / "out" / "small"
    run = folder / "modalities=text+audio" / "0"
    kept = json.loads((folder / "verdict.json").read_text())
    assert [v["holds"] for v in kept["verdicts"]] == [True, False]
    assert (
        kept["verdicts"][0]["mean"] == json.loads((run / "results.json").read_text())["test"]["acc"]
    )
    assert pathlib.Path(kept["report"]).read_text().startswith("<!doctype html>")

    # The same config, seed and devices, in another process and another directory.
    assert configs.load(run).to_dict() == configs.load(finished[0]).to_dict()
    assert_same_run(run, finished[0])

    def nothing_to_do(verb, flags):
        raise AssertionError((verb, flags))

    assert reproduce.reproduce(one, tmp_path / "out", nothing_to_do) == (verdicts, changed)
