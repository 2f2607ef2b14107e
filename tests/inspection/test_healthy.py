"""Healthy networks have no finding of severity warning or above."""

import pytest
from support import tiny

from bncli.inspection import inspect_stats


def grave(report):
    return [finding for finding in report.findings if finding.severity != "info"]


def test_a_small_one(trained):
    assert grave(inspect_stats(trained.out)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "seed"),
    [
        ({"name": "cnn"}, 0),
        ({"name": "cnn", "bn_placement": "post"}, 0),
        ({"name": "cnn", "bn_placement": "post"}, 1),  # a channel that is seldom active, with a gain of 104
        ({"name": "resnet20"}, 0),
    ],
    ids=["cnn-pre", "cnn-post", "cnn-post-1", "resnet20"],
)
def test_twenty_epochs_of_digits(model, seed, tmp_path):
    from bncli.config.settings import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig
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
