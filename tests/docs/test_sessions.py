"""Laws of `scripts/doc_sessions.py`: which part of a page is a command, and which part of its output is shown."""

import pytest

from docs.conftest import doc_sessions

PAGE = """\
# Title

```console
$ bncli train
a
…
$ bncli eval ckpt
```

```console slow
$ bncli bench ckpt
```

```sh
bncli data fetch cifar10   # a download
cd x && bncli eval y && ls
```

```python
# net.py
import flax
```
"""


def test_sessions_of_a_page():
    found = [(session.command, session.output, session.is_slow) for session in doc_sessions.sessions(PAGE)]
    assert found == [
        ("bncli train", ("a", "…"), False),
        ("bncli eval ckpt", (), False),
        ("bncli bench ckpt", (), True),
    ]


def test_commands_that_are_not_run():
    assert list(doc_sessions.commands_not_run(PAGE)) == ["bncli data fetch cifar10", "bncli eval y"]


def test_files_of_a_page():
    assert dict(doc_sessions.files(PAGE)) == {"net.py": "# net.py\nimport flax\n"}


def test_a_console_block_must_begin_with_a_command():
    with pytest.raises(AssertionError, match="begins with output"):
        list(doc_sessions.sessions("```console\noutput\n```\n"))


@pytest.mark.parametrize(
    ("like", "shown"),
    [
        (("x", "…", "y", "z"), ["1", "…", "4", "5"]),
        (("…",), ["…"]),
        ((), []),
        (("…", "y"), ["…", "5"]),
        (("a", "b", "c", "…", "d", "e"), ["1", "2", "3", "4", "5"]),  # nothing is left to leave out
        (("a", "b"), ["1", "2", "3", "4", "5"]),
    ],
)
def test_as_many_lines_are_shown_as_before(like, shown):
    assert doc_sessions.shown(["1", "2", "3", "4", "5"], like) == shown


@pytest.mark.parametrize(
    ("like", "shown"),
    [
        (("x", "…", "test 0.9 (17*)", "…", "z"), ["1", "…", "test 0.97 (4*)", "…", "5"]),
        (("…", "test 1", "…"), ["1", "2", "test 0.97 (4*)", "4", "5"]),  # not found
    ],
)
def test_lines_between_two_cuts_are_found_by_their_words(like, shown):
    assert doc_sessions.shown(["1", "2", "test 0.97 (4*)", "4", "5"], like) == shown


def test_a_line_is_cut_where_it_was_cut():
    assert doc_sessions.shown(["abcdef"], ("xyz…",)) == ["abc…"]
