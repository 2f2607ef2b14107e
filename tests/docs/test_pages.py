"""README and documentation name what exists, and nothing that exists is missing from the reference."""

import re

import pytest

import bncli
from bncli.inspection.findings import catalogue
from docs.conftest import ROOT, doc_sessions, reference_text

README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "docs" / "reference"
COMMANDS = reference_text.command_names()
FIRST_COMMAND = "python3 -m venv .venv && . .venv/bin/activate && pip install . && bncli train --bn --epochs 20"
TEST_COMMAND = "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[test]' && pytest"
MAX_README_BYTES = 12_000
# Pages that GitHub shows as they are.
LINKED = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def anchors(text):
    """The places of a page that a link can name: its headings in lower case, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short():
    assert len(README.encode()) <= MAX_README_BYTES


def test_readme_has_the_two_commands():
    first, second, *_ = [block.body for block in doc_sessions.blocks(README)]
    assert (first, second) == (f"{FIRST_COMMAND}\n", f"{TEST_COMMAND}\n")


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.stem)
def test_links_name_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, fragment = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not fragment or fragment in anchors(file.read_text(encoding="utf-8")), target


def test_every_command_has_a_page_of_options():
    pages = (REFERENCE / "commands").glob("*.md")
    documented = [name for page in pages for name in re.findall(r"{bncli-command} (.+)", page.read_text())]
    assert sorted(documented) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_option_with_its_help(command):
    text = reference_text.command_reference(command)
    for param in reference_text.command_named(command).params:
        if param.opts[0].startswith("-") and not getattr(param, "hidden", False):
            assert re.search(rf"{{option}} .*{param.opts[0]}\b", text), param.opts
            assert " ".join(param.help.split()) in text


def test_values_and_defaults_read_as_a_user_writes_them():
    text = reference_text.command_reference("train")
    assert "{option} --epochs integer ≥ 1" in text
    assert "{option} --bn-placement pre | post" in text
    assert "{option} --bn, --no-bn" in text
    assert "{option} --bn-momentum number ≥ 0 and < 1" in text
    assert "Default: `--bn`." in text
    assert "Key: `training.keep`. May change with `--resume`." in text


def test_the_reference_has_every_finding():
    text = reference_text.findings_reference()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [entry.code for entry in catalogue()]


def test_the_map_has_every_room():
    rooms = {path.name for path in (ROOT / "bncli").iterdir() if path.is_dir() and path.name != "__pycache__"}
    drawn = set(re.findall(r"`(\w+)/`", reference_text.house_map()))
    assert drawn == rooms


def test_the_newcomers_table_names_files_that_exist():
    page = (ROOT / "docs" / "contributing" / "index.md").read_text(encoding="utf-8")
    table = page.split("## A newcomer's path")[1].split("\n## ")[0]
    paths = re.findall(r"`((?:bncli|tests|scripts)/[\w/.]+)`", table)
    assert len(paths) >= 10
    for path in paths:
        assert (ROOT / path).exists(), path


def test_version_is_in_the_changelog():
    assert f"## {bncli.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


DIFFED = sorted((ROOT / "docs" / "_snippets").glob("*.md"))


def diffs(text):
    """(file, its lines in the diff) for each file of each diff of a page."""
    for block in doc_sessions.blocks(text):
        if block.info == "diff":
            for part in re.split(r"^--- a/", block.body, flags=re.MULTILINE)[1:]:
                name, _, *lines = part.splitlines()
                yield name, lines


@pytest.mark.parametrize("page", DIFFED, ids=lambda page: page.stem)
def test_diffs_fit_the_code(page):
    found = list(diffs(page.read_text(encoding="utf-8")))
    assert found
    for name, lines in found:
        code = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for line in lines:
            if line.startswith((" ", "-")):
                assert line[1:] in code, f"{name}: {line}"
