"""``bncli.train`` does what the command does."""

import pytest
from support.tiny import run_config

import bncli
from bncli.errors import CheckpointError, ConfigError
from bncli.jobs.train import _resolved
from bncli.training.progress import EpochResult


def test_a_run_from_python_and_its_continuation(dataset, tmp_path):
    events = []
    config = run_config(training={"epochs": 1})
    first = bncli.train(config, dataset, tmp_path / "ckpt", on_event=events.append)
    assert [event.epoch for event in events if isinstance(event, EpochResult)] == [1]
    assert bncli.load(tmp_path / "ckpt").step == first.best.step
    with pytest.raises(CheckpointError, match="holds a checkpoint"):
        bncli.train(config, dataset, tmp_path / "ckpt")
    longer = run_config(training={"epochs": 2})
    assert bncli.train(longer, dataset, tmp_path / "ckpt", resume=True).epochs_run == 2
    assert bncli.train(config, dataset, tmp_path / "ckpt", overwrite=True).sha256 == first.sha256


def test_settings_win_over_the_recipe_of_the_data(dataset):
    config, same, _ = _resolved({"training": {"epochs": 3}}, dataset)
    assert same is dataset
    assert (config.model.name, config.training.epochs, config.optimizer.clip_norm) == ("convnet", 3, 1.0)
    config, _, _ = _resolved(None, "digits")
    assert (config.model.name, config.training.epochs) == ("cnn", 20)


def test_a_setting_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no setting training\.epoch"):
        bncli.train({"training": {"epoch": 3}}, out=tmp_path / "ckpt")
