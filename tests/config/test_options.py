"""Laws of the declarations: each setting stands once everywhere, and is spelled the same everywhere."""

from dataclasses import fields

import pytest
import typer
from typer.testing import CliRunner

from bncli.cli.app import app
from bncli.config.options import by_key, by_parameter, options, sections_of
from bncli.config.settings import PANELS, RunConfig

TRAIN = typer.main.get_command(app).commands["train"]


def test_every_field_of_a_run_is_a_setting():
    config = RunConfig()
    declared = {
        f"{section.name}.{field.name}"
        for section in fields(RunConfig)
        for field in fields(getattr(config, section.name))
    }
    assert {option.key for option in options()} == declared == set(by_key())


def test_no_two_settings_share_a_flag():
    assert len(by_parameter()) == len(options())


@pytest.mark.parametrize("option", options(), ids=lambda option: option.key)
def test_a_setting_is_one_option_of_train_with_its_default(option):
    (found,) = (parameter for parameter in TRAIN.params if parameter.name == option.parameter)
    assert f"--{option.flag}" in found.opts
    assert (f"--no-{option.flag}" in found.secondary_opts) == (option.type is bool)
    assert found.default == (None if option.default in ({}, ()) else option.default)
    assert found.help == option.setting.help
    assert option.setting.panel in PANELS


def test_the_help_shows_each_setting_once():
    text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    listed = [line.split()[1] for line in text.splitlines() if line.startswith("│ --")]
    for option in options():
        name = f"--[no-]{option.flag}" if option.type is bool else f"--{option.flag}"
        assert listed.count(name) == 1, name


def test_the_defaults_are_those_of_the_dataclasses():
    sections = sections_of((option, option.default) for option in options())
    config = RunConfig()
    for section, values in sections.items():
        assert vars(getattr(config, section)) == values


def test_bounds_are_read_from_the_annotations():
    assert by_key()["training.epochs"].bounds == ("≥ 1", "< 2147483648")
    assert by_key()["training.epochs"].minimum == 1
    assert by_key()["optimizer.momentum"].minimum is None
    assert by_key()["model.dropout"].optional
    assert by_key()["training.on_nan"].choices == ("stop", "skip", "rollback")
