"""The reference in Markdown, from the commands and from the catalogue of findings."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
from typer.utils import get_params_from_function

import bncli
from bncli.cli.app import app
from bncli.config.options import Option, by_parameter
from bncli.inspection.findings import Entry, catalogue

# A parameter of a command; Typer brings its own copy of Click, or imports it, depending on the version.
Parameter = Any
Command = Any
# Options without a panel of their own stand under this title, as in `--help`.
FIRST_PANEL = "Options"
# Bounds that no user meets: those of the integers in which sizes, counts and seeds are kept.
TECHNICAL_BOUNDS = (f"< {2**16}", f"< {2**31}", f"< {2**32}")
# Commands whose options are settings of a run.
OF_SETTINGS = ("train", "lr-find")
TYPE_NAMES: Mapping[object, str] = {int: "integer", float: "number", str: "text", Path: "path"}


def command_names() -> tuple[str, ...]:
    """Every command as it is typed after `bncli`, groups spelled out: `data list`."""
    return tuple(_names(typer.main.get_command(app), ""))


def _names(command: Command, name: str) -> Iterator[str]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name
        return
    for word, child in children.items():
        yield from _names(child, f"{name} {word}".strip())


def command_named(name: str) -> Command:
    """The command object of `train` or `data list`."""
    found = typer.main.get_command(app)
    for word in name.split():
        found = found.commands[word]
    return found


def command_reference(name: str) -> str:
    """Usage, description and options of a command."""
    command = command_named(name)
    usage = " ".join(["bncli", name, *_arguments(command), "[OPTIONS]"])
    blocks = [f"```text\n{usage}\n```", _prose(command.help), f"```{{program}} bncli {name}\n```"]
    for panel, params in _by_panel(command).items():
        blocks += [f"**{panel}**", *[_option(param, command) for param in params]]
    return "\n\n".join(blocks)


def _arguments(command: Command) -> list[str]:
    return [param.metavar or param.name.upper() for param in command.params if not _is_option(param)]


def _prose(text: str) -> str:
    """A help text as paragraphs, without the line breaks of its source."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _is_option(param: Parameter) -> bool:
    return bool(param.opts[0].startswith("-"))


def _by_panel(command: Command) -> dict[str, list[Parameter]]:
    """The options under the titles that `--help` shows, in its order."""
    panels: dict[str, list[Parameter]] = {}
    for param in command.params:
        if _is_option(param) and not getattr(param, "hidden", False):
            panels.setdefault(getattr(param, "rich_help_panel", None) or FIRST_PANEL, []).append(param)
    return panels


def _option(param: Parameter, command: Command) -> str:
    """One option as a directive, which gives it a place that links can name."""
    value = option_value(param, command)
    names = ", ".join(f"{name} {value}".strip() for name in [*param.opts, *param.secondary_opts])
    default = option_default(param)
    text = _prose(param.help or "") + (f" Default: `{default}`." if default else "")
    if command.name in OF_SETTINGS and param.name in by_parameter():
        text += f"\n\n{_place_in_files(by_parameter()[param.name])}"
    return f"````{{option}} {names}\n\n{text}\n````"


def _place_in_files(option: Option) -> str:
    """The key of a setting, and its fate with `--resume`."""
    change = " May change with `--resume`." if option.setting.changeable else ""
    return f"Key: `{option.key}`.{change}"


def option_value(param: Parameter, command: Command) -> str:
    """The values an option takes; empty for a flag."""
    if param.is_flag:
        return ""
    if command.name in OF_SETTINGS and param.name in by_parameter():
        return value_of_setting(by_parameter()[param.name])
    declared = get_params_from_function(command.callback)[param.name]
    chosen = getattr(declared.default, "metavar", None)
    return str(chosen).strip("<>") if chosen else f"{_type_name(declared.annotation)}{_bounds(declared.default)}"


def value_of_setting(option: Option) -> str:
    """The values of a setting, with its bounds."""
    if option.choices:
        return " | ".join(option.choices)
    bounds = [bound for bound in option.bounds if bound not in TECHNICAL_BOUNDS]
    return f"{TYPE_NAMES.get(option.type, 'text')} {' and '.join(bounds)}".strip()


def _type_name(annotation: object) -> str:
    """A type in a user's words: `pre | post`, `integer`."""
    members = [member for member in typing.get_args(annotation) if member is not types.NoneType]
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, members))
    return _type_name(members[0]) if members else TYPE_NAMES[annotation]


def _bounds(declared: object) -> str:
    low, high = getattr(declared, "min", None), getattr(declared, "max", None)
    return ("" if low is None else f" ≥ {low:g}") + ("" if high is None else f" ≤ {high:g}")


def option_default(param: Parameter) -> str:
    """The default as the user would write it; empty where there is none."""
    if param.default is None or param.default is False or param.default == []:
        return ""
    return str(param.opts[0] if param.default is True else param.default)


def findings_reference() -> str:
    """A section for each finding."""
    return "\n\n".join(_finding(entry) for entry in catalogue())


def _finding(entry: Entry) -> str:
    rows = [
        f"## {entry.code}",
        f"{', '.join(f'**{severity}**' for severity in entry.severities)}: {sentence(entry.when)}",
        f"Why: {sentence(entry.why)}",
        f"Remedy: {sentence(entry.remedy)}",
    ]
    if entry.unless:
        codes = ", ".join(f"[{code}](#{code})" for code in entry.unless)
        explain = "explains" if len(entry.unless) == 1 else "explain"
        rows.append(f"Left out for channels or layers that have {codes}, which {explain} the same symptom better.")
    return "\n\n".join(rows)


def house_map() -> str:
    """The rooms that `bncli.__doc__` draws, from the top, as a table."""
    rooms = re.findall(r"^    (\w+/?) +(\S.*)$", bncli.__doc__ or "", re.MULTILINE)
    rows = [f"| `{room}` | {sentence(does)[:-1]} |" for room, does in rooms]
    return "\n".join(["| room | what lives there |", "|---|---|", *rows])


def sentence(text: str) -> str:
    """Text that Markdown takes as it is, with a full stop."""
    escaped = re.sub(r"([|*_\[\]<>])", r"\\\1", text)
    return escaped if escaped.endswith((".", "?")) else f"{escaped}."
