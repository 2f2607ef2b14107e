"""The outcome of a contest: turns, the ratio of the fastest of each side, as JSON and as tables."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contest_worker import Work

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 130  # of the tables, where they do not go to a terminal


@dataclass(frozen=True)
class Turn:
    """One turn of one worker.

    Attributes:
        seconds: it took.
        images: that went through the network.
        left: how much more can be asked for; None where there is no end.
        cpu_seconds: of the worker's process.
        memory_bytes: the most that its process has held so far; None where the system does not tell.
        other_cores: cores that other programs used meanwhile; None where the system does not tell.
    """

    seconds: float
    images: int
    left: int | None
    cpu_seconds: float
    memory_bytes: int | None
    other_cores: float | None

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Result:
    """The turns of one worker.

    Attributes:
        name: of the variant.
        is_peer: whether it is a competitor.
        amount: steps or calls in a turn.
        first: the first work, building and compilation included.
        turns: one a round.
    """

    name: str
    is_peer: bool
    amount: int
    first: Work
    turns: tuple[Turn, ...]

    @property
    def rate(self) -> float:
        """Images per second, the median of the rounds."""
        return statistics.median(turn.rate for turn in self.turns)

    @property
    def compile_seconds(self) -> float:
        """From the building of the network to the end of the first work, less what that work takes when warm."""
        return max(0.0, self.first.seconds - self.first.images / self.rate)

    @property
    def memory_bytes(self) -> int | None:
        """The most that the process has held."""
        return self.turns[-1].memory_bytes


@dataclass(frozen=True)
class Outcome:
    """The best of bncli's variants beside the best of the peer's, by the median.

    Attributes:
        name: of the case.
        batch_size: images in a step or call.
        results: of all variants.
        left_out: variant -> why it did not run.
    """

    name: str
    batch_size: int
    results: tuple[Result, ...]
    left_out: Mapping[str, str]

    @property
    def bncli(self) -> Result:
        """The fastest of bncli's variants."""
        return self._fastest(is_peer=False)

    @property
    def peer(self) -> Result:
        """The fastest of the peer's variants."""
        return self._fastest(is_peer=True)

    def _fastest(self, *, is_peer: bool) -> Result:
        return max((result for result in self.results if result.is_peer is is_peer), key=lambda result: result.rate)

    @property
    def ratios(self) -> tuple[float, ...]:
        """bncli's speed over the peer's, round by round."""
        return tuple(mine.rate / theirs.rate for mine, theirs in zip(self.bncli.turns, self.peer.turns, strict=True))

    @property
    def memory_ratio(self) -> float | None:
        """bncli's peak memory over the peer's."""
        mine, theirs = self.bncli.memory_bytes, self.peer.memory_bytes
        return None if mine is None or theirs is None else mine / theirs

    @property
    def other_cores(self) -> float | None:
        """Cores that other programs used while the workers worked, on average."""
        turns = [turn for result in self.results for turn in result.turns]
        known = [(turn.other_cores, turn.seconds) for turn in turns if turn.other_cores is not None]
        return sum(cores * seconds for cores, seconds in known) / sum(s for _, s in known) if known else None


def document(outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON document; ``about`` is what else the script says: hardware, versions, settings."""
    return {
        "schema": "bncli.bench/1",
        "command": command_line(),
        **about,
        "cases": [_case_json(outcome) for outcome in outcomes],
    }


def command_line() -> str:
    """The call of the script, for its document."""
    return " ".join([f"scripts/{Path(sys.argv[0]).name}", *map(_without_place, sys.argv[1:])])


def _without_place(word: str) -> str:
    """An absolute path by its last part: where it lies says nothing to others."""
    return Path(word).name if Path(word).is_absolute() else word


def _case_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "batch_size": outcome.batch_size,
        "bncli": outcome.bncli.rate,
        "bncli_variant": outcome.bncli.name,
        "peer": outcome.peer.rate,
        "peer_variant": outcome.peer.name,
        "ratio": statistics.median(outcome.ratios),
        "spread": [min(outcome.ratios), max(outcome.ratios)],
        "rounds": len(outcome.ratios),
        "memory_ratio": outcome.memory_ratio,
        "other_cores": outcome.other_cores,
        "variants": [_variant_json(result) for result in outcome.results],
        "left_out": dict(outcome.left_out),
    }


def _variant_json(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "is_peer": result.is_peer,
        "images_per_second": result.rate,
        "every_round": [turn.rate for turn in result.turns],
        "amount": result.amount,
        "compile_seconds": result.compile_seconds,
        "memory_bytes": result.memory_bytes,
    }


def print_tables(outcomes: Sequence[Outcome]) -> None:
    """The ratios, and below them all variants."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(_ratio_table(outcomes), _variant_table(outcomes))
    for outcome in outcomes:
        for name, reason in outcome.left_out.items():
            console.print(f"{outcome.name}: left out {name}: {reason}", markup=False, soft_wrap=True)


def _ratio_table(outcomes: Sequence[Outcome]) -> Table:
    from rich.table import Table

    table = Table("case", "bncli", "images/s", "peer", "images/s", "ratio", "min – max", "memory ratio", "other cores")
    for outcome in outcomes:
        ratios = outcome.ratios
        table.add_row(
            outcome.name,
            outcome.bncli.name,
            f"{outcome.bncli.rate:,.0f}",
            outcome.peer.name,
            f"{outcome.peer.rate:,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} – {max(ratios):.2f}",
            _format(outcome.memory_ratio),
            _format(outcome.other_cores),
        )
    return table


def _variant_table(outcomes: Sequence[Outcome]) -> Table:
    from rich.table import Table

    table = Table("case", "variant", "images/s", "min – max", "a turn", "compile s", "peak MiB")
    for outcome in outcomes:
        for result in sorted(outcome.results, key=lambda result: -result.rate):
            rates = [turn.rate for turn in result.turns]
            table.add_row(
                outcome.name,
                result.name,
                f"{result.rate:,.0f}",
                f"{min(rates):,.0f} – {max(rates):,.0f}",
                str(result.amount),
                f"{result.compile_seconds:.1f}",
                "?" if result.memory_bytes is None else f"{result.memory_bytes / 2**20:,.0f}",
            )
    return table


def _format(number: float | None) -> str:
    return "?" if number is None else f"{number:.2f}"
