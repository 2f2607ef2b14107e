"""A user with a network that is good in train mode and bad in eval mode: the cause is named, and the remedy works."""

from dataclasses import replace

import jax
import pytest

from bncli import load
from bncli.data.configured import load_matching
from bncli.jobs.recalibrate import better_save
from cli.conftest import SMALL, document, invoke, succeed

# Epoch 2 of ``broken``: only the best epoch, which is the last, gets statistics taken anew at the end of the training.
STEP = ("--step", 42)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """63 steps at momentum 0.999: the running statistics have hardly left where they start."""
    out = tmp_path_factory.mktemp("run") / "broken"
    network = ("--model-arg", "features=[8,16,16]", "--dropout", 0)
    succeed("train", "--epochs", 3, "--bn-momentum", 0.999, "--out", out, *network, "--quiet")
    return out


@pytest.mark.broad
def test_the_cause_is_named_and_the_remedy_repairs_it(broken, tmp_path):
    by_running = document("eval", broken, *STEP)["accuracy"]
    by_batch = document("eval", broken, *STEP, "--stats", "batch")["accuracy"]
    assert by_running < by_batch - 0.2  # what the user sees

    report = document("inspect-stats", broken, "--data", *STEP)
    codes = {finding["code"] for finding in report["findings"]}
    assert {"not-converged", "stale-statistics", "train-eval-gap"} <= codes
    assert report["data"]["running"]["accuracy"] < report["data"]["batch"]["accuracy"] - 0.2
    gap = next(finding for finding in report["findings"] if finding["code"] == "train-eval-gap")
    assert gap["layer"] == report["data"]["first_apart"]
    assert gap["remedy"] == f"bncli recalibrate {broken} OUT --step 42"

    out = tmp_path / "OUT"
    result = document(*gap["remedy"].replace("OUT", str(out)).split()[1:])  # as the user would type it
    assert result["schema"] == "bncli.recalibrate/1"
    assert result["before"]["accuracy"] < result["after"]["accuracy"] - 0.2
    assert result["num_examples"] == 1294
    assert result["step"] == 42
    assert document("eval", out)["accuracy"] > by_batch - 0.05
    after = document("inspect-stats", out, "--data", "--fail-on", "warning")
    assert after["data"]["first_apart"] is None


@pytest.mark.broad
def test_training_repairs_the_best_epoch_itself(broken):
    assert document("eval", broken)["accuracy"] > document("eval", broken, "--stats", "batch")["accuracy"] - 0.05
    report = document("inspect-stats", broken, "--data", "--fail-on", "warning")
    assert report["data"]["first_apart"] is None


def test_text_shows_before_and_after(broken, tmp_path):
    text = succeed("recalibrate", broken, tmp_path / "out", "--batches", 4, "--max-runs", 1, "--dry-run")
    assert "validation accuracy" in text
    assert "over 256 training images, 2 runs" in text
    assert "nothing was written" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.broad
def test_precise_bn_does_it_at_the_end_of_training(tmp_path):
    out = tmp_path / "ckpt"
    result = document("train", "--epochs", 2, "--bn-momentum", 0.999, "--precise-bn", "--out", out, *SMALL)
    assert result["precise_bn"]["val_accuracy"] == pytest.approx(result["best"]["val_accuracy"], abs=0.05)
    assert document("eval", out)["accuracy"] == result["test"]["accuracy"]


def test_the_output_is_not_overwritten(broken, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    result = invoke("recalibrate", broken, tmp_path / "mine", "--overwrite")
    assert result.exit_code == 1
    assert "holds no checkpoint" in result.stderr
    result = invoke("recalibrate", broken, broken, "--overwrite")
    assert result.exit_code == 1
    assert "another directory" in result.stderr


@pytest.mark.broad
def test_the_last_save_is_taken_where_the_best_was_chosen_by_broken_statistics(broken):
    """The saves of ``broken``, with the first and the last epoch in the place of the best and the last."""
    result = document("recalibrate", broken, "OUT", "--step", "last", "--dry-run")
    assert result["step"] == 63
    best, last = load(broken, step="best"), load(broken, step="last")
    dataset = load_matching(best.config)
    untrained = replace(best, step=1, variables=jax.tree.map(lambda array: array * 0, best.variables))
    assert better_save(untrained, last, dataset) is last
    assert better_save(last, untrained, dataset) is last
    assert better_save(best, best, dataset) is best
