"""The code on the page of each framework runs as it stands, and folds the BN in it."""

import importlib.util

import pytest

from docs.conftest import ROOT, doc_sessions

PAGES = sorted((ROOT / "docs" / "frameworks").glob("*.md"))
LIBRARIES = {"equinox": "equinox", "haiku": "haiku", "keras": "keras"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_framework_runs(page, capsys):
    if importlib.util.find_spec(LIBRARIES.get(page.stem, "flax")) is None:
        pytest.skip(f"{page.stem} is not installed")
    (code,) = [block.body for block in doc_sessions.blocks(page.read_text(encoding="utf-8")) if block.info == "python"]
    names: dict[str, object] = {}
    exec(compile(code, page.name, "exec"), names)
    assert [row.status for row in names["folded"].report.norms] == ["folded"]
    assert names["folded"].report.verification.status == "proved"
    assert capsys.readouterr().out


def test_each_framework_has_a_page_in_the_contents():
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert len(PAGES) == 5
    assert all(f"frameworks/{page.stem}" in contents for page in PAGES)
