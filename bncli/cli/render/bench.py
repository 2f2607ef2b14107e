"""The result of ``bncli bench``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.tables import FirstFitting, Name, plain_table
from bncli.cli.render.words import counted, distinct_width, marked

if TYPE_CHECKING:
    from bncli.jobs.bench import BatchTiming, BenchResult, ColdStart, Fastest, NetworkTiming, Spread

# Significant digits of a time in milliseconds.
DIGITS = 3
# Cores used by other programs; from here on the result carries a warning.
MUCH_DISTURBED = 0.1


def bench_json(result: BenchResult) -> dict[str, object]:
    """Return the ``bncli.bench-inference/1`` document."""
    return {
        "schema": "bncli.bench-inference/1",
        "image_shape": list(result.target.image_shape),
        "precision": result.target.precision,
        "networks": [_network_json(network) for network in result.networks],
        "fastest": [_fastest_json(result, entry) for entry in result.fastest],
        "disturbances": [asdict(entry) for entry in result.disturbances],
        "hardware": {**asdict(result.hardware), "devices": list(result.hardware.devices)},
        "versions": result.versions,
    }


def _network_json(network: NetworkTiming) -> dict[str, object]:
    cold = network.cold
    return {
        "checkpoint": str(network.checkpoint),
        "step": network.step,
        "kind": network.kind,
        "cold_seconds": None if cold is None else {"start": cold.start, "open": cold.open},
        "memory_bytes": None if cold is None else {"before_open": cold.memory_before, "peak": cold.memory_peak},
        "batches": [
            _batch_json(batch, None if cold is None else cold.first_calls[number])
            for number, batch in enumerate(network.batches)
        ],
    }


def _batch_json(batch: BatchTiming, first_call: float | None) -> dict[str, object]:
    time, ratio = batch.milliseconds, batch.ratio
    return {
        "batch_size": batch.batch_size,
        "first_call_seconds": first_call,
        "rounds": batch.rounds,
        "calls_per_round": batch.calls_per_round,
        "median_ms": time.median,
        "p10_ms": time.p10,
        "p90_ms": time.p90,
        "images_per_second": batch.images_per_second,
        "ratio": ratio.median,
        "ratio_p10": ratio.p10,
        "ratio_p90": ratio.p90,
    }


def _fastest_json(result: BenchResult, entry: Fastest) -> dict[str, object]:
    return {
        "batch_size": entry.batch_size,
        "checkpoints": [str(result.networks[number].checkpoint) for number in entry.networks],
        "speedup": entry.speedup,
    }


def bench_text(result: BenchResult) -> RenderableType:
    """Return the warm calls by batch size, the cold starts, and the fastest network."""
    return Group(
        Text.from_markup(_head(result)),
        _warm_table(result),
        *_cold_tables(result),
        *[Text.from_markup(_fastest_line(result, entry)) for entry in result.fastest],
        *_disturbance_lines(result),
    )


def _head(result: BenchResult) -> str:
    hardware = result.hardware
    shape = "×".join(map(str, result.target.image_shape))
    rounds = result.networks[0].batches[0].rounds
    return (
        f"{shape} images, {result.target.precision}, {counted(rounds, 'interleaved round')}, "
        f"on {marked(hardware.devices[0])}\n{marked(hardware.cpu)}, {counted(hardware.cores, 'core')}"
    )


def _warm_table(result: BenchResult) -> RenderableType:
    """Return one row per batch size and network; a narrow terminal leaves out the spread of the ratios."""
    return FirstFitting([partial(_warm_form, result, with_spread=with_spread) for with_spread in (True, False)])


def _warm_form(result: BenchResult, *, with_spread: bool) -> Table:
    compared = (["speed", "p10–p90"] if with_spread else ["speed"]) if len(result.networks) > 1 else []
    table = plain_table("warm, ms", "batch", "median", "p10–p90", "images/s", *compared)
    room = _room(result)
    for number in range(len(result.networks[0].batches)):
        for network in result.networks:
            batch = network.batches[number]
            ratio = _ratio(batch.ratio, is_first=network is result.networks[0])[: len(compared)]
            table.add_row(
                Name(str(network.checkpoint), room=room),
                str(batch.batch_size),
                _number(batch.milliseconds.median),
                f"{_number(batch.milliseconds.p10)}–{_number(batch.milliseconds.p90)}",
                f"{batch.images_per_second:,.0f}",
                *ratio,
            )
    return table


def _room(result: BenchResult) -> int:
    """Return the width at which the shortened names of the networks still differ."""
    return distinct_width(str(network.checkpoint) for network in result.networks)


def _ratio(ratio: Spread, *, is_first: bool) -> list[str]:
    return ["1×", ""] if is_first else [f"{ratio.median:.2f}×", f"{ratio.p10:.2f}–{ratio.p90:.2f}"]


def _cold_tables(result: BenchResult) -> Iterator[RenderableType]:
    """Yield a table of the cold starts, if they were measured."""
    starts = [(network, network.cold) for network in result.networks if network.cold is not None]
    if not starts:
        return
    sizes = [f"call {batch.batch_size}" for batch in result.networks[0].batches]
    table = plain_table("cold, ms", "kind", "start", "open", *sizes, "peak memory", words=("kind",))
    for network, cold in starts:
        table.add_row(
            Name(str(network.checkpoint), room=_room(result)),
            network.kind,
            *[_number(seconds * 1e3) for seconds in (cold.start, cold.open, *cold.first_calls)],
            _memory(cold),
        )
    yield table


def _memory(cold: ColdStart) -> str:
    return "–" if cold.memory_peak is None else f"{cold.memory_peak / 2**20:,.0f} MiB"


def _fastest_line(result: BenchResult, entry: Fastest) -> str:
    names = [f"[bold]{marked(str(result.networks[number].checkpoint))}[/]" for number in entry.networks]
    place = f"batch {entry.batch_size}: "
    if entry.speedup is None:
        return f"{place}no significant difference"
    ahead = f"{entry.speedup:.2f}× as fast as the next"
    if len(names) == 1:
        return f"{place}{names[0]} is the fastest, {ahead}"
    return f"{place}{' and '.join(names)} are the fastest, {ahead}, with no significant difference between them"


def _disturbance_lines(result: BenchResult) -> Iterator[Text]:
    most = max((entry.other_cores or 0 for entry in result.disturbances), default=0)
    if most >= MUCH_DISTURBED:
        cores = f"{most:.1f} of {counted(result.hardware.cores, 'core')}"
        yield Text(f"other programs used up to {cores}: stop them and measure again", style="yellow")


def _number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    decimals = max(0, DIGITS - 1 - _exponent(value))
    return f"{value:,.{decimals}f}"


def _exponent(value: float) -> int:
    """Return the exponent of the first significant digit: 0 for 5.2, -1 for 0.52."""
    return int(f"{value:.{DIGITS - 1}e}".partition("e")[2])
