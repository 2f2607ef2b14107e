"""The pages of the claims have the numbers of the recorded study, and every experiment has a page."""

import json
import re

import pytest

from bncli.studies import experiments
from docs.conftest import ROOT

CLAIMS = ROOT / "docs" / "claims"
RECORDED = json.loads((ROOT / "scripts" / "results" / "study.json").read_text(encoding="utf-8"))
ROWS = {row["name"]: row for row in RECORDED["experiments"]}


def test_every_experiment_is_recorded_and_has_a_page():
    assert list(ROWS) == list(experiments())
    assert {page.stem for page in CLAIMS.glob("*.md")} == {"index", *ROWS}


@pytest.mark.parametrize("name", ROWS)
def test_a_page_has_the_recorded_numbers_and_figures(name):
    text, row = (CLAIMS / f"{name}.md").read_text(encoding="utf-8"), ROWS[name]
    assert f"**{row['verdict'].capitalize()}.** {row['sentence']}" in text
    assert row["rule"] == experiments()[name].rule
    assert row["rule"] in text
    figures = re.findall(r"\]\(figures/([\w-]+)\.svg\)", text)
    assert figures == [figure["name"] for figure in row["figures"]]
    assert all((CLAIMS / "figures" / f"{figure}.svg").is_file() for figure in figures)


def test_the_overview_has_every_verdict():
    text = (CLAIMS / "index.md").read_text(encoding="utf-8")
    for name, row in ROWS.items():
        assert f"| [{row['claim']}]({name}.md) | **{row['verdict']}** | {row['sentence']} |" in text
