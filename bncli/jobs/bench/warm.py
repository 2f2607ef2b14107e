"""Warm calls of several networks in turn, so that a disturbance of the machine affects all of them.

Letters: M networks, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from bncli.jobs.bench.networks import Call

# A shorter turn would measure the clock and the scheduler more than the network.
MIN_TURN_SECONDS = 0.01
# Calls for a first estimate of the time of one.
GUESS_CALLS = 3


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the range of the middle 80 % of them."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Rounds:
    """The rounds of all networks at one batch size.

    Attributes:
        calls: calls in one turn of each network, [M]; the time of a turn is their mean.
        milliseconds: time of one call, [M, R].
    """

    calls: tuple[int, ...]
    milliseconds: np.ndarray

    def time(self, network: int) -> Spread:
        """Return the time of one call, in milliseconds."""
        return _spread(self.milliseconds[network])

    def speedup(self, network: int, *, over: int) -> Spread:
        """Return the speed relative to another network, computed within each round."""
        return _spread(self.milliseconds[over] / self.milliseconds[network])

    def fastest(self) -> tuple[int, ...]:
        """Return the network with the lowest median time, followed by those that are not significantly slower.

        Another network is significantly slower if it loses nine rounds out of ten: the whole spread of the speedup is
        above 1.
        """
        best = int(np.argmin(np.median(self.milliseconds, axis=1)))
        others = [network for network in range(len(self.milliseconds)) if network != best]
        return best, *(other for other in others if self.speedup(best, over=other).p10 <= 1)


def time_rounds(
    calls: Sequence[Call], images: np.ndarray, *, rounds: int, progress: Callable[[int], None] | None = None
) -> Rounds:
    """Time R rounds of M compiled networks; each round takes the networks in a new order.

    Args:
        calls: the networks.
        images: [B, H, W, C].
        rounds: R.
        progress: called with the number of rounds done.
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
    """Return the number of calls that make a turn long enough."""
    guess = min(_seconds(call, images, 1) for _ in range(GUESS_CALLS))
    return max(1, math.ceil(MIN_TURN_SECONDS / guess))


def _turn(call: Call, images: np.ndarray, repeats: int) -> float:
    """Return the milliseconds of one call, the mean of ``repeats``.

    If several calls fit into a turn, an uncounted one comes first: it finds the caches full of the previous network's
    data. That costs up to half a call of a small network, and nothing measurable of a large one.
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
