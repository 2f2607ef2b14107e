"""Texts from files, made safe to show: class and layer names, paths, notes, and messages that quote them.

An escape character in a name could drive the terminal, a direction character reverse a line, and a line break fake a
message. Everything that prints such a text passes it through ``visible``.
"""

from __future__ import annotations

import json
import re

from bncli.config.file_names import displayed

_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    r"""The text with everything that is not printable spelled out: ``\x1b``, ``\n``, ``\u202e``."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in displayed(text)
    )


def visible_lines(text: str) -> str:
    """The text as ``visible``, with its lines kept apart; all but the first are indented, so none fakes a message."""
    first, *others = map(visible, text.split("\n"))
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in others)])


def inert(text: str) -> str:
    """The text as ``visible``, with its lines as they are."""
    return text if text.isprintable() else "\n".join(map(visible, text.split("\n")))


def inert_json(document: str) -> str:
    r"""The same JSON document with everything that is not printable as ``\u001b``."""
    return _NOT_ASCII.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], document)


def csv_cell(value: object) -> object:
    """The value of a cell: a text is visible, and follows an apostrophe if it would be a formula; numbers stay."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(_FORMULA) else visible(value)
