"""A remedy is something the user of that framework can do; for bncli's own checkpoints, a command that exists."""

import re
import shlex

import pytest
import typer.main

from bncli.cli.app import app
from bncli.inspection.findings import RULES
from bncli.inspection.remedies import PHRASES, fill_in

COMMANDS = typer.main.get_command(app).commands
OPTIONS = {name for command in COMMANDS.values() for param in command.params for name in param.opts}


def remedies(file_format, momentum=0.9):
    return [fill_in(rule.remedy, momentum=momentum, file_format=file_format, path="my runs/7") for rule in RULES]


def test_bnclis_own_are_commands_and_options_that_exist():
    texts = remedies("bncli")
    commands = [match for text in texts for match in re.findall(r"bncli ([\w-]+) (?:'my runs/7' (OUT|--[\w-]+))", text)]
    assert {command for command, _ in commands} == {"inspect-stats", "recalibrate"}
    for command, then in commands:
        words = {name for param in COMMANDS[command].params for name in param.opts}
        assert then == "OUT" or then in words
    mentioned = {word for text in texts for word in re.findall(r"--[a-z][\w-]*", text)}
    assert mentioned
    assert mentioned <= OPTIONS


@pytest.mark.parametrize("file_format", [*PHRASES, "safetensors"])
def test_every_format_has_every_phrase(file_format):
    for text in remedies(file_format):
        assert not re.search(r"[{}]", text)
        assert text == text.strip()
    if not file_format.startswith("bncli"):
        assert not any("--" in text or "bncli inspect-stats" in text for text in remedies(file_format))


@pytest.mark.parametrize(
    ("file_format", "expected"),
    [
        ("bncli", "--bn-momentum 0.99"),
        ("bncli-nnx", "nnx.BatchNorm(momentum=0.99)"),
        ("bncli-haiku", "hk.BatchNorm(decay_rate=0.99)"),
        ("orbax", "nn.BatchNorm(momentum=0.99)"),
        ("keras", "BatchNormalization(momentum=0.99)"),
        ("pytorch", "BatchNorm2d(momentum=0.01)"),
    ],
)
def test_a_momentum_of_the_other_convention_is_turned_round(file_format, expected):
    assert any(expected in text for text in remedies(file_format, momentum=0.01))


NOT_CONVERGED = next(rule.remedy for rule in RULES if rule.code == "not-converged")


@pytest.mark.parametrize("file_format", PHRASES)
@pytest.mark.parametrize("momentum", [None, 0.999, 0.99, 0.95, 0.9, 0.7, 0.1, 0.0])
def test_a_layer_that_has_not_converged_is_only_advised_a_faster_momentum(file_format, momentum):
    text = fill_in(NOT_CONVERGED, momentum=momentum, file_format=file_format, path="x")
    advised = [
        float(number)
        for number in re.findall(r"(?:momentum|decay_rate)(?:=| )(0\.\d+)", text.partition("Next time")[2])
    ]
    own = momentum if momentum is not None else 0.99
    in_flax = [1 - value if file_format == "pytorch" else value for value in advised]
    assert "train longer" in text
    assert all(value < own - 0.01 for value in in_flax)
    assert bool(advised) == (own > 0.9)


def test_the_path_is_quoted_as_a_shell_needs_it():
    (text,) = {text for text in remedies("bncli") if text.startswith("bncli recalibrate") and text.endswith("OUT")}
    assert shlex.split(text) == ["bncli", "recalibrate", "my runs/7", "OUT"]


def test_commands_are_for_the_save_that_was_inspected():
    texts = [
        fill_in(rule.remedy, file_format="bncli", path="run", step="42")
        for rule in RULES
        if "{earlier}" not in rule.remedy
    ]
    commands = [text for text in texts if "bncli recalibrate" in text or "bncli inspect-stats" in text]
    assert commands
    for text in commands:
        assert re.search(r"bncli (recalibrate run OUT|inspect-stats run --data) --step 42", text), text


OPENS = ("--model", "my net.py:Net", "--input-shape", "8,8,1")


@pytest.mark.parametrize("file_format", ["bncli", "bncli-nnx", "equinox", "flax-msgpack", "nnx", "orbax"])
def test_commands_repeat_the_options_that_opened_the_checkpoint(file_format):
    texts = [fill_in(rule.remedy, file_format=file_format, path="x", step="7", options=OPENS) for rule in RULES]
    names = ("bncli recalibrate", "bncli inspect-stats")
    commands = [text[text.index(name) :] for text in texts for name in names if name in text]
    assert len(commands) > 3
    for command in commands:
        with_value = command.replace("--data --step", "--data own --step")  # --data may stand without one
        words = shlex.split(re.split(r"[.:;](?: |$)|, ", with_value)[0])
        parser = COMMANDS[words[1]].make_parser(typer.Context(COMMANDS[words[1]]))
        given, _, _ = parser.parse_args(words[2:])
        assert (given["model"], given["input_shape"]) == ("my net.py:Net", "8,8,1"), command
        assert given["step"] in ("7", "N")  # N: of an earlier save
        assert file_format.startswith("bncli") or given["data"] == "DATA"
