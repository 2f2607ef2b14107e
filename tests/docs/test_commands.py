"""Every command that README and documentation show runs, or at least is a call that the command takes."""

from pathlib import Path

import pytest

from docs.conftest import ROOT, doc_sessions, reference_text, shortened

ALL_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = sorted({command for page in ALL_PAGES for command in doc_sessions.commands_not_run(page.read_text())})
# Exit code of a check that two epochs may not pass.
CHECKED = 3


@pytest.mark.pages
@pytest.mark.parametrize("page", doc_sessions.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.parametrize("is_slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_commands_run(place, page, is_slow):
    text = page.read_text(encoding="utf-8")
    for name, content in doc_sessions.files(text):
        Path(name).write_text(content, encoding="utf-8")
    for session in doc_sessions.sessions(text):
        if session.is_slow == is_slow:
            result = place.run(session.command)
            accepted = {0, CHECKED} if "--min-accuracy" in session.command else {0}
            assert result.exit_code in accepted, f"{session.command}\n{result.output}"


def test_every_page_with_sessions_is_run():
    with_sessions = {page for page in ALL_PAGES if list(doc_sessions.sessions(page.read_text()))}
    assert with_sessions <= set(doc_sessions.PAGES)


def test_there_are_commands_that_are_not_run():
    assert len(NOT_RUN) >= 5


@pytest.mark.parametrize("command", NOT_RUN)
def test_a_command_that_is_not_run_is_a_call_the_command_takes(command):
    words = command.split()[1:]
    if words[0].startswith("--"):
        assert words[0] in ("--install-completion", "--show-completion")
        return
    name = next(name for name in reference_text.command_names() if command.startswith(f"bncli {name} "))
    known = {option for param in reference_text.command_named(name).params for option in param.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_long_trainings_are_shortened():
    command = "bncli train --epochs 40 --schedule-epochs 20 --out 'a b'"
    assert list(shortened(command)) == ["train", "--epochs", "2", "--schedule-epochs", "2", "--out", "a b"]
    assert list(shortened("bncli train --epochs 3")) == ["train", "--epochs", "3"]
