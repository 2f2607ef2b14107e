"""``bncli sweep`` as a user runs it: trials as checkpoints, a summary, continuing, and two processes on one study."""

import html
import json
import subprocess
import sys

import pytest

from bncli import checkpoint
from bncli.config.sweep_file import read_sweep_file
from cli.conftest import document, invoke, succeed

pytest.importorskip("optuna")

from bncli.jobs.sweep import sweep as jobs_sweep

FILE = """
[sweep]
sampler = "grid"

[model]
name = "mlp"
args = { features = [8] }

[training]
epochs = 2

[space.optimizer]
learning_rate = [0.05, 0.2]
"""


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


def test_each_trial_is_a_checkpoint_and_the_best_one_is_named(written, tmp_path):
    out = tmp_path / "study"
    found = document("sweep", written, "--out", out, "--quiet")
    assert [trial["state"] for trial in found["trials"]] == ["complete", "complete"]
    assert found["done_here"] == [0, 1]
    best = max(found["trials"], key=lambda trial: trial["value"])
    assert found["best"] == best
    for trial in found["trials"]:
        path = out / f"trial-{trial['number']:04d}"
        assert trial["checkpoint"] == str(path)
        config = checkpoint.read_config(path)
        assert config.run.optimizer.learning_rate == trial["params"]["optimizer.learning_rate"]
        assert config.run.model.args == {"features": [8]}
        scored = document("eval", path, "--split", "val", "--quiet")
        assert scored["accuracy"] == pytest.approx(trial["value"])
    page = (out / "summary.html").read_text(encoding="utf-8")
    assert "val_accuracy against optimizer.learning_rate" in page
    assert "default-src 'none'" in html.unescape(page)
    again = succeed("sweep", written, "--out", out, "--quiet")
    assert "2 trials: 2 complete; 0 by this process" in again
    assert f"best: trial {best['number']}" in again


class KilledError(BaseException):
    """An error that no code expects, which ends the process."""


def kill(trial, epoch, epochs):
    raise KilledError


def test_a_trial_that_was_interrupted_is_resumed_to_the_same_bytes(written, tmp_path):
    file = read_sweep_file(written)
    with pytest.raises(KilledError):
        jobs_sweep(file, tmp_path / "killed", on_epoch=kill)
    resumed = jobs_sweep(file, tmp_path / "killed")
    whole = jobs_sweep(file, tmp_path / "whole")
    assert [(row.state, row.value) for row in resumed.trials] == [(row.state, row.value) for row in whole.trials]
    hashes = [
        checkpoint.sha256_tree(checkpoint.load_variables(path, checkpoint.find_step(path, "last")))
        for path in (tmp_path / "killed" / "trial-0000", tmp_path / "whole" / "trial-0000")
    ]
    assert hashes[0] == hashes[1]


def test_a_trial_that_diverges_is_counted_as_failed_and_the_others_go_on(written, tmp_path):
    written.write_text(FILE.replace("[0.05, 0.2]", "[1e30, 0.2]"))
    found = document("sweep", written, "--out", tmp_path / "study", "--quiet")
    assert [trial["state"] for trial in found["trials"]] == ["failed", "complete"]
    assert "not finite" in found["trials"][0]["reason"]
    assert found["best"]["number"] == 1


def test_settings_that_no_trial_can_have_end_the_sweep_with_their_error(written, tmp_path):
    written.write_text(FILE.replace("[0.05, 0.2]", "[0.1, 0.2, 0.3, 0.4]").replace("[8]", "'many'"))
    result = invoke("sweep", written, "--out", tmp_path / "study", "--quiet")
    assert result.exit_code == 2
    assert "features=many" in result.stderr


def test_a_mistake_in_the_file_is_named_before_anything_is_read(written):
    written.write_text(FILE.replace("learning_rate", "learning_rat"))
    result = invoke("sweep", written)
    assert result.exit_code == 1
    assert (
        "line 13: no setting is called optimizer.learning_rat; did you mean optimizer.learning_rate?" in result.stderr
    )


@pytest.mark.slow
def test_two_processes_share_the_trials_of_one_study(written, tmp_path):
    written.write_text(FILE.replace("[0.05, 0.2]", "[0.05, 0.1, 0.2, 0.3, 0.4, 0.5]"))
    words = [
        sys.executable,
        "-m",
        "bncli",
        "sweep",
        str(written),
        "--out",
        str(tmp_path / "study"),
        "--json",
        "--quiet",
    ]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(process.communicate(timeout=500)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(number for each in found for number in each["done_here"]) == list(range(6))
    assert all(each["done_here"] for each in found)
    last = document("sweep", written, "--out", tmp_path / "study", "--quiet")
    assert [trial["state"] for trial in last["trials"]] == ["complete"] * 6
    assert len({json.dumps(trial["params"]) for trial in last["trials"]}) == 6


@pytest.mark.broad
def test_each_trial_begins_from_the_weights_that_the_file_names(written, tmp_path, ckpt):
    written.write_text(
        f"model.weights = '{ckpt}'\ntraining.epochs = 1\nsweep.trials = 1\nspace.optimizer.learning_rate = [1e-6]\n"
    )
    (trial,) = document("sweep", written, "--out", tmp_path / "study", "--quiet")["trials"]
    before, after = (
        document("eval", path, "--split", "val", "--quiet")["accuracy"] for path in (ckpt, trial["checkpoint"])
    )
    assert abs(before - after) < 0.1
