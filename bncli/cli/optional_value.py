"""An option that may be given without its value, as ``--data`` of ``bncli inspect-stats``; Typer has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from bncli.cli.help import Command

if TYPE_CHECKING:
    import typer

OPTION = "--data"


class _Option(Protocol):
    """The parts of an option that tell if the next word is its value."""

    opts: list[str]
    secondary_opts: list[str]
    is_flag: bool


class DataCommand(Command):
    """A command whose ``--data`` takes a source or stands alone; alone, its value is the empty text."""

    def parse_args(self, ctx: object, args: list[str]) -> list[str]:
        """Read the words of the command line."""
        flags = {name for option in self._options() if option.is_flag for name in option.opts + option.secondary_opts}
        return super().parse_args(cast("typer.Context", ctx), with_value(args, flags=flags))

    def _options(self) -> Iterator[_Option]:
        return (cast("_Option", parameter) for parameter in self.params if parameter.opts[0].startswith("-"))


def with_value(args: Sequence[str], *, flags: set[str]) -> list[str]:
    """The words with ``--data=`` in place of a ``--data`` that stands alone.

    It stands alone at the end, before another option, and before the only word that can be the command's argument:
    ``inspect-stats --data CKPT`` has always named a checkpoint.

    Args:
        args: the words after the command.
        flags: the options that take no value.
    """
    words = list(args)
    end = words.index("--") if "--" in words else len(words)
    for place in [place for place, word in enumerate(words[:end]) if word == OPTION]:
        follows = words[place + 1] if place + 1 < end else None
        others = words[:place] + words[place + 2 :]
        if follows is None or _is_option(follows) or not _has_argument(others, flags):
            words[place] = f"{OPTION}="
    return words


def _has_argument(words: Sequence[str], flags: set[str]) -> bool:
    """True if a word is neither an option nor the value of one."""
    is_value = False
    for number, word in enumerate(words):
        if is_value:
            is_value = False
        elif word == "--":
            return number + 1 < len(words)
        elif _is_option(word):
            is_value = "=" not in word and word not in flags
        else:
            return True
    return False


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"
