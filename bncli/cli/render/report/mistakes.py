"""The confusion matrix, the most confused pairs of classes, and the worst examples as images.

Letters: K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bncli.cli.render.html.document import section, with_options
from bncli.cli.render.html.markup import NOTHING, Html, element, join
from bncli.cli.render.html.png import data_url
from bncli.cli.render.report.words import about_split, file_name, scored_on
from bncli.cli.render.words import counted
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.jobs.mistakes import Confusion, Example, Mistakes
    from bncli.jobs.report import RunReport, Scored

# A matrix of more classes is a picture without numbers.
MAX_TABLE_CLASSES = 20
# More cells than this have no text for the pointer.
MAX_CELL_TEXTS = 3000
# Shades of a cell, from none to a full row.
SHADES = 10
# Images with a shorter side are enlarged without smoothing.
SMALL_IMAGE = 64
_ROWS = "Rows are labels, columns are predictions"
_DRAWN_ROWS = "Labels from top to bottom, predictions from left to right"


def mistakes_sections(run: RunReport) -> Html:
    """Return the sections about the scored images; the reason if none were scored."""
    if run.scored is None:
        return section("confusion", "Scores", element("p", f"Nothing was scored: {run.unscored}", class_="none"))
    mistakes = run.scored.mistakes
    return join(_confusion(run.scored), _pairs(mistakes), _worst(mistakes))


def _confusion(scored: Scored) -> Html:
    mistakes = scored.mistakes
    large = len(mistakes.class_names) > MAX_TABLE_CLASSES
    matrix = _picture(mistakes) if large else _table(mistakes)
    head = (
        element("strong", f"Accuracy {mistakes.result.accuracy:.4f}"),
        f" on {visible(scored_on(scored))}. ",
        *with_options(about_split(scored)),
    )
    about = f"{_DRAWN_ROWS if large else _ROWS}; shades are shares of a row."
    return section(
        "confusion",
        "Confusion matrix",
        element("p", *head, class_="about"),
        element("p", about, class_="about below-title"),
        matrix,
    )


def _table(mistakes: Mistakes) -> Html:
    """Return the matrix as a table: labels are rows, predictions are columns."""
    names = [visible(name) for name in mistakes.class_names]
    head = element(
        "tr",
        element("th", "label", scope="col", class_="corner"),
        *(element("th", element("span", name), scope="col", class_="column") for name in names),
        element("th", "images", scope="col", class_="number"),
        element("th", "accuracy", scope="col", class_="number"),
    )
    rows = [_matrix_row(mistakes, k, name) for k, name in enumerate(names)]
    table = element("table", element("thead", head), element("tbody", *rows), class_="matrix")
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label="Confusion matrix")


def _matrix_row(mistakes: Mistakes, k: int, name: str) -> Html:
    counts, row = mistakes.result.confusion[k], mistakes.result.per_class[k]
    cells = [
        element("td", str(n) if n else "·", class_=_cell_class(int(n), row.count, is_right=j == k))
        for j, n in enumerate(counts)
    ]
    accuracy = "–" if row.accuracy is None else f"{row.accuracy:.3f}"
    end = (element("td", f"{row.count:,}", class_="number"), element("td", accuracy, class_="number"))
    return element("tr", element("th", name, scope="row"), *cells, *end)


def _cell_class(count: int, total: int, *, is_right: bool) -> str:
    if count == 0:
        return "empty"
    shade = max(1, round(SHADES * count / total))
    return f"{'right' if is_right else 'wrong'} shade-{shade}"


def _picture(mistakes: Mistakes) -> Html:
    """Return the matrix as a picture: one square per cell that is not empty."""
    confusion, names = mistakes.result.confusion, [visible(name) for name in mistakes.class_names]
    k = len(names)
    cells = np.argwhere(confusion)
    with_texts = len(cells) <= MAX_CELL_TEXTS
    squares = []
    for i, j in cells.tolist():
        count, total = int(confusion[i, j]), mistakes.result.per_class[i].count
        text = element("title", f"{names[i]} → {names[j]}: {count} of {total}") if with_texts else None
        kind = _cell_class(count, total, is_right=i == j)
        squares.append(element("rect", text, x=j, y=i, width=1, height=1, class_=kind))
    label = f"confusion matrix of {k} classes: labels from top to bottom, predictions from left to right"
    frame = element("rect", x=0, y=0, width=k, height=k, class_="frame")
    drawing = element(
        "svg", frame, *squares, viewBox=f"0 0 {k} {k}", role="img", aria_label=label, class_="matrix-picture"
    )
    return element("div", drawing, _worst_classes(mistakes), class_="pair")


def _worst_classes(mistakes: Mistakes) -> Html:
    known = [row for row in mistakes.result.per_class if row.accuracy is not None]
    rows = sorted(known, key=lambda row: row.accuracy or 0.0)[:SHADES]
    body = [
        element(
            "tr",
            element("th", visible(row.name), scope="row"),
            element("td", f"{row.count:,}", class_="number"),
            element("td", f"{row.accuracy:.3f}", class_="number"),
        )
        for row in rows
    ]
    head = element("tr", element("th", "class"), *(element("th", t, class_="number") for t in ("images", "accuracy")))
    caption = element("caption", "Classes with the lowest accuracy")
    return element("table", caption, element("thead", head), element("tbody", *body), class_="scores")


def _pairs(mistakes: Mistakes) -> Html:
    if not mistakes.pairs:
        return NOTHING
    cards = [_pair(pair, mistakes.class_names) for pair in mistakes.pairs]
    return section("pairs", "Most confused pairs", element("div", *cards, class_="pairs"))


def _pair(pair: Confusion, names: Sequence[str]) -> Html:
    label, prediction = visible(names[pair.label]), visible(names[pair.prediction])
    return element(
        "article",
        element("h3", label, element("span", " → ", class_="arrow"), prediction),
        element("p", f"{counted(pair.count, 'image')}, {pair.share:.1%} of {label}", class_="below"),
        element("div", *(_image(example, f"{label}, predicted {prediction}") for example in pair.examples)),
        class_="card",
    )


def _worst(mistakes: Mistakes) -> Html:
    names = [visible(name) for name in mistakes.class_names]
    figures = [_figure(example, names) for example in mistakes.worst]
    if mistakes.count:
        title = "Worst mistakes"
        about = f"{counted(mistakes.count, 'image')} wrong; those with the lowest probability of the true class first."
    else:
        title = "Least certain images"
        about = "No image is predicted wrong. These are right with the lowest probability."
    return section("worst", title, element("p", about, class_="about"), element("div", *figures, class_="images"))


def _figure(example: Example, names: Sequence[str]) -> Html:
    label, prediction = names[example.label], names[example.prediction]
    is_right = example.label == example.prediction
    truth = None if is_right else element("span", f"is {label} ({example.label_probability:.1%})", class_="truth")
    return element(
        "figure",
        _image(example, f"{label}, predicted {prediction}"),
        element(
            "figcaption",
            element("strong", f"{prediction} {example.probability:.1%}", class_="right" if is_right else "wrong"),
            truth,
            element("span", *_breakable(file_name(example)), class_="file"),
        ),
    )


def _breakable(path: str) -> Iterator[str]:
    """Return the path with an opportunity for a line break after each folder."""
    *folders, name = path.split("/")
    for folder in folders:
        yield from (f"{folder}/", element("wbr"))
    yield name


def _image(example: Example, description: str) -> Html:
    small = min(example.image.shape[:2]) < SMALL_IMAGE
    return element(
        "img",
        src=data_url(example.image),
        alt=description,
        title=f"{description}: {file_name(example)}",
        class_="pixels" if small else None,
    )
