"""Layers by name: which ones a user means, and what all names have in common."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from bncli.errors import UsageError

_SEPARATORS = re.compile(r"[./]")
MAX_SUGGESTIONS = 5


def match_layers(names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The layers that one of the patterns means, in their order.

    A pattern is a name, the end of one from a "." or "/" on, or has ``*`` as a wildcard.

    Raises:
        UsageError: a pattern means none; names those that are called much the same.
    """
    if not names:
        raise UsageError("--layer: there is no BN layer", remedy="Leave --layer out to see why.")
    meant: set[str] = set()
    for pattern in patterns:
        found = _matches(names, pattern)
        if not found:
            raise UsageError(f"--layer {pattern!r}: no such BN layer", remedy=_suggestion(names, pattern))
        meant.update(found)
    return tuple(name for name in names if name in meant)


def _matches(names: Sequence[str], pattern: str) -> list[str]:
    """By the first way of reading the pattern that means anything."""
    ways = (
        [name for name in names if name == pattern],
        [name for name in names if name.endswith((f".{pattern}", f"/{pattern}"))],
        [name for name in names if fnmatchcase(name, pattern)],
    )
    return next((found for found in ways if found), [])


def _suggestion(names: Sequence[str], pattern: str) -> str:
    close = difflib.get_close_matches(pattern, names, n=MAX_SUGGESTIONS, cutoff=0.4)
    if close:
        return f"Close: {', '.join(close)}."
    return f"There are {', '.join(names[:MAX_SUGGESTIONS])}{', …' if len(names) > MAX_SUGGESTIONS else ''}."


def common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a "." or "/" and with it: "module.backbone."; "" of fewer than two."""
    if len(names) < 2:
        return ""
    first, last = min(names), max(names)  # what these two share, all between them share
    length = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    ends = [match.end() for match in _SEPARATORS.finditer(first[:length])]
    return first[: ends[-1]] if ends else ""
