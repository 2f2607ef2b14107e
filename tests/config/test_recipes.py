"""Laws of the recipes: what is given in the call goes before them, and each is one that `bncli train` takes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.cli.run_settings import field_value
from bncli.config.options import by_parameter, sections_of
from bncli.config.recipes import AUTO, FAST, NONE, RECIPES, defaults, named_recipe, own_data, recommended
from bncli.config.settings import FineTuneConfig, RunConfig
from bncli.config.validation import validated
from bncli.data.known import KNOWN
from bncli.errors import UsageError

ANY = {
    **RECIPES,
    AUTO: own_data(1000),
    FAST: named_recipe(FAST, {}),
    "fine-tuning": own_data(100, fine_tunes=True),
}


def asked(**values):
    """Settings that the user chose, by parameter."""
    return {by_parameter()[name]: value for name, value in values.items()}


def chosen(recipe, **values):
    """The settings that the recipe decides, by key."""
    return {option.key: value for option, value in recommended(recipe, asked(**values)).items()}


@pytest.mark.parametrize("bn", [True, False])
@pytest.mark.parametrize("name", ANY)
def test_a_recipe_is_of_settings_that_exist(name, bn):
    values = {**defaults(), **recommended(ANY[name], asked(bn=bn)), **asked(bn=bn)}
    validated(RunConfig, **sections_of(values.items()))  # raises where one is out of range


@pytest.mark.parametrize("name", RECIPES)
def test_a_data_set_has_the_recipe_of_its_name(name):
    assert name in KNOWN
    assert (
        named_recipe(None, asked(data=name, model="cnn"))
        == named_recipe(name, asked(data="elsewhere"))
        == RECIPES[name]
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_small_photographs_are_trained_by_fast_unless_another_network_is_chosen(name):
    assert named_recipe(None, asked(data=name)) == named_recipe(None, asked(data=name, model="fastnet")) == ANY[FAST]
    assert named_recipe(None, asked(data=name, model="resnet20")) == named_recipe(name, {}) == RECIPES[name]


def test_other_data_have_none_and_none_can_be_asked_for():
    assert named_recipe(None, asked(data="digits")) is None
    assert named_recipe(NONE, asked(data="cifar10")) is None


@pytest.mark.parametrize("name", RECIPES)
def test_without_bn_the_same_is_run_with_clipped_gradients(name):
    with_bn, without = (chosen(RECIPES[name], bn=bn) for bn in (True, False))
    assert "optimizer.clip_norm" not in with_bn
    assert without == with_bn | {"optimizer.clip_norm": 1.0}


@pytest.mark.parametrize("data", ["cifar10", "fashion-mnist", "digits", "a folder"])
def test_fast_is_the_same_for_any_data(data):
    assert named_recipe(FAST, asked(data=data)) == ANY[FAST]


def test_fast_takes_bfloat16_where_that_pays_and_nothing_else_from_the_machine():
    pays = named_recipe(FAST, asked(data="cifar10"), bfloat16_pays=True)
    assert chosen(pays) == chosen(ANY[FAST]) | {"training.precision": "bfloat16"}
    assert "training.precision" not in chosen(pays, precision="float32")
    assert named_recipe("cifar10", {}, bfloat16_pays=True) == RECIPES["cifar10"]


def test_fast_freezes_only_what_its_network_has():
    assert "BatchNorm" in str(chosen(ANY[FAST])["finetune.freeze"])
    for settings in ({"bn": False}, {"norm": "group"}):
        assert chosen(ANY[FAST], **settings)["finetune.freeze"] == ("whiten",)
    assert not {"finetune.freeze", "model.init"} & chosen(ANY[FAST], model="resnet20").keys()


def test_settings_of_another_optimizer_or_network_are_left_out():
    recipe = RECIPES["cifar10"]
    assert "optimizer.learning_rate" not in chosen(recipe, optimizer="adamw")
    of_muon = {"optimizer.learning_rate", "optimizer.momentum", "optimizer.weight_decay"}
    assert of_muon <= chosen(ANY[FAST]).keys() & chosen(ANY[FAST], optimizer="muon").keys()
    assert not of_muon & chosen(ANY[FAST], optimizer="sgd").keys()
    assert not {"model.dropout", "model.args"} & chosen(recipe, model="resnet20").keys()
    assert {"optimizer.learning_rate", "model.dropout", "model.args"} <= chosen(recipe).keys()
    assert chosen(recipe, model="cnn") == chosen(recipe)


def test_images_that_are_not_to_be_changed_are_not_said_to_be():
    for recipe in (own_data(100), ANY[FAST]):
        changes = {"data.color_jitter", "data.mixup", "data.augment_flip", "data.augment_shift"}
        assert changes & chosen(recipe).keys()
        assert not changes & chosen(recipe, augment=False).keys()


def test_what_the_user_chose_is_left_alone():
    assert "model.name" not in chosen(own_data(100), model="cnn")
    assert "training.epochs" not in chosen(own_data(100), epochs=3)


@given(num_train=st.integers(1, 10**7))
def test_own_data_are_seen_often_in_batches_of_which_there_are_several(num_train):
    settings = own_data(num_train).settings
    assert 20 <= settings["training.epochs"] <= 100
    assert settings["training.batch_size"] in (16, 32, 64)
    seen = settings["training.epochs"] * num_train
    assert seen >= min(60_000, 100 * num_train) * 0.9
    more = own_data(num_train + 1).settings
    assert more["training.epochs"] <= settings["training.epochs"]
    assert more["training.batch_size"] >= settings["training.batch_size"]


@given(num_train=st.integers(1, 10**7))
def test_running_statistics_reach_back_over_an_epoch_of_few_images(num_train):
    settings = {**{option.key: option.default for option in defaults()}, **own_data(num_train).settings}
    steps = 1 / (1 - settings["model.bn_momentum"])
    assert 1.9 < steps < 10.1
    epoch = math.ceil(num_train / settings["training.batch_size"])
    assert steps < 1.05 * max(2, epoch)  # the momentum has two digits
    assert ("model.bn_momentum" in own_data(num_train).settings) == (num_train <= 144)


@given(num_train=st.integers(1, 10**7))
def test_fine_tuning_sees_own_data_less_often_and_keeps_the_statistics_of_bn_if_they_are_few(num_train):
    tuned, fresh = (own_data(num_train, fine_tunes=fine_tunes) for fine_tunes in (True, False))
    assert 3 <= tuned.settings["training.epochs"] <= 10 < fresh.settings["training.epochs"]
    assert tuned.settings["training.batch_size"] == fresh.settings["training.batch_size"]
    assert ("finetune.freeze_bn" in tuned.settings) == (num_train < 1_000)
    assert "finetune.freeze_bn" not in fresh.settings
    assert {"data.color_jitter", "data.mixup"} <= fresh.settings.keys() - tuned.settings.keys()


def test_bn_is_frozen_only_where_there_is_one_that_can_be():
    few = own_data(100, fine_tunes=True)
    assert chosen(few, model="resnet18")["finetune.freeze_bn"] == "statistics"
    assert chosen(few, bn=False).get("finetune.freeze_bn") is None
    assert "finetune.freeze_bn" not in chosen(few, model="mine.py:Net")
    assert "finetune.freeze_bn" not in chosen(few, freeze_bn=None)


def test_none_takes_back_that_bn_is_frozen():
    assert field_value("freeze_bn", "none") is None
    assert field_value("freeze_bn", "all") == "all"
    assert FineTuneConfig(freeze_bn="none") == FineTuneConfig()


@pytest.mark.parametrize("option", ["clip_norm", "ema_decay"])
def test_zero_takes_back_what_a_recipe_has(option):
    assert field_value(option, 0.0) is None
    assert field_value(option, 0.5) == 0.5


def test_an_unknown_recipe_is_refused_with_the_like():
    with pytest.raises(UsageError, match="no such recipe") as caught:
        named_recipe("cifar-10", {})
    assert "Did you mean cifar10?" in caught.value.remedy
