"""The result of ``bncli lr-find``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.figure import Axis, Frame, figure, page
from bncli.cli.render.html.markup import Html
from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import counted, marked

if TYPE_CHECKING:
    from bncli.config.choices import LrRule
    from bncli.jobs.lr_find import LrFindResult

# Rows of the curve in the terminal, and the width of its bars in characters.
_ROWS, _BAR = 16, 30
# A figure ends at so many times the first loss; what explodes would flatten all else.
_HIGHEST_LOSS = 1.5

RULES: dict[LrRule, str] = {
    "steepest": "where the loss falls fastest over the logarithm of the rate, by a line fitted to a fifth of the steps",
    "minimum": "a tenth of the rate at the lowest smoothed loss",
}


def lr_find_json(result: LrFindResult) -> dict[str, object]:
    """Return the ``bncli.lr-find/1`` document."""
    suggestion = result.suggestion
    return {
        "schema": "bncli.lr-find/1",
        "dataset": result.dataset,
        "model": result.config.model.name,
        "optimizer": result.config.optimizer.name,
        "suggestion": None if suggestion is None else {**asdict(suggestion), "explanation": RULES[suggestion.rule]},
        "by_rule": dict(result.by_rule),
        "lowest": asdict(result.lowest),
        "ending": result.ending,
        "test": asdict(result.test),
        "points": [asdict(point) for point in result.points],
        "config": asdict(result.config),
    }


def lr_find_text(result: LrFindResult) -> RenderableType:
    """Return the curve, its end, and the suggestion with its rule."""
    return Group(_curve(result), *map(Text.from_markup, _lines(result)))


def _curve(result: LrFindResult) -> RenderableType:
    table = plain_table("learning rate", "loss", "smoothed", "curve", words=("curve",))
    every = max(1, -(-len(result.points) // _ROWS))
    highest = max(min(point.smoothed, _limit(result)) for point in result.points)
    for point in result.points[::every]:
        bar = _bar(min(point.smoothed, highest) / highest)
        table.add_row(f"{point.learning_rate:.2e}", f"{point.loss:.4f}", f"{point.smoothed:.4f}", bar)
    return table


def _bar(share: float) -> str:
    return "█" * round(share * _BAR)


def _lines(result: LrFindResult) -> list[str]:
    last = result.points[-1]
    lines = [
        f"{counted(len(result.points), 'step')} of {marked(result.config.model.name)} on {marked(result.dataset)}: "
        + (
            f"the loss exploded after a rate of {last.learning_rate:.3g}"
            if result.ending == "diverged"
            else f"up to the highest rate, {last.learning_rate:.3g}"
        )
    ]
    if result.suggestion is None:
        lines.append("no suggestion: the loss did not fall. Begin lower or go on longer: --lowest, --steps")
        return lines
    chosen = result.suggestion
    lines.append(f"[bold]--learning-rate {chosen.learning_rate:.2g}[/]: {RULES[chosen.rule]}")
    lines += [
        f"by the rule {rule} it would be {rate:.2g}: {RULES[rule]}"
        for rule, rate in result.by_rule.items()
        if rule != chosen.rule
    ]
    return lines


def _limit(result: LrFindResult) -> float:
    return _HIGHEST_LOSS * result.points[0].smoothed


def lr_find_svg(result: LrFindResult) -> Html:
    """Return the figure: the loss of each batch, its moving average, and the suggestion."""
    limit = _limit(result)
    losses = [min(point.loss, limit) for point in result.points]
    rates = [point.learning_rate for point in result.points]
    frame = Frame(Axis.around("learning rate", rates, is_log=True), Axis.around("loss", losses))
    shapes = [
        frame.line(((point.learning_rate, point.loss) for point in result.points), "raw"),
        frame.line((point.learning_rate, point.smoothed) for point in result.points),
    ]
    if result.suggestion is not None:
        rate = result.suggestion.learning_rate
        shapes.append(frame.mark(rate, f"{rate:.2g} ({result.suggestion.rule})"))
    return figure(_title(result), frame, *shapes)


def lr_find_page(result: LrFindResult) -> str:
    """Return the figure as a page."""
    return page(_title(result), lr_find_svg(result))


def _title(result: LrFindResult) -> str:
    config = result.config
    return f"Learning-rate range test: {config.model.name} on {result.dataset}, {config.optimizer.name}"
