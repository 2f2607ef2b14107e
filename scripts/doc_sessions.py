"""The commands that README and documentation show, and the output below each.

A fenced block of `console` holds sessions: lines that begin with `$ ` are commands, the others are their output.
`console slow` is the same for commands that take more than a minute. A block of `sh` holds commands that are not run,
because they need the network or other data. A block of `python` or `toml` whose first line is `# NAME.py` or
`# NAME.toml` is a file that the commands of its page use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDES = (
    "train",
    "weights",
    "models",
    "fine-tune",
    "report",
    "lr-find",
    "sweep",
    "study",
    "resume",
    "large-data",
    "diagnose",
    "inspect",
    "fold",
    "quantize",
    "bench",
)
# In the order of reading: a page finds the checkpoints that the pages before it have made. A slow session finds those
# of `PICTURE` and of the slow sessions before it alone: `pytest -m slow` runs no others.
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "get-started.md",
    ROOT / "docs" / "es" / "get-started.md",
    *(ROOT / "docs" / "guides" / f"{name}.md" for name in GUIDES),
)
# The session of the README's picture. Every page may use the checkpoints that it makes.
PICTURE = ("bncli train --bn --epochs 20", "bncli inspect-stats ckpt", "bncli fold ckpt out")
_BLOCK = re.compile(r"^```(?P<info>[a-z][a-z ]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?P<name>\w+\.(?:py|toml))\n")
_NUMBER = re.compile(r"\d[\d.,]*")
PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        info: the words after the fence.
        body: its lines, each with its line end.
        start: offset of the body in the page.
    """

    info: str
    body: str
    start: int


@dataclass(frozen=True)
class Session:
    """One command with its output, as a page shows them."""

    command: str
    output: tuple[str, ...]
    is_slow: bool


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for match in _BLOCK.finditer(text):
        yield Block(match["info"].strip(), match["body"], match.start("body"))


def sessions(text: str) -> Iterator[Session]:
    """The commands that a page runs, in order."""
    for block in blocks(text):
        if block.info.split()[0] == "console":
            yield from sessions_of_block(block)


def sessions_of_block(block: Block) -> Iterator[Session]:
    """The commands of one `console` block."""
    first, *rest = re.split(r"^\$ ", block.body, flags=re.MULTILINE)
    assert not first, f"a console block begins with output: {first!r}"
    for part in rest:
        command, *output = part.splitlines()
        yield Session(command, tuple(output), is_slow="slow" in block.info)


def commands_not_run(text: str) -> Iterator[str]:
    """The bncli commands of the `sh` blocks; several may share a line."""
    for block in blocks(text):
        if block.info == "sh":
            for part in re.split(r"&&|\n", re.sub(r"\s+#.*", "", block.body)):
                if part.strip().startswith("bncli "):
                    yield part.strip()


def files(text: str) -> Iterator[tuple[str, str]]:
    """Name and content of the files that a page shows."""
    for block in blocks(text):
        if block.info in ("python", "toml") and (match := _FILE.match(block.body)):
            yield match["name"], block.body


def shown(output: list[str], like: tuple[str, ...]) -> list[str]:
    """The part of an output that a page shows: as many lines before, between and after `…` as it shows now.

    Lines between two `…` are found by their words, without the numbers in them. An output of which a part is not found
    is shown whole.
    """
    if not like:
        return []
    parts: list[list[str]] = [[]]
    for line in like:
        parts.append([]) if line == "…" else parts[-1].append(line)
    first, *others = parts
    if others and len(first) + len(others[-1]) < len(output):
        lines, end = output[: len(first)], len(output) - len(others[-1])
        for part in others[:-1]:
            place = _place(output, part, len(first), end)
            if place is None:
                return output
            lines += ["…", *output[place : place + len(part)]]
        return [*lines, "…", *output[end:]]
    if len(like) == len(output):
        return [cut(line, old) for line, old in zip(output, like, strict=True)]
    return output


def _place(output: list[str], part: list[str], start: int, end: int) -> int | None:
    """The first line of a part of an output, looked for from ``start`` to before ``end``; None if it is not there."""
    words, wanted = [_NUMBER.sub("#", line) for line in output], [_NUMBER.sub("#", line) for line in part]
    return next((i for i in range(start, end - len(part) + 1) if words[i : i + len(part)] == wanted), None)


def cut(line: str, old: str) -> str:
    """A line cut where the page cuts it with `…`."""
    return f"{line[: len(old) - 1]}…" if old.endswith("…") and len(line) > len(old) else line
