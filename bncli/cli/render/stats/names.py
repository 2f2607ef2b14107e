"""The part that all names of a report share, which a table leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from bncli.inspection.names import common_prefix

# Longer names leave no room for the numbers on 80 columns.
LONG_NAME = 18


def prefix_to_drop(names: Sequence[str]) -> str:
    """Return the beginning that all names share, if a name is too long for a table with it; otherwise ""."""
    return common_prefix(names) if max(map(cell_len, names), default=0) > LONG_NAME else ""


def prefix_note(prefix: str) -> str:
    """Return the sentence that says what the names of a table are missing."""
    return f"all names begin with {prefix}"
