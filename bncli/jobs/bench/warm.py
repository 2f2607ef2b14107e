"""Warm calls of several networks, in turn: what disturbs the machine disturbs all of them.

Letters: M networks, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from bncli.jobs.bench.networks import Call

# A turn shorter than this says more of the clock and the scheduler than of the network.
MIN_TURN_SECONDS = 0.01
# Calls that a first guess of the time of one is made from.
GUESS_CALLS = 3


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and where the middle 80 % of them lie."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Rounds:
    """The rounds of all networks at one batch size.

    Attributes:
        calls: in one turn of each network, M of them; a turn's time is their mean.
        milliseconds: of one call, [M, R].
    """

    calls: tuple[int, ...]
    milliseconds: np.ndarray

    def time(self, network: int) -> Spread:
        """Milliseconds of one call."""
        return _spread(self.milliseconds[network])

    def speedup(self, network: int, *, over: int) -> Spread:
        """How many times as fast as another network, taken within each round."""
        return _spread(self.milliseconds[over] / self.milliseconds[network])

    def fastest(self) -> tuple[int, ...]:
        """The network of the least median time, first, and those that it does not beat beyond the noise.

        It beats another one where it is faster in nine rounds out of ten: the whole spread of its speedup is above 1.
        """
        best = int(np.argmin(np.median(self.milliseconds, axis=1)))
        others = [network for network in range(len(self.milliseconds)) if network != best]
        return best, *(other for other in others if self.speedup(best, over=other).p10 <= 1)


def time_rounds(
    calls: Sequence[Call], images: np.ndarray, *, rounds: int, progress: Callable[[int], None] | None = None
) -> Rounds:
    """R rounds over M compiled networks; each round takes them in another order.

    Args:
        calls: the networks.
        images: [B, H, W, C].
        rounds: R.
        progress: is told the rounds done.
    """
    repeats = tuple(_calls_per_turn(call, images) for call in calls)
    milliseconds = np.empty((len(calls), rounds))
    orders = np.random.default_rng(0)
    for number in range(rounds):
        for network in orders.permutation(len(calls)):
            milliseconds[network, number] = _turn(calls[network], images, repeats[network])
        if progress is not None:
            progress(number + 1)
    return Rounds(repeats, milliseconds)


def _calls_per_turn(call: Call, images: np.ndarray) -> int:
    """As many calls as make a turn long enough."""
    guess = min(_seconds(call, images, 1) for _ in range(GUESS_CALLS))
    return max(1, math.ceil(MIN_TURN_SECONDS / guess))


def _turn(call: Call, images: np.ndarray, repeats: int) -> float:
    """Milliseconds of one call, the mean of ``repeats``.

    Where several fit into a turn, one more goes before them: it finds the caches full of the network before it, which
    costs up to half of a call of a small network and nothing that can be measured of a long one.
    """
    if repeats > 1:
        call(images)
    return _seconds(call, images, repeats) / repeats * 1e3


def _seconds(call: Call, images: np.ndarray, repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call(images)
    return perf_counter() - start


def _spread(values: np.ndarray) -> Spread:
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9))
    return Spread(float(median), float(p10), float(p90))
