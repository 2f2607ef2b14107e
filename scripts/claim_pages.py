"""The pages on the claims about BN: the parts that come from recorded studies, in each language.

A recorded study is the `study.json` of `bncli study` without the points of its figures, in scripts/results/. The pages
of docs/claims show the digits, docs/results/fashion-mnist.md shows Fashion-MNIST, and each claim's page compares both.
Every page of docs/claims has a twin in docs/es/claims with the same numbers: the text of both comes from here, and
docs/es/phrases.toml translates it. A text without a translation is an error.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PHRASES = DOCS / "es" / "phrases.toml"
RECORDS = {
    "digits": ROOT / "scripts" / "results" / "study.json",
    "fashion-mnist": ROOT / "scripts" / "results" / "study_fashion_mnist.json",
}
FIGURES = {"digits": DOCS / "claims" / "figures", "fashion-mnist": DOCS / "results" / "fashion-mnist"}
# Where the pages of a language begin.
HOMES = {"en": DOCS, "es": DOCS / "es"}
FASHION_PAGE = DOCS / "results" / "fashion-mnist.md"
FASHION_REPORT = DOCS / "results" / "fashion-mnist-report.html"
NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]\d+)?"
_PART = re.compile(r"<!-- measured -->\n.*?<!-- end -->\n", re.DOTALL)

Study: TypeAlias = dict[str, Any]  # a bncli.study/1 document
Row: TypeAlias = dict[str, Any]  # one of its experiments
Say: TypeAlias = Callable[[str], str]  # an English text in the language of a page


@dataclass
class Phrases:
    """Translations of whole texts. `{}` in a text stands for a number, which keeps its place or moves to `{0}`, `{1}`.

    Attributes:
        texts: translation by English text.
        used: the English texts that have been asked for.
    """

    texts: dict[str, str]
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._patterns = [
            (re.compile(f"({NUMBER})".join(map(re.escape, text.split("{}")))), text)
            for text in self.texts
            if "{}" in text
        ]

    def __call__(self, text: str) -> str:
        """The translation of a text.

        Raises:
            LookupError: there is none.
        """
        if text in self.texts:
            self.used.add(text)
            return self.texts[text]
        for pattern, known in self._patterns:
            if match := pattern.fullmatch(text):
                self.used.add(known)
                return self.texts[known].format(*match.groups())
        raise LookupError(f"{PHRASES.name} has no translation of {text!r}")


def spanish() -> Phrases:
    """The phrases of docs/es."""
    sections = tomllib.loads(PHRASES.read_text(encoding="utf-8"))
    return Phrases({english: text for section in sections.values() for english, text in section.items()})


@cache
def recorded(data: str) -> Study:
    """The study of a data set as it was recorded."""
    document: Study = json.loads(RECORDS[data].read_text(encoding="utf-8"))
    return document


def record(study: Path) -> None:
    """Keep what a study measured: its numbers, its figures, and for Fashion-MNIST its report."""
    document: Study = json.loads((study / "study.json").read_text(encoding="utf-8"))
    data = document["data"]["name"]
    figures = FIGURES[data]
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir(parents=True)
    for row in document["experiments"]:
        for figure in row["figures"]:
            shutil.copy(study / f"{figure['name']}.svg", figures)
            del figure["series"]
    RECORDS[data].write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if data == "fashion-mnist":
        shutil.copy(study / "report.html", FASHION_REPORT)
    recorded.cache_clear()


def pages(english_to_spanish: Phrases) -> Iterator[tuple[Path, str]]:
    """Each page with the part between its marks."""
    for language, home in HOMES.items():
        say = english_to_spanish if language == "es" else str
        yield home / "claims" / "index.md", overview(recorded("digits"), say)
        for row in recorded("digits")["experiments"]:
            yield home / "claims" / f"{row['name']}.md", claim(row, language, say)
    yield FASHION_PAGE, fashion_page()


def replaced(page: Path, part: str) -> str:
    """The text of a page with another part between its marks."""
    text = page.read_text(encoding="utf-8")
    assert _PART.search(text), f"{page} has no marks"
    return _PART.sub(lambda _: f"<!-- measured -->\n{part}<!-- end -->\n", text)


def overview(study: Study, say: Say, page: str = "{name}.md") -> str:
    """The table of claims, each with a link to its page."""
    rows = [
        f"| [{say(row['claim'])}]({page.format(name=row['name'], anchor=anchor(row['claim']))}) "
        f"| **{say(row['verdict'])}** | {say(row['sentence'])} |"
        for row in study["experiments"]
    ]
    head = " | ".join(map(say, ("claim", "verdict", "measured")))
    return "\n".join([f"| {head} |", "|---|---|---|", *rows, "", provenance(study, study["experiments"], say), ""])


def claim(row: Row, language: str, say: Say) -> str:
    """The measurements of one claim: on the digits, and on Fashion-MNIST if there are any."""
    figures = "figures" if language == "en" else "../../claims/figures"
    lines = [f"## {say('What was measured')}", "", *result(row, figures, say)]
    lines += [f"*{say('The rule, fixed before this study ran:')}* {say(row['rule'])}", ""]
    lines += [provenance(recorded("digits"), [row], say), ""]
    others = {other["name"]: other for other in recorded("fashion-mnist")["experiments"]}
    if other := others.get(row["name"]):
        lines += second_data_set(row, other, "../results" if language == "en" else "../../results", say)
    return "\n".join(lines)


def result(row: Row, figures: str, say: Say) -> Iterator[str]:
    """Verdict, sentence, figures and intervals."""
    yield from (f"**{sentence_case(say(row['verdict']))}.** {say(row['sentence'])}", "")
    for figure in row["figures"]:
        title = say(figure["title"])
        yield from (f"![{title}]({figures}/{figure['name']}.svg)", "", f"*{title}.* {say(figure['note'])}", "")
    head = " | ".join(map(say, ("quantity", "mean", "95 % interval", "margin")))
    yield from (f"| {head} | |", "|---|---|---|---|---|")
    yield from (comparison(part, say) for part in row["comparisons"])
    yield ""


def second_data_set(row: Row, other: Row, results: str, say: Say) -> Iterator[str]:
    """The verdict on Fashion-MNIST beside that on the digits."""
    same = row["verdict"] == other["verdict"]
    verdict = say("The same verdict: **{verdict}**." if same else "Another verdict: **{verdict}**, not **{digits}**.")
    yield from (f"## {say('The same on Fashion-MNIST')}", "")
    yield verdict.format(verdict=say(other["verdict"]), digits=say(row["verdict"])) + f" {say(other['sentence'])}"
    link = f"{results}/fashion-mnist.md#{anchor(row['claim'])}"
    yield from (f"[{say('Figures and intervals on Fashion-MNIST')}]({link}).", "")


def fashion_page() -> str:
    """The table of claims on Fashion-MNIST, and the measurements of each."""
    study = recorded("fashion-mnist")
    lines = [overview(study, str, "#{anchor}")]
    for row in study["experiments"]:
        lines += [f"## {row['claim'].rstrip('.')}", "", *result(row, "fashion-mnist", str)]
        lines += [f"[The claim, and the same on the digits](../claims/{row['name']}.md). *Rule:* {row['rule']}", ""]
    return "\n".join(lines)


def comparison(part: Row, say: Say) -> str:
    """One row of the table of intervals."""
    unit = f" {say('points')}" if part["unit"] == "points" else ""
    low, high = (f"{part[end]:.3g}" for end in ("low", "high"))
    name = say(part["name"]).replace("|", "\\|")
    span = say("{low} to {high}").format(low=low, high=high)
    return f"| {name} | {part['mean']:.3g}{unit} | {span} | {part['margin']:.3g} | {say(part['verdict'])} |"


def provenance(study: Study, rows: list[Row], say: Say) -> str:
    """The command, the number of runs, the machine and the versions."""
    is_default = study["data"]["name"] == "digits"
    names = "" if len(rows) == len(study["experiments"]) and is_default else "".join(f" {row['name']}" for row in rows)
    data = "" if is_default else f" --data {study['data']['name']}"
    runs, diverged = (sum(row[key] for row in rows) for key in ("num_runs", "num_diverged"))
    text = say(
        "`{command}`: {runs:,} trainings, of which {diverged} diverged; {data}, {test:,} test images; {cpu}, {cores} "
        "cores; Python {python}, JAX {jax}. Intervals are Student's t over the seeds, of the logarithm for ratios."
    )
    return text.format(
        command=f"bncli study{names}{data} --seeds {study['seeds']}", runs=runs, diverged=diverged,
        data=study["data"]["name"], test=study["data"]["num_test"], **study["hardware"], **study["versions"],
    )  # fmt: skip


def sentence_case(text: str) -> str:
    """The text with a capital at its start."""
    return text[:1].upper() + text[1:]


def anchor(heading: str) -> str:
    """The place of a heading, as a link names it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
