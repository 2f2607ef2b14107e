"""Frozen BN layers: training used their statistics as they are, so no rule about running averages applies."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.tiny import CNN, run_config, train

import bncli
from bncli import checkpoint
from bncli.config.settings import FineTuneConfig
from bncli.inspection.findings import find_on_data
from bncli.inspection.live import look_at_data
from bncli.jobs.evaluate import evaluate_checkpoint

# Nothing of this holds of statistics that training did not move.
OF_AVERAGES = {"never-updated", "not-converged", "momentum-convention", "stale-statistics", "train-eval-gap"}


@pytest.fixture(scope="module")
def frozen(dataset, tmp_path_factory):
    """Two epochs with the initial statistics, and a momentum of PyTorch's convention."""
    config = run_config(
        model=CNN | {"bn_momentum": 0.1},
        training={"epochs": 2, "batch_size": 28},
        finetune={"freeze_bn": "statistics"},
    )
    out = tmp_path_factory.mktemp("frozen") / "ckpt"
    with pytest.warns(match="initial statistics"):
        train(config, dataset, out)
    return out


@pytest.fixture(scope="module")
def moving(frozen, tmp_path_factory):
    """The same arrays as those of a training that moved them."""
    out = shutil.copytree(frozen, tmp_path_factory.mktemp("moving") / "ckpt")
    config = checkpoint.read_config(out)
    checkpoint.write_config(out, replace(config, run=replace(config.run, finetune=FineTuneConfig())))
    return out


def codes(path, dataset):
    on_data = find_on_data(look_at_data(bncli.load(path), dataset), path=str(path))
    return {finding.code for finding in (*bncli.inspect_stats(path).findings, *on_data)}


@pytest.mark.broad
def test_frozen_layers_have_no_finding_about_running_averages(frozen, moving, dataset):
    assert not OF_AVERAGES & codes(frozen, dataset)
    assert {"never-updated", "momentum-convention", "stale-statistics"} & codes(moving, dataset)


def test_a_note_names_the_frozen_layers(frozen, moving):
    (note,) = bncli.inspect_stats(frozen).notes
    assert note.startswith("all BN layers were frozen")
    assert not any("frozen" in note for note in bncli.inspect_stats(moving).notes)


def test_batch_statistics_are_not_used_where_training_did_not(frozen, dataset):
    saved = bncli.load(frozen)
    assert saved.network.frozen == {"BatchNorm_0", "BatchNorm_1"}
    running, batch = (
        evaluate_checkpoint(saved, dataset.val, class_names=dataset.class_names, stats=stats, batch_size=10)
        for stats in ("running", "batch")
    )
    np.testing.assert_allclose(running.loss, batch.loss, rtol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("step", "frozen"), [("3", {"BatchNorm_0"}), ("6", set())])
def test_a_save_knows_what_was_frozen_when_it_was_made(dataset, tmp_path, step, frozen):
    config = run_config(
        model=CNN, training={"epochs": 2, "batch_size": 28}, finetune={"freeze": ("*_0",), "unfreeze_at": 2}
    )
    with pytest.warns(match="initial statistics"):
        train(config, dataset, tmp_path / "ckpt")
    assert bncli.load(tmp_path / "ckpt", step=step).network.frozen == frozen


def test_patterns_that_fit_no_longer_are_an_error_of_the_checkpoint(copied):
    config = checkpoint.read_config(copied)
    tuned = replace(config.run, finetune=replace(config.run.finetune, freeze=("Conv_9",)))
    checkpoint.write_config(copied, replace(config, run=tuned))
    with pytest.raises(bncli.BncliError, match="Conv_9"):
        bncli.load(copied)
