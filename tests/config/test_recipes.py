"""Laws of the recipes: what is given in the call goes before them, and each is one that `bncli train` takes."""

import pytest

from bncli.cli.run_settings import field_value
from bncli.config.options import by_parameter
from bncli.config.recipes import NONE, RECIPES, recipe_options
from bncli.config.settings import ModelConfig, OptimizerConfig, TrainingConfig
from bncli.config.validation import validated
from bncli.data.known import KNOWN
from bncli.errors import UsageError

RUN = {"data": "cifar10", "model": "cnn", "bn": True, "optimizer": "sgd"}
SECTIONS = {"model": ModelConfig, "optimizer": OptimizerConfig, "training": TrainingConfig}


@pytest.mark.parametrize("bn", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_of_a_known_data_set_and_of_settings_that_exist(name, bn):
    assert name in KNOWN
    options = recipe_options(None, **RUN | {"data": name, "bn": bn})
    for option, value in options.items():
        place = by_parameter()[option]
        validated(
            SECTIONS[place.section], **{place.field: field_value(option, value)}
        )  # raises where it is out of range
    assert recipe_options(name, **RUN | {"data": "elsewhere", "bn": bn}) == options


def test_other_data_have_none_and_none_can_be_asked_for():
    assert recipe_options(None, **RUN | {"data": "digits"}) == {}
    assert recipe_options(NONE, **RUN) == {}


@pytest.mark.parametrize("name", RECIPES)
def test_without_bn_the_same_is_run_with_clipped_gradients(name):
    with_bn, without = (recipe_options(name, **RUN | {"bn": bn}) for bn in (True, False))
    assert "clip_norm" not in with_bn
    assert without == with_bn | {"clip_norm": 1.0}


def test_what_belongs_to_another_optimizer_or_network_is_left_out():
    assert "learning_rate" not in recipe_options(None, **RUN | {"optimizer": "adamw"})
    assert not {"dropout", "model_arg"} & recipe_options(None, **RUN | {"model": "resnet20"}).keys()
    assert {"learning_rate", "dropout", "model_arg"} <= recipe_options(None, **RUN).keys()


@pytest.mark.parametrize("option", ["clip_norm", "ema_decay"])
def test_zero_takes_back_what_a_recipe_has(option):
    assert field_value(option, 0.0) is None
    assert field_value(option, 0.5) == 0.5


def test_an_unknown_recipe_is_refused_with_the_like():
    with pytest.raises(UsageError, match="no such recipe") as caught:
        recipe_options("cifar-10", **RUN)
    assert "Did you mean cifar10?" in caught.value.remedy
