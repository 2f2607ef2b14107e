"""Settings are checked when they are made, and a bad value is named with its field."""

from dataclasses import replace

import pytest

from bncli.config.settings import DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from bncli.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrainingConfig(epochs=0), "epochs: Input should be greater than or equal to 1, got '0'"),
        (lambda: TrainingConfig(epochs="3"), "epochs: Input should be a valid integer, got '3'"),
        (lambda: TrainingConfig(save_every="10m"), "save_every: must be steps or seconds, such as 500 or 60s"),
        (lambda: ModelConfig(bn_momentum=float("nan")), "bn_momentum: "),
        (lambda: ModelConfig(bn_epsilon=float("inf")), "bn_epsilon: "),
        (lambda: OptimizerConfig(name="adam"), "name: Input should be 'sgd', 'adamw' or 'muon'"),
        (lambda: replace(DataConfig(), val_fraction=1.0), "val_fraction: Input should be less than 1"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(make, words):
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.message.startswith(words)


def test_whole_numbers_are_floats():
    assert OptimizerConfig(warmup_epochs=2) == OptimizerConfig(warmup_epochs=2.0)
