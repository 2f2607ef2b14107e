"""``bncli train --config run.toml`` and ``--print-config``: the same run by file and by options."""

import tomllib

import pytest

from bncli.config.options import options as config_options
from cli.conftest import TINY, document, invoke, succeed

ASKED = ["--seed", 3, "--epochs", 1, "--optimizer", "adamw", "--no-augment", "--val-fraction", 0.2]


def test_a_printed_file_trains_the_same_run(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(succeed("train", "--print-config", *ASKED, *TINY))
    assert not (tmp_path / "ckpt").exists()
    by_options = document("train", "--out", tmp_path / "options", *ASKED, *TINY)
    by_file = document("train", "--out", tmp_path / "file", "--config", path, "--quiet")
    assert by_file["sha256"] == by_options["sha256"]
    assert by_file["config"] == by_options["config"]


def test_options_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[data]\nsource = "cifar10"\n[training]\nbatch_size = 32\nseed = 5\n')
    printed = tomllib.loads(succeed("train", "--print-config", "--config", path, "--seed", 6))
    assert printed["training"]["seed"] == 6  # the command line
    assert printed["training"]["batch_size"] == 32  # the file
    assert printed["optimizer"]["label_smoothing"] == 0.2  # the recipe
    assert printed["model"]["bn_epsilon"] == 1e-5  # the default
    without = tomllib.loads(succeed("train", "--print-config", "--config", path, "--recipe", "none"))
    assert without["optimizer"]["label_smoothing"] == 0.0


def test_the_file_may_name_the_recipe(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('recipe = "cifar10"\n')
    assert tomllib.loads(succeed("train", "--print-config", "--config", path))["training"]["batch_size"] == 128


def test_a_printed_file_is_complete(tmp_path):
    """Printed again, it says the same: no recipe is laid over it."""
    path = tmp_path / "run.toml"
    path.write_text(succeed("train", "--print-config", "--data", "cifar10", "--clip-norm", 0, "--no-bn"))
    assert succeed("train", "--print-config", "--config", path) == path.read_text()


def test_a_mistake_in_the_file_ends_with_1_and_one_in_the_options_with_2(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepohcs = 3\n")
    result = invoke("train", "--config", path, "--out", tmp_path / "ckpt")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "training.epochs" in result.stderr
    assert invoke("train", "--momentum", 2).exit_code == 2


@pytest.mark.broad
def test_a_resumed_run_takes_from_the_file_what_it_may_change(ckpt, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepochs = 9\nkeep = 3\n")
    printed = tomllib.loads(succeed("train", "--resume", "--out", ckpt, "--config", path, "--print-config", "--quiet"))
    assert (printed["training"]["epochs"], printed["training"]["keep"]) == (9, 3)
    path.write_text("[training]\nseed = 9\n")
    result = invoke("train", "--resume", "--out", ckpt, "--config", path)
    assert result.exit_code == 2
    assert f"{path}, line 2: training.seed: this run has 0, and keeps it" in result.stderr


def other_values(option):
    """Two values of a setting that differ, neither of which a recipe or the default has."""
    special = {
        "model.args": ({"a": 1}, {"b": "x"}),
        "model.name": ("resnet20", "mlp"),
        "model.norm": ("group", "ghost:8"),
        "data.source": ("mnist", "cifar100"),
        "training.save_every": ("7", "8s"),
        "data.pixel_range": ("0:4095", "-5:9.5"),
        "data.mean": ("0.5", "0.5,0.4,0.3"),
        "data.std": ("0.5", "0.5,0.4,0.3"),
        "finetune.freeze": (["Conv_0"], ["Conv_*", "backbone"]),
        "training.log": ("csv", "tensorboard"),
    }
    by_type = {bool: (not option.default, bool(option.default)), int: (3, 4), float: (0.3, 0.4), str: ("here", "there")}
    return (
        special.get(option.key) or (option.choices and (option.choices[-1], option.choices[0])) or by_type[option.type]
    )


def on_command_line(option, value):
    """A setting as options."""
    if option.type is bool:
        return [f"--{option.flag}" if value else f"--no-{option.flag}"]
    if isinstance(value, dict):
        return [word for name, content in value.items() for word in (f"--{option.flag}", f"{name}={content}")]
    if isinstance(value, list):
        return [word for content in value for word in (f"--{option.flag}", content)]
    return [f"--{option.flag}", value]


# Settings that mean nothing without another.
BESIDE = {"finetune.unfreeze_at": ["--freeze", "backbone"]}
# The weights are read, so that they can decide other settings: tests/cli/test_convert.py.
WRITTEN = [option for option in config_options() if option.key != "model.weights"]


@pytest.mark.sample(16)
@pytest.mark.parametrize("option", WRITTEN, ids=lambda option: option.key)
def test_each_setting_goes_from_option_to_file_and_back_and_the_option_wins(tmp_path, option):
    path = tmp_path / "run.toml"
    in_file, in_call = other_values(option)

    def printed(*argv):
        path.write_text(succeed("train", "--print-config", *argv, *BESIDE.get(option.key, ())))
        return tomllib.loads(path.read_text())[option.section][option.field]

    assert printed(*on_command_line(option, in_file)) == in_file
    assert printed("--config", path) == in_file
    assert printed("--config", path, *on_command_line(option, in_call)) == in_call


def test_one_form_is_printed():
    result = invoke("train", "--print-config", "--json")
    assert result.exit_code == 2
    assert "--print-config prints TOML" in result.stderr
