"""Layers by name: selection by the user's patterns, and the common prefix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from bncli.errors import UsageError

_SEPARATORS = re.compile(r"[./]")
MAX_SUGGESTIONS = 5


def match_layers(names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The layers that match one of the patterns, in their own order.

    A pattern is a name, the end of a name after a "." or "/", or a name with ``*`` as a wildcard.

    Raises:
        UsageError: no layer matches a pattern; the remedy suggests similar names.
    """
    if not names:
        raise UsageError("--layer: there is no BN layer to select", remedy="Leave --layer out to see why.")
    selected: set[str] = set()
    for pattern in patterns:
        found = _matches(names, pattern)
        if not found:
            raise UsageError(f"--layer {pattern!r}: no such BN layer", remedy=_suggestion(names, pattern))
        selected.update(found)
    return tuple(name for name in names if name in selected)


def _matches(names: Sequence[str], pattern: str) -> list[str]:
    """The matches by the first reading of the pattern that has any."""
    ways = (
        [name for name in names if name == pattern],
        [name for name in names if name.endswith((f".{pattern}", f"/{pattern}"))],
        [name for name in names if fnmatchcase(name, pattern)],
    )
    return next((found for found in ways if found), [])


def _suggestion(names: Sequence[str], pattern: str) -> str:
    close = difflib.get_close_matches(pattern, names, n=MAX_SUGGESTIONS, cutoff=0.4)
    if close:
        return f"Similar names: {', '.join(close)}."
    return f"The layers are {', '.join(names[:MAX_SUGGESTIONS])}{', …' if len(names) > MAX_SUGGESTIONS else ''}."


def common_prefix(names: Sequence[str]) -> str:
    """The common start of two or more names, up to and including a "." or "/": "module.backbone."; "" if none."""
    if len(names) < 2:
        return ""
    first, last = min(names), max(names)  # all names between these two share what these two share
    length = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    ends = [match.end() for match in _SEPARATORS.finditer(first[:length])]
    return first[: ends[-1]] if ends else ""
