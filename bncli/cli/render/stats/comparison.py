"""Two checkpoints side by side, as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.stats.findings import MARKS, findings_text, notes_text
from bncli.cli.render.stats.names import prefix_note, prefix_to_drop
from bncli.cli.render.tables import FirstFitting, Name, plain_table, spaced
from bncli.cli.render.words import counted, distinct_width, short
from bncli.cli.untrusted import visible
from bncli.inspection.comparison import change_size

if TYPE_CHECKING:
    from bncli.inspection import Finding
    from bncli.inspection.comparison import Comparison, LayerChange

MAX_LAYERS = 20
# Names of layers that only one of the two has.
MAX_NAMES = 8


@dataclass(frozen=True)
class _Column:
    """One column of numbers."""

    title: str
    number: Callable[[LayerChange], float]


_MEAN = _Column("mean moved by", lambda change: change.mean_shift)
_VAR = _Column("var ×", lambda change: change.var_ratio)
_WORST = _Column("worst ×", lambda change: change.worst_var_ratio)
_SCALE = _Column("γ ±", lambda change: change.scale_change)
_BIAS = _Column("β ±", lambda change: change.bias_change)
_GAIN = _Column("gain ×", lambda change: change.gain_ratio)
# From the widest form of the table to the narrowest.
FORMS = ((_MEAN, _VAR, _WORST, _SCALE, _BIAS, _GAIN), (_MEAN, _VAR, _WORST, _GAIN), (_MEAN, _VAR, _GAIN))


def comparison_text(comparison: Comparison, *, everything: bool = False) -> RenderableType:
    """Return the change of each layer, and the findings that are new, gone or still there.

    Args:
        comparison: the two checkpoints.
        everything: True to show all changed layers and findings.
    """
    return spaced(_blocks(comparison, everything=everything))


def _blocks(comparison: Comparison, *, everything: bool) -> Iterator[RenderableType]:
    yield _layers(comparison, everything=everything)
    if comparison.is_unrelated:  # the findings of one say nothing about the other
        return
    if comparison.appeared:
        yield Group(Text("new findings", style="bold red"), findings_text(comparison.appeared, everything=everything))
    if comparison.repaired:
        yield Group(Text("gone", style="bold green"), *_briefly(comparison.repaired))
    if comparison.remained:
        yield Group(Text("as before", style="bold"), *_briefly(comparison.remained))
    notes = dict.fromkeys((*comparison.a.notes, *comparison.b.notes))
    if notes:
        yield notes_text(notes)


def _layers(comparison: Comparison, *, everything: bool) -> RenderableType:
    changed = [change for change in comparison.layers if not change.same]
    head = Text.assemble((visible(comparison.a.source), "bold"), " → ", (visible(comparison.b.source), "bold"))
    parts: list[RenderableType] = [head]
    shown = changed
    if not everything and len(changed) > MAX_LAYERS:
        shown = sorted(changed, key=change_size, reverse=True)[:MAX_LAYERS]
    if shown:
        prefix = prefix_to_drop([change.name for change in shown])
        parts.append(FirstFitting([partial(_table, shown, prefix, columns) for columns in FORMS]))
        parts.append(Text("means in standard deviations of the first; γ and β: rms", style="dim"))
        parts += [Text(prefix_note(prefix), style="dim")] if prefix else []
    if len(shown) < len(changed):
        parts.append(Text(f"{len(shown)} of {len(changed)}, the largest changes first; --all for all", style="dim"))
    parts += [Text(line) for line in _layer_lines(comparison, changed)]
    return Group(*parts)


def _table(changes: Sequence[LayerChange], prefix: str, columns: Sequence[_Column]) -> Table:
    table = plain_table("BN layer", "C", *(column.title for column in columns))
    names = [change.name.removeprefix(prefix) for change in changes]
    room = distinct_width(names)
    for name, change in zip(names, changes, strict=True):
        numbers = (short(column.number(change)) for column in columns)
        table.add_row(Name(name, room=room), str(change.channels), *numbers)
    return table


def _layer_lines(comparison: Comparison, changed: Sequence[LayerChange]) -> Iterator[str]:
    """Yield a line for what the table of changes does not show."""
    if comparison.is_unrelated:
        yield "the networks are unrelated: no BN layer has the same name and size in both"
    elif not comparison.layers:
        yield "no BN layer of the same name and size in both"
    else:
        yield from _same_line(len(comparison.layers) - len(changed), are_all=not changed)
    for title, names in (
        (f"only in {comparison.a.source}", comparison.only_in_a),
        (f"only in {comparison.b.source}", comparison.only_in_b),
        ("with a different number of channels", comparison.other_channels),
    ):
        if names:
            yield f"{visible(title)}: {_names(names)}"
    for change in changed:
        if change.epsilon[0] != change.epsilon[1]:
            yield f"{visible(change.name)}: ε {change.epsilon[0]:g} → {change.epsilon[1]:g}"


def _same_line(count: int, *, are_all: bool) -> Iterator[str]:
    """Yield the line about the layers that are unchanged, if there are any."""
    if count and are_all:
        yield "the only layer is unchanged" if count == 1 else f"all {count} layers are unchanged"
    elif count:
        yield f"{counted(count, 'other layer')} {'is' if count == 1 else 'are'} unchanged"


def _names(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(visible(name) for name in names[:MAX_NAMES]) + rest


def _briefly(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """Yield one line per kind of finding."""
    layers: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        layers.setdefault((finding.severity, finding.code), []).append(finding.layer)
    for (severity, code), names in layers.items():
        mark, colour = MARKS[severity]
        yield Text.assemble((f"{mark} {severity} ", colour), (visible(code), "bold"), f" on {_names(names)}")
