"""Two checkpoints side by side, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.base import plain_table
from bncli.cli.render.stats.blocks import Name, short, spaced, visible
from bncli.cli.render.stats.findings import MARKS, findings_text, notes_text
from bncli.inspection.comparison import change_size

if TYPE_CHECKING:
    from bncli.inspection import Finding
    from bncli.inspection.comparison import Comparison, LayerChange

MAX_LAYERS = 20
# Names of layers that only one of the two has.
MAX_NAMES = 8
COLUMNS = ("mean moved by", "var ×", "worst ×", "γ ±", "β ±", "gain ×")


def comparison_text(comparison: Comparison, *, everything: bool = False) -> RenderableType:
    """What became of each layer, which findings are new, and which are gone."""
    return spaced(_blocks(comparison, everything=everything))


def _blocks(comparison: Comparison, *, everything: bool) -> Iterator[RenderableType]:
    yield _layers(comparison, everything=everything)
    if comparison.appeared:
        yield Group(Text("new findings", style="bold red"), findings_text(comparison.appeared, everything=everything))
    if comparison.went_away:
        yield Group(Text("gone", style="bold green"), *_briefly(comparison.went_away))
    if comparison.remained:
        yield Group(Text("as before", style="bold"), *_briefly(comparison.remained))
    notes = dict.fromkeys((*comparison.a.notes, *comparison.b.notes))
    if notes:
        yield notes_text(notes)


def _layers(comparison: Comparison, *, everything: bool) -> RenderableType:
    changed = [change for change in comparison.layers if not change.same]
    same = len(comparison.layers) - len(changed)
    head = Text.assemble((visible(comparison.a.source), "bold"), " → ", (visible(comparison.b.source), "bold"))
    parts: list[RenderableType] = [head]
    shown = changed
    if not everything and len(changed) > MAX_LAYERS:
        shown = sorted(changed, key=change_size, reverse=True)[:MAX_LAYERS]
    if shown:
        parts += [_changes_table(shown), Text("means in standard deviations of the first; γ and β: rms", style="dim")]
    if len(shown) < len(changed):
        parts.append(Text(f"{len(shown)} of {len(changed)}, the largest changes first; --all for all", style="dim"))
    parts += [Text(line) for line in _layer_lines(comparison, changed, same)]
    return Group(*parts)


def _layer_lines(comparison: Comparison, changed: Sequence[LayerChange], same: int) -> Iterator[str]:
    if not comparison.layers:
        yield "no BN layer of the same name and size in both"
    elif not changed:
        yield f"all {same} layers are the same"
    elif same:
        yield f"{same} other layers are the same"
    for title, names in (
        (f"only in {comparison.a.source}", comparison.only_in_a),
        (f"only in {comparison.b.source}", comparison.only_in_b),
        ("of another number of channels", comparison.other_channels),
    ):
        if names:
            yield f"{visible(title)}: {_names(names)}"
    for change in changed:
        if change.epsilon[0] != change.epsilon[1]:
            yield f"{visible(change.name)}: ε {change.epsilon[0]:g} → {change.epsilon[1]:g}"


def _names(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(visible(name) for name in names[:MAX_NAMES]) + rest


def _changes_table(changes: Sequence[LayerChange]) -> Table:
    table = plain_table("BN layer", "C", *COLUMNS)
    table.columns[0].no_wrap = False
    for change in changes:
        numbers = (
            *(change.mean_shift, change.var_ratio, change.worst_var_ratio),
            *(change.scale_change, change.bias_change, change.gain_ratio),
        )
        table.add_row(Name(change.name), str(change.channels), *map(short, numbers))
    return table


def _briefly(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """One line a kind of finding."""
    layers: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        layers.setdefault((finding.severity, finding.code), []).append(finding.layer)
    for (severity, code), names in layers.items():
        mark, colour = MARKS[severity]
        yield Text.assemble((f"{mark} {severity} ", colour), (code, "bold"), f" on {_names(names)}")
