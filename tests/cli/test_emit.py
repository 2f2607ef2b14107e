"""Results on stdout: text for a terminal, a pipe and a poor encoding, and JSON that every reader takes."""

import json
import sys
from io import BytesIO, TextIOWrapper

import pytest
from rich.text import Text

from bncli.cli.render import emit
from bncli.cli.render.tables import plain_table


class Terminal(TextIOWrapper):
    def isatty(self):
        return True


@pytest.fixture
def printed(monkeypatch):
    """A function (kind of stdout, encoding, result) that emits the result and returns the bytes on stdout."""

    def print_on(kind, encoding, result, *, as_json=False):
        stdout = kind(BytesIO(), encoding=encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", stdout)
        emit(result, as_json=as_json, to_json=lambda result: result, to_text=lambda result: result)
        stdout.flush()
        return stdout.buffer.getvalue()

    return print_on


def table():
    table = plain_table("name", "number", "words", words=("words",))
    table.add_row("a", "1", "some words")
    table.add_row("b", "22", "γ")
    return table


def test_a_pipe_gets_no_colours_and_no_blanks_at_the_ends_of_lines(printed):
    lines = printed(TextIOWrapper, "utf-8", table()).decode().split("\n")
    assert lines == ["name  number  words", "a          1  some words", "b         22  γ", ""]


def test_an_encoding_without_the_character_gets_a_plain_one(printed):
    assert printed(TextIOWrapper, "ascii", Text("γ ≤ 1 ▁▃█ 层")) == b"g < 1 _-# ?\n"
    assert printed(TextIOWrapper, "cp1252", Text("γ … 1 ▁▃█ é")) == "g … 1 _-# é\n".encode("cp1252")


def test_json_spells_out_what_would_drive_the_terminal(printed):
    content = printed(TextIOWrapper, "utf-8", {"a\u202e\x9b": "\x1b[2J\x7f\u2028é"}, as_json=True).decode()
    assert content.rstrip("\n").isprintable()
    assert "é" in content
    assert json.loads(content) == {"a\u202e\x9b": "\x1b[2J\x7f\u2028é"}


def test_a_terminal_gets_colours_unless_the_user_wants_none(printed, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert b"\x1b[31m" in printed(Terminal, "utf-8", Text("red", style="red"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert b"\x1b[31m" not in printed(Terminal, "utf-8", Text("red", style="red"))


def test_json_has_no_nan_and_is_readable_in_any_encoding(printed):
    document = {"nan": float("nan"), "inf": [float("inf"), (1.5, -float("inf"))], "name": "β 层"}
    expected = {"nan": None, "inf": [None, [1.5, None]], "name": "β 层"}
    for encoding in ("utf-8", "ascii", "latin-1"):
        content = printed(TextIOWrapper, encoding, document, as_json=True)
        assert content.endswith(b"}\n")
        assert json.loads(content.decode(encoding)) == expected
    assert "β 层".encode() in printed(TextIOWrapper, "utf-8", document, as_json=True)
