"""The results of ``bncli data list`` and ``bncli data fetch``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import marked

if TYPE_CHECKING:
    from bncli.data import KnownDataset


@dataclass(frozen=True)
class Fetched:
    """A data set that has been downloaded, and the folder that holds it."""

    name: str
    folder: Path


def datasets_json(rows: tuple[KnownDataset, ...]) -> dict[str, object]:
    """Return the ``bncli.data-list/1`` document."""
    return {
        "schema": "bncli.data-list/1",
        "datasets": [
            {
                "name": row.name,
                "description": row.description,
                "image_shape": list(row.image_shape),
                "num_classes": row.num_classes,
                "num_examples": row.num_examples,
                "found": row.found,
            }
            for row in rows
        ],
    }


def datasets_text(rows: tuple[KnownDataset, ...]) -> RenderableType:
    """Return a table with one row per data set."""
    table = plain_table("name", "images", "size", "classes", "where", words=("where",))
    for row in rows:
        where = marked(row.found) if row.found else f"[dim]bncli data fetch {row.name}[/]"
        table.add_row(
            row.name, f"{row.num_examples:,}", "×".join(map(str, row.image_shape)), str(row.num_classes), where
        )
    return table


def fetched_json(fetched: Fetched) -> dict[str, object]:
    """Return the ``bncli.data-fetch/1`` document."""
    return {"schema": "bncli.data-fetch/1", "name": fetched.name, "folder": str(fetched.folder)}
