"""Commands that are imported when they are used: ``bncli --help`` needs none of them, and ``bncli fold`` one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import typer

from bncli.cli.help import Command, Group, flowing, summary

if TYPE_CHECKING:
    from typer.core import TyperCommand

Run = Callable[..., None]


@dataclass(frozen=True)
class Place:
    """A command before its import.

    Attributes:
        function: ``module:name`` in ``bncli.cli``; its docstring is the help of the command.
        summary: the first paragraph of that docstring, for the help of the group.
        kind: ``module:name`` of the class that reads its words.
    """

    function: str
    summary: str
    kind: str = "help:Command"

    def command(self, name: str, wrap: Callable[[Run], Run]) -> TyperCommand:
        """The command itself, by that name, which runs what ``wrap`` makes of its function."""
        function = cast("Run", _named(self.function))
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        kind = cast("type[Command]", _named(self.kind))
        alone.command(name, cls=kind, help=flowing(function.__doc__ or ""))(wrap(function))
        return cast("TyperCommand", typer.main.get_command(alone))


class Commands(MutableMapping[str, "TyperCommand"]):
    """The commands of a group by name, each imported when it is asked for."""

    def __init__(
        self, places: Mapping[str, Place], wrap: Callable[[Run], Run], *, others: Mapping[str, TyperCommand]
    ) -> None:
        """The commands at these places, in this order, then the others.

        Args:
            places: name -> where the command is.
            wrap: what is put around the function of each.
            others: commands that are there already.
        """
        self._places = places
        self._wrap = wrap
        self._found = dict(others)

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in self._found:
            self._found[name] = self._places[name].command(name, self._wrap)
        return self._found[name]

    def __setitem__(self, name: str, command: TyperCommand) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from (name for name in self._found if name not in self._places)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def group_of(places: Mapping[str, Place], wrap: Callable[[Run], Run]) -> type[Group]:
    """The class of a group with these commands, and ``wrap`` around the function of each."""

    class PlacedGroup(Group):
        def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - what Typer gives
            super().__init__(**attributes)
            others = cast("Mapping[str, TyperCommand]", self.commands)
            self.commands = cast("MutableMapping[str, Any]", Commands(places, wrap, others=others))

        def summaries(self) -> Mapping[str, str]:
            return {
                name: places[name].summary if name in places else summary(self.commands[name].help or "")
                for name in self.commands
            }

    return PlacedGroup


def _named(place: str) -> object:
    module, _, name = place.partition(":")
    return getattr(import_module(f"bncli.cli.{module}"), name)
