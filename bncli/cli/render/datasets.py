"""The results of ``bncli data list``, ``bncli data fetch`` and ``bncli data pack``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import marked
from bncli.process.memory import format_bytes

if TYPE_CHECKING:
    from bncli.data import KnownDataset
    from bncli.data.packing import PackResult


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


def packed_json(result: PackResult) -> dict[str, object]:
    """Return the ``bncli.data-pack/1`` document."""
    return {
        "schema": "bncli.data-pack/1",
        "folder": str(result.folder),
        "sha256": result.sha256,
        "num_images": result.num_images,
        "num_bytes": result.num_bytes,
        "shards": result.shards,
        "kept": result.kept,
        "warnings": list(result.notes),
    }


def packed_text(result: PackResult) -> RenderableType:
    """Return a sentence on what was packed."""
    kept = f", {result.kept} of them from before" if result.kept else ""
    shards = f"{result.shards} shard{'s' * (result.shards > 1)}"
    size = f"{result.num_images:,} images, {format_bytes(result.num_bytes)} in {shards}{kept}"
    return f"{marked(str(result.folder))}: {size}; SHA-256 {result.sha256[:12]}…"
