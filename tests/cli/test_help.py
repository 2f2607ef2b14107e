"""The help: each option once, no type beside a flag, prose that flows to the width of the terminal."""

import subprocess
import sys

import pytest
import typer.main

from bncli.cli.app import app
from bncli.cli.help import summary
from cli.conftest import invoke, succeed

ROOT = typer.main.get_command(app)
COMMANDS = [*(name for name in ROOT.commands if name != "data"), "data list", "data fetch"]


def command_named(name):
    found = ROOT
    for word in name.split():
        found = found.commands[word]
    return found


def rows_of(text):
    """The first cell of each row that begins with an option."""
    return [line.removeprefix("│ ").split("  ")[0].strip() for line in text.splitlines() if line.startswith("│ -")]


def negated(row):
    """The second name of ``--[no-]bn``."""
    return {row.replace("[no-]", "no-")} if "[no-]" in row else set()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_shown_once_with_all_its_names(name):
    rows = rows_of(succeed(*name.split(), "--help"))
    expected = [
        {*param.opts, *param.secondary_opts}
        for param in command_named(name).params
        if param.opts[0].startswith("-") and not param.hidden
    ]
    shown = [set(row.replace("[no-]", "").split(", ")) | negated(row) for row in rows]
    assert sorted(map(sorted, shown)) == sorted(map(sorted, [*expected, {"--help", "-h"}]))


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("name", ["", "train", "fold", "data"])
def test_help_fits_the_terminal_and_uses_it(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = succeed(*name.split(), "--help").splitlines()
    assert max(map(len, lines)) <= columns
    prose = [line for line in lines if line.startswith(" ") and line.strip()]
    assert columns < 80 or name != "train" or max(len(line.rstrip()) for line in prose) > columns - 14


def test_a_flag_has_no_type_and_a_number_has_its_bound():
    text = succeed("train", "--help")
    assert "bool" not in text
    assert "<int ≥ 1>" in text
    assert "<float from 0 to 1>" in succeed("eval", "--help")


def test_help_is_plain_where_it_is_no_terminal():
    assert "\x1b" not in succeed("train", "--help")


def test_usage_errors_name_the_option_and_the_help():
    result = invoke("train", "--epohcs", 3)
    assert result.exit_code == 2
    assert "No such option: --epohcs" in result.stderr
    assert "train -h" in result.stderr
    assert invoke("trian").exit_code == 2
    assert "Did you mean 'train'?" in invoke("trian").stderr


def test_help_imports_none_of_the_heavy_parts_of_rich():
    code = (
        "import sys\nfrom bncli.cli.app import app\n"
        "try:\n    app(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(str({'markdown_it', 'pygments', 'rich.traceback'} & set(sys.modules) or ''))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "", result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_help_of_a_group_is_the_beginning_of_the_commands_own(name):
    group, _, word = f" {name}".rpartition(" ")
    table = command_named(group.strip()).summaries()
    assert table[word] == summary(command_named(name).help)


def test_the_help_imports_no_command():
    code = (
        "import sys\nfrom bncli.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(str({'bncli.cli.train', 'bncli.cli.fold', 'bncli.config.settings'} & set(sys.modules) or ''))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "", result.stderr
