"""The help of the commands: usage, prose, and a panel for each group of options.

Typer draws its help with parts of Rich for Markdown, source code and tracebacks, which take longer to import than
everything else that ``bncli --help`` needs. This module draws with tables and panels alone. It shows no type beside a
flag, and lets paragraphs flow to the width of the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    import typer
    from rich.console import RenderableType
    from rich.panel import Panel
    from rich.text import Text

_ARGUMENTS = "Arguments"
_OPTIONS = "Options"
_COMMANDS = "Commands"
_WIDEST_TYPE = 24  # characters; a longer list of choices wraps
_FLAGS = re.compile(r"(?<![\w-])--?[a-z][\w-]*")  # in a text

Cells = tuple["RenderableType", ...]


class Parameter(Protocol):
    """The parts of an option or an argument that its help shows."""

    name: str
    opts: list[str]
    secondary_opts: list[str]
    help: str | None
    hidden: bool
    required: bool
    default: object
    show_default: bool | str
    metavar: str | None
    rich_help_panel: str | None

    def display_type_rich(self, ctx: typer.Context) -> str | None:
        """The type as a word: ``<int>``."""


class Command(TyperCommand):
    """A command that draws its own help."""

    def get_help(self, ctx: object) -> str:
        """The text of ``--help``."""
        return _drawn(_blocks(self, cast("typer.Context", ctx)))


class Group(TyperGroup):
    """A group of commands that draws its own help."""

    def get_help(self, ctx: object) -> str:
        """The text of ``--help``."""
        return _drawn(_blocks(self, cast("typer.Context", ctx), _commands_panel(self.summaries())))

    def summaries(self) -> Mapping[str, str]:
        """The commands by name, each with a line on what it does."""
        return {name: summary(command.help or "") for name, command in self.commands.items()}


def flowing(text: str) -> str:
    """Paragraphs of one line each, which the terminal wraps at its own width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def summary(text: str) -> str:
    """The first paragraph, on one line."""
    return flowing(text).partition("\n\n")[0]


def _drawn(blocks: Iterable[RenderableType]) -> str:
    from bncli.cli.console import drawn

    return drawn(*blocks).rstrip("\n")


def _blocks(command: Command | Group, ctx: typer.Context, *panels: Panel) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    yield Padding(Text(command.get_usage(ctx), style="bold"), (1, 1))
    yield Padding(_marked(flowing(command.help or "")), (0, 1, 1, 1))
    for title, parameters in _by_panel(cast("list[Parameter]", command.get_params(ctx))).items():
        yield _parameters_panel(title, parameters, ctx)
    yield from panels
    if command.epilog:
        yield Padding(_marked(flowing(command.epilog)), (1, 1, 0, 1))


def _by_panel(parameters: Iterable[Parameter]) -> Mapping[str, list[Parameter]]:
    """The parameters by the title of their panel: arguments first, then options without a panel of their own."""
    found: dict[str, list[Parameter]] = {_ARGUMENTS: [], _OPTIONS: []}
    for parameter in parameters:
        if not parameter.hidden:
            default = _OPTIONS if _is_option(parameter) else _ARGUMENTS
            found.setdefault(parameter.rich_help_panel or default, []).append(parameter)
    return {title: members for title, members in found.items() if members}


def _is_option(parameter: Parameter) -> bool:
    return parameter.opts[0].startswith("-")


def _parameters_panel(title: str, parameters: Iterable[Parameter], ctx: typer.Context) -> Panel:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(max_width=_WIDEST_TYPE, style="yellow")
    table.add_column(ratio=1)
    for parameter in parameters:
        table.add_row(_names(parameter), Text(_type(parameter, ctx)), _meaning(parameter))
    return _framed(table, title)


def _commands_panel(summaries: Mapping[str, str]) -> Panel:
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True, style="bold cyan")
    table.add_column(ratio=1)
    for name, text in summaries.items():
        table.add_row(name, _marked(text))
    return _framed(table, _COMMANDS)


def _framed(table: RenderableType, title: str) -> Panel:
    from rich.panel import Panel

    return Panel(table, title=title, title_align="left", border_style="dim")


def _names(parameter: Parameter) -> Text:
    """``--quiet, -q``, ``--[no-]bn``; an argument by the name in the usage."""
    from rich.text import Text

    if not _is_option(parameter):
        return Text(parameter.metavar or parameter.name.upper(), style="bold cyan")
    long_first = sorted(parameter.opts, key=lambda name: not name.startswith("--"))  # Click keeps --help's in a set
    names = [f"--[no-]{name[2:]}" if f"--no-{name[2:]}" in parameter.secondary_opts else name for name in long_first]
    return Text(", ".join(names), style="bold cyan")


def _type(parameter: Parameter, ctx: typer.Context) -> str:
    """``<int>``, ``<int ≥ 1>``, ``<pre | post>``; nothing for a flag, and for an argument, whose name says it."""
    if getattr(parameter, "is_flag", False) or not _is_option(parameter):
        return ""
    word = (parameter.metavar or parameter.display_type_rich(ctx) or "").replace("|", " | ")
    return word.replace(" range>", f"{_range(parameter)}>")


def _range(parameter: Parameter) -> str:
    least, most = (getattr(parameter, name, None) for name in ("min", "max"))
    if least is not None and most is not None:
        return f" from {least} to {most}"
    return f" ≥ {least}" if least is not None else f" ≤ {most}"


def _meaning(parameter: Parameter) -> Text:
    """The help text, with the default."""
    text = _marked(" ".join((parameter.help or "").split()))
    default = _default(parameter)
    return text.append(f" [default: {default}]", style="dim") if default else text


def _default(parameter: Parameter) -> str:
    """The default as the user would write it; "" if there is none to show."""
    value = parameter.default
    if not parameter.show_default or value is None or value is False:
        return ""
    return parameter.opts[0] if value is True else str(value)


def _marked(text: str) -> Text:
    """A text with the names of options in colour."""
    from rich.text import Text

    marked = Text(text)
    marked.highlight_regex(_FLAGS, "cyan")
    return marked
