"""What all renderers share: printing one form of a result, plain tables, configurations as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.table import Table

T = TypeVar("T")


def emit(
    result: T, *, as_json: bool, to_json: Callable[[T], dict[str, object]], to_text: Callable[[T], RenderableType]
) -> None:
    """Prints the result on stdout, as one JSON document or as text."""
    if as_json:
        print(json.dumps(_without_nan(to_json(result)), ensure_ascii=False, allow_nan=False))
    else:
        Console(highlight=False).print(to_text(result))


def _without_nan(value: object) -> object:
    """NaN and infinity become null: they are no JSON, and many readers refuse them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_table(*columns: str, title: str | None = None, words: tuple[str, ...] = ()) -> Table:
    """A table without lines; the first column and those named in ``words`` hold words, the others numbers."""
    table = Table(title=title, box=None, padding=(0, 1), title_justify="left", header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        wordy = index == 0 or column in words
        table.add_column(column, justify="left" if wordy else "right", overflow="fold", no_wrap=not wordy)
    return table


def jsonable(config: Any) -> Any:  # noqa: ANN401 - any of the configuration's dataclasses
    """A configuration dataclass as JSON types."""
    return json.loads(json.dumps(asdict(config)))
