"""Laws of ``run.toml``: what is written is read back, and every mistake is named with its file, line and key."""

import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bncli.config.options import by_key, options, sections_of
from bncli.config.recipes import NONE
from bncli.config.run_file import read_run_file, run_file_text
from bncli.config.settings import ModelConfig, RunConfig
from bncli.config.validation import validated
from bncli.errors import ConfigError

PLAIN = {
    bool: st.booleans(),
    int: st.integers(1, 3),
    float: st.floats(0.1, 0.9),
    str: st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
}


def values_of(option):
    """Values that a setting may have."""
    if option.choices or option.field == "norm":
        values = st.sampled_from(option.choices or ["batch", "group", "layer", "none", "ghost:8"])
    elif option.field == "args":
        values = st.dictionaries(st.text(min_size=1), st.integers() | st.lists(st.integers()) | st.booleans())
    elif option.field == "save_every":
        values = st.from_regex(r"\A[1-9][0-9]{0,5}s?\Z")
    elif option.field == "log":
        values = st.sampled_from(["csv", "none", "tensorboard,wandb"])
    elif option.field in ("mean", "std") and option.section == "data":
        values = st.sampled_from(["0.5", "0.485,0.456,0.406", "1e-05,2,0.25"])
    elif option.field == "pixel_range":
        values = st.just("auto") | st.from_regex(r"\A-?[0-9]{1,5}:[0-9]{1,5}\.[0-9]{1,5}\Z")
    elif option.is_repeatable:
        values = st.lists(PLAIN[str]).map(tuple)
    else:
        values = PLAIN[option.type]
    return st.none() | values if option.optional else values


def consistent(values):
    """The values without an epoch of unfreezing where nothing is frozen, and with one normalization and flip."""
    if values["data.augment_flip"] == "alternating":
        values = values | {"data.hflip": None}
    if not values["finetune.freeze"]:
        values = values | {"finetune.unfreeze_at": None}
    if not values["model.bn"] or values["model.norm"] is not None:
        values = values | {"model.ghost_batch": None}
    return values if values["model.bn"] else values | {"model.norm": None}


CONFIGS = (
    st.fixed_dictionaries({option.key: values_of(option) for option in options()})
    .map(consistent)
    .map(lambda values: validated(RunConfig, **sections_of((by_key()[key], value) for key, value in values.items())))
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(config=CONFIGS)
def test_what_is_written_is_read_back(tmp_path, config):
    path = tmp_path / "run.toml"
    path.write_text(run_file_text(config), encoding="utf-8")
    found = read_run_file(path)
    assert found.recipe == NONE
    defaults = {option: option.default for option in options()}
    assert validated(RunConfig, **sections_of({**defaults, **found.values}.items())) == config


def test_the_file_has_the_sections_of_config_json():
    document = tomllib.loads(run_file_text(RunConfig()))
    assert list(document) == ["recipe", "model", "data", "optimizer", "training", "finetune"]
    assert document["training"]["epochs"] == 20
    assert document["optimizer"]["clip_norm"] == 0  # not clipped, whatever a recipe says
    assert "dropout" not in document["model"]


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("[training\n", "is no TOML", "--print-config"),
        (
            "[training]\nepohcs = 3\n",
            "line 2: no setting is called training.epohcs; did you mean training.epochs?",
            "--print",
        ),
        ("[trainig]\nepochs = 3\n", "line 1: no setting is called trainig; did you mean training?", "--print-config"),
        ("\n\ntraining = 3\n", "line 3: training must be a table", "--print-config"),
        ("[training]\nseed = 0\nepochs = '3'\n", "line 3: training.epochs: Input should be a valid integer", "Passes"),
        ("[training]\nepochs = 0\n", "line 2: training.epochs: Input should be greater than or equal to 1", "≥ 1"),
        ("[training]\nepochs = true\n", "line 2: training.epochs: Input should be a valid integer", "Passes"),
        ("[data]\nseed = 1\n", "line 2: no setting is called data.seed; did you mean training.seed?", "--print-config"),
        ("[training]\nmomentum = 1\n", "training.momentum; did you mean optimizer.momentum?", "--print-config"),
        ("[model]\nmodel = 'mlp'\n", "model.model; did you mean model.name?", "--print-config"),
        ("[training]\nsave-every = 1\n", "training.save-every; did you mean training.save_every?", "--print-config"),
        ("[training]\nquiet = true\n", "line 2: no setting is called training.quiet", "--print-config"),
        ("[training]\nprecision = 'float16'\n", "line 2: training.precision: Input should be", "float32, bfloat16"),
        (
            "[training]\nsave_every = 'often'\n",
            "line 2: training.save_every: must be steps or seconds, such as 500 or 60s, got 'often'",
            "60s",
        ),
        ("training.epochs = 0\n", "line 1: training.epochs", "≥ 1"),
        ("[model]\nbn_epsilon = inf\n", "line 2: model.bn_epsilon: Input should be a finite number", "variance"),
        ("[finetune]\nfreeze = 'Conv_0'\n", "line 2: finetune.freeze: Input should be a valid tuple", "glob"),
        ("recipe = 3\n", "line 1: recipe must be a text", "--print-config"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path, text, message, remedy):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_run_file(path)
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_the_line_is_that_of_the_section(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[optimizer]\nname = 'sgd'\n\n[model]\nname = 3\n")
    with pytest.raises(ConfigError, match=r"line 5: model\.name"):
        read_run_file(path)


def test_a_whole_number_is_a_float_and_zero_turns_off(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[optimizer]\nlearning_rate = 1\nclip_norm = 0\n")
    assert {option.key: value for option, value in read_run_file(path).values.items()} == {
        "optimizer.learning_rate": 1.0,
        "optimizer.clip_norm": None,
    }


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml"):
        read_run_file(path)


@pytest.mark.parametrize("args", [{"depth": None}, {"sizes": [1, {"last": None}]}])
def test_null_is_refused_for_toml_has_none(args):
    with pytest.raises(ConfigError, match="TOML does not have"):
        run_file_text(RunConfig(model=ModelConfig(args=args)))
