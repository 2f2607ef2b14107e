"""The pages on the claims have the numbers of the recorded studies, in each language; every experiment has a page."""

import html
import re
from collections import Counter

import pytest

from bncli.studies import experiments
from docs.conftest import ROOT, claim_pages, doc_sessions, languages

DOCS = ROOT / "docs"
ROWS = {row["name"]: row for row in claim_pages.recorded("digits")["experiments"]}
FASHION = {row["name"]: row for row in claim_pages.recorded("fashion-mnist")["experiments"]}
PHRASES = claim_pages.spanish()
PAGES = dict(claim_pages.pages(PHRASES))
TWINS = sorted(str(page.relative_to(DOCS / "es").with_suffix("")) for page in (DOCS / "es").rglob("*.md"))


def name_of(page):
    return str(page.relative_to(DOCS)) if hasattr(page, "relative_to") else None


def read(page):
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def numbers(text):
    """The numbers of a text, each as often as it has them; English groups thousands by commas."""
    return Counter(re.sub(r"(?<=\d),(?=\d{3})", "", found) for found in re.findall(claim_pages.NUMBER, text))


def commands(text):
    """The words that a text shows as code."""
    return Counter(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text))


def pictures(text):
    return [found.rpartition("/")[2] for found in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)]


def web_links(text):
    return Counter(re.findall(r"\((https://[^)]+)\)", text))


def test_every_experiment_is_recorded_and_has_a_page():
    assert list(ROWS) == list(experiments())
    assert {page.stem for page in (DOCS / "claims").glob("*.md")} == {"index", *ROWS}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_what_the_script_writes(page):
    assert claim_pages.replaced(page, PAGES[page]) == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_a_page_has_the_recorded_numbers_and_figures(name):
    text, row = read(f"claims/{name}"), ROWS[name]
    assert f"**{row['verdict'].capitalize()}.** {row['sentence']}" in text
    assert row["rule"] == experiments()[name].rule
    assert row["rule"] in text
    figures = re.findall(r"\]\(figures/([\w-]+)\.svg\)", text)
    assert figures == [figure["name"] for figure in row["figures"]]
    assert all((claim_pages.FIGURES["digits"] / f"{figure}.svg").is_file() for figure in figures)


@pytest.mark.parametrize("name", FASHION)
def test_a_page_says_whether_fashion_mnist_agrees(name):
    text, row = read(f"claims/{name}"), FASHION[name]
    agrees = row["verdict"] == ROWS[name]["verdict"]
    assert ("The same verdict: **" in text, "Another verdict: **" in text) == (agrees, not agrees)
    assert row["sentence"] in text


def test_the_page_on_fashion_mnist_has_each_figure_and_the_report():
    text = read("results/fashion-mnist")
    figures = [figure["name"] for row in FASHION.values() for figure in row["figures"]]
    assert pictures(text) == [f"{figure}.svg" for figure in figures]
    assert all((claim_pages.FIGURES["fashion-mnist"] / f"{figure}.svg").is_file() for figure in figures)
    report = html.unescape(claim_pages.FASHION_REPORT.read_text(encoding="utf-8"))
    assert all(row["sentence"] in report for row in FASHION.values())


def test_the_overview_has_every_verdict():
    text = read("claims/index")
    for name, row in ROWS.items():
        assert f"| [{row['claim']}]({name}.md) | **{row['verdict']}** | {row['sentence']} |" in text


def test_every_page_on_claims_and_the_first_page_are_in_spanish_too():
    assert set(TWINS) == {"get-started", "claims/index", *(f"claims/{name}" for name in ROWS)}


@pytest.mark.parametrize("page", TWINS)
def test_twins_have_the_same_numbers_commands_figures_and_sources(page):
    english, spanish = read(page), read(languages.twin_of(page))
    for part in (numbers, commands, pictures, web_links):
        assert part(spanish) == part(english), part.__name__
    assert list(doc_sessions.sessions(spanish)) == list(doc_sessions.sessions(english))
    assert [block.info for block in doc_sessions.blocks(spanish)] == [
        block.info for block in doc_sessions.blocks(english)
    ]


@pytest.mark.parametrize("page", TWINS)
def test_a_twin_names_its_twin(page):
    assert languages.twin_of(languages.twin_of(page)) == page


def test_every_phrase_is_used():
    assert PHRASES.used == set(PHRASES.texts)


def test_a_phrase_keeps_its_numbers():
    say = claim_pages.Phrases({"{} of {}": "de {1}, {0}", "none": "nada", "a {} is no pattern here": "x"})
    assert [say("1.5e-07 of 1,024"), say("none"), say("-0.4 of +3")] == ["de 1,024, 1.5e-07", "nada", "de +3, -0.4"]
    assert say.used == {"{} of {}", "none"}


@pytest.mark.parametrize("text", ["one of two", "None", "1 of 2 and more"])
def test_a_text_without_a_translation_is_an_error(text):
    with pytest.raises(LookupError, match="no translation"):
        claim_pages.Phrases({"{} of {}": "{1} {0}", "none": "nada"})(text)
