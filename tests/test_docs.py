"""The README cannot rot: its options are the commands', and its examples name options that exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from bncli.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"```(?:console|bash|sh)\n(.*?)```", README, re.DOTALL))
EXAMPLES = sorted(set(re.findall(r"^(?:\$ )?(?:\.venv/bin/)?bncli (.+?)(?:\s+#.*)?$", CODE, re.MULTILINE)))


def test_options_in_the_readme_are_the_commands_own():
    check = [sys.executable, ROOT / "scripts" / "update_readme", "--check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_command_has_its_options_in_the_readme():
    documented = set(re.findall(r"<!-- options: ([\w -]+?) -->", README))
    root = typer.main.get_command(app)
    commands = {f"data {name}" for name in root.commands["data"].commands} | set(root.commands) - {"data"}
    assert documented == commands


def test_there_are_examples():
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_is_a_call_the_command_takes(example):
    command, words = typer.main.get_command(app), shlex.split(example)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands") or words[0].startswith("--"), f"no such command: {example}"
    known = {name for param in command.params for name in [*param.opts, *param.secondary_opts]} | {"--help"}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_the_newcomers_table_names_files_that_exist():
    table = README.split("## A newcomer's path")[1].split("\n## ")[0]
    for path in re.findall(r"`((?:bncli|tests|scripts)/[\w/.]+)`", table):
        assert (ROOT / path).exists(), path


def test_version_is_in_the_changelog():
    import bncli

    assert f"## {bncli.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
