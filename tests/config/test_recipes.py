"""Laws of the recipes: what is given in the call goes before them, and each is one that `bncli train` takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.cli.run_settings import field_value
from bncli.config.options import by_parameter
from bncli.config.recipes import AUTO, NONE, RECIPES, named_recipe, own_data, recipe_options
from bncli.config.settings import ModelConfig, OptimizerConfig, TrainingConfig
from bncli.config.validation import validated
from bncli.data.known import KNOWN
from bncli.errors import UsageError

RUN = {"model": None, "bn": True, "optimizer": "sgd"}
SECTIONS = {"model": ModelConfig, "optimizer": OptimizerConfig, "training": TrainingConfig}
ANY = {**RECIPES, AUTO: own_data(1000)}


@pytest.mark.parametrize("bn", [True, False])
@pytest.mark.parametrize("name", ANY)
def test_a_recipe_is_of_settings_that_exist(name, bn):
    for option, value in recipe_options(ANY[name], **RUN | {"bn": bn}).items():
        place = by_parameter()[option]
        validated(
            SECTIONS[place.section], **{place.field: field_value(option, value)}
        )  # raises where it is out of range


@pytest.mark.parametrize("name", RECIPES)
def test_a_data_set_has_the_recipe_of_its_name(name):
    assert name in KNOWN
    assert named_recipe(None, data=name) == named_recipe(name, data="elsewhere") == RECIPES[name]


def test_other_data_have_none_and_none_can_be_asked_for():
    assert named_recipe(None, data="digits") is None
    assert named_recipe(NONE, data="cifar10") is None


@pytest.mark.parametrize("name", RECIPES)
def test_without_bn_the_same_is_run_with_clipped_gradients(name):
    with_bn, without = (recipe_options(RECIPES[name], **RUN | {"bn": bn}) for bn in (True, False))
    assert "clip_norm" not in with_bn
    assert without == with_bn | {"clip_norm": 1.0}


def test_options_of_another_optimizer_or_network_are_left_out():
    def options(**changes):
        return recipe_options(RECIPES["cifar10"], **RUN | changes)

    assert "learning_rate" not in options(optimizer="adamw")
    assert not {"dropout", "model_arg"} & options(model="resnet20").keys()
    assert {"learning_rate", "dropout", "model_arg"} <= options().keys()
    assert options(model="cnn") == options()


@given(num_train=st.integers(1, 10**7))
def test_own_data_are_seen_often_in_batches_of_which_there_are_several(num_train):
    options = own_data(num_train).options
    assert 20 <= options["epochs"] <= 100
    assert options["batch_size"] in (16, 32, 64)
    seen = options["epochs"] * num_train
    assert seen >= min(60_000, 100 * num_train) * 0.9
    more = own_data(num_train + 1).options
    assert more["epochs"] <= options["epochs"]
    assert more["batch_size"] >= options["batch_size"]


@pytest.mark.parametrize("option", ["clip_norm", "ema_decay"])
def test_zero_takes_back_what_a_recipe_has(option):
    assert field_value(option, 0.0) is None
    assert field_value(option, 0.5) == 0.5


def test_an_unknown_recipe_is_refused_with_the_like():
    with pytest.raises(UsageError, match="no such recipe") as caught:
        named_recipe("cifar-10", data="cifar10")
    assert "Did you mean cifar10?" in caught.value.remedy
