"""The result of ``bncli sweep``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.figure import Axis, Frame, figure, page, table
from bncli.cli.render.html.markup import Html, element
from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import counted, marked, short
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.config.options import Option
    from bncli.config.sweep_file import Choices, Range
    from bncli.jobs.sweep.result import SweepResult, TrialRow

# Trials in the terminal's table.
_SHOWN = 20


def sweep_json(result: SweepResult) -> dict[str, object]:
    """Return the ``bncli.sweep/1`` document."""
    search = result.file.search
    return {
        "schema": "bncli.sweep/1",
        "out": str(result.out),
        "file": str(result.file.path),
        "sampler": search.sampler,
        "pruner": search.pruner,
        "metric": search.metric,
        "num_trials": result.file.trials,
        "done_here": list(result.done_here),
        "best": None if result.best is None else _trial_json(result.best),
        "trials": [_trial_json(trial) for trial in result.trials],
    }


def _trial_json(trial: TrialRow) -> dict[str, object]:
    return {
        "number": trial.number,
        "state": trial.state,
        "value": trial.value,
        "epochs": trial.epochs,
        "params": dict(trial.params),
        "seconds": trial.seconds,
        "checkpoint": str(trial.checkpoint),
        "reason": trial.reason,
    }


def sweep_text(result: SweepResult) -> RenderableType:
    """Return the table of the trials, best first, and the command to run next."""
    names = [option.key for option in result.file.space]
    rows = plain_table("trial", result.metric, "epochs", "state", *names, words=("state", *names))
    for trial in _in_order(result)[:_SHOWN]:
        rows.add_row(
            f"{trial.number}{'*' if trial is result.best else ''}",
            "–" if trial.value is None else f"{trial.value:.4f}",
            str(trial.epochs),
            trial.state,
            *(visible(_word(trial.params.get(name))) for name in names),
            style="bold green" if trial is result.best else None,
        )
    return Group(rows, *map(Text.from_markup, _lines(result)))


def _in_order(result: SweepResult) -> list[TrialRow]:
    """The completed trials, best first, then all others."""
    ranked = result.ranked
    return [*ranked, *(trial for trial in result.trials if trial not in ranked)]


def _lines(result: SweepResult) -> Iterator[str]:
    states = [trial.state for trial in result.trials]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed", "running") if state in states
    )
    if len(result.trials) > _SHOWN:
        yield f"and {counted(len(result.trials) - _SHOWN, 'more trial')}"
    yield f"{counted(len(result.trials), 'trial')}: {counts}; {len(result.done_here)} by this process"
    if result.best is None:
        yield "no trial was completed"
        return
    best = result.best
    words = " ".join(_as_option(option, best.params[option.key]) for option in result.file.space)
    yield f"[bold]best: trial {best.number}, {result.metric} {best.value:.4f}[/], {marked(words)}"
    out = marked(str(result.out))
    yield f"its checkpoint is [bold]{marked(str(best.checkpoint))}[/]; the figure is {out}/summary.html"


def _as_option(option: Option, value: object) -> str:
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{option.flag}"
    return f"--{option.flag} {_word(value)}"


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else "–" if value is None else json.dumps(value)


def sweep_page(result: SweepResult) -> str:
    """Return the summary: the score against each setting and over the trials, and a table."""
    title = f"Sweep of {visible(result.file.path.name)}: {result.metric} of {counted(len(result.trials), 'trial')}"
    scored = [trial for trial in result.trials if trial.value is not None]
    figures = [_over_trials(result, scored)] if scored else []
    figures += [_against(result, option, values, scored) for option, values in result.file.space.items() if scored]
    return page(title, *(element("figure", drawing) for drawing in figures), _page_table(result))


def _over_trials(result: SweepResult, scored: Sequence[TrialRow]) -> Html:
    x = Axis.around("trial", [trial.number for trial in scored])
    frame = Frame(x, _scores(result, scored))
    return figure(f"{result.metric} by trial", frame, *(_dot(result, frame, trial.number, trial) for trial in scored))


def _against(result: SweepResult, option: Option, values: Choices | Range, scored: Sequence[TrialRow]) -> Html:
    """The score against one setting; choices that are no numbers are numbered."""
    tried = [trial.params[option.key] for trial in scored]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried):
        places = [float(str(value)) for value in tried]
        x = Axis.around(option.key, places, is_log=getattr(values, "log", False))
    else:
        words = list(dict.fromkeys(map(_word, tried)))
        places = [float(words.index(_word(value))) for value in tried]
        x = Axis.around(f"{option.key}: " + ", ".join(f"{number} {word}" for number, word in enumerate(words)), places)
    frame = Frame(x, _scores(result, scored))
    dots = (_dot(result, frame, place, trial) for place, trial in zip(places, scored, strict=True))
    return figure(f"{result.metric} against {option.key}", frame, *dots)


def _scores(result: SweepResult, scored: Sequence[TrialRow]) -> Axis:
    return Axis.around(result.metric, [trial.value for trial in scored if trial.value is not None])


def _dot(result: SweepResult, frame: Frame, x: float, trial: TrialRow) -> Html:
    kind = "dot best" if trial is result.best else "dot" if trial.state == "complete" else "dot faint"
    settings = ", ".join(f"{key} {_word(value)}" for key, value in trial.params.items())
    value = trial.value or 0.0
    return frame.dot(x, value, f"trial {trial.number}, {trial.state}: {value:.4f}, {visible(settings)}", kind)


def _page_table(result: SweepResult) -> Html:
    names = [option.key for option in result.file.space]
    rows = [
        (
            [
                str(trial.number),
                "–" if trial.value is None else f"{trial.value:.4f}",
                str(trial.epochs),
                f"{trial.state}{f': {trial.reason}' if trial.reason else ''}",
                *(visible(_word(trial.params.get(name))) for name in names),
                short(trial.seconds),
            ],
            trial is result.best,
        )
        for trial in _in_order(result)
    ]
    return table(["trial", result.metric, "epochs", "state", *names, "seconds"], rows)
