"""Healthy networks have no finding of severity warning or above."""

import pytest
import tiny

from bncli.inspection import inspect_stats


def grave(report):
    return [finding for finding in report.findings if finding.severity != "info"]


def test_a_small_one(trained):
    assert grave(inspect_stats(trained.out)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "model",
    [{"name": "cnn"}, {"name": "cnn", "bn_placement": "post"}, {"name": "resnet20"}],
    ids=["cnn-pre", "cnn-post", "resnet20"],
)
def test_twenty_epochs_of_digits(model, seed, tmp_path):
    from bncli.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig
    from bncli.data.configured import load_configured

    config = RunConfig(
        model=ModelConfig(**model),
        data=DataConfig(),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(epochs=20, seed=seed),
    )
    result = tiny.train(config, load_configured(config.data, seed=seed), tmp_path / "ckpt")
    assert result.test.accuracy > 0.97
    assert grave(inspect_stats(tmp_path / "ckpt")) == []
