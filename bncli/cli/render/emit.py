"""Print a result on stdout, as text or as one JSON document."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import TypeVar

from rich.console import RenderableType

from bncli.cli.console import drawn, result_console
from bncli.cli.streams import write_result
from bncli.cli.untrusted import inert_json
from bncli.config.file_names import displayed_document
from bncli.process import distributed

T = TypeVar("T")


def emit(
    result: T, *, as_json: bool, to_json: Callable[[T], dict[str, object]], to_text: Callable[[T], RenderableType]
) -> None:
    """Print the result on stdout, as one JSON document or as text; of several processes, the first alone does."""
    if not distributed.is_first():
        return
    if as_json:
        emit_json(to_json(result))
    else:
        _print_text(to_text(result))


def emit_json(document: dict[str, object]) -> None:
    """Print one JSON document on stdout."""
    only_ascii = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
    text = json.dumps(displayed_document(_without_nan(document)), ensure_ascii=only_ascii, allow_nan=False)
    write_result(f"{inert_json(text)}\n")


def _without_nan(value: object) -> object:
    """Replace NaN and infinity by None: JSON has no such numbers, and many readers refuse them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_text(text: RenderableType) -> None:
    """Print the text; in a file or a pipe without blanks at the ends of lines."""
    console = result_console()
    if console.is_terminal:
        console.print(text)
        return
    write_result("\n".join(line.rstrip() for line in drawn(text).split("\n")))
