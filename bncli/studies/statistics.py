"""Intervals over seeds, and the rule that makes a verdict of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Verdict: TypeAlias = Literal["supported", "not supported", "mixed"]

CONFIDENCE = 0.95
METHOD = "Student t over seeds"
# The 97.5 % quantiles of Student's t distribution for 1 to 30 degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL = 1.96


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; the ends are infinite for a single value."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A difference between the sides of a claim, one value for each seed.

    Attributes:
        name: the quantity, such as "accuracy with BN − accuracy without".
        values: per seed; logarithms if the quantity is a ratio.
        margin: the smallest effect that counts, in the same unit.
        is_ratio: True if the values are natural logarithms of a ratio.
        unit: "points" for accuracies in percent, "" otherwise.
    """

    name: str
    values: tuple[float, ...]
    margin: float
    is_ratio: bool = False
    unit: str = ""

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the mean."""
        return student_interval(self.values)

    @property
    def verdict(self) -> Verdict:
        """The verdict of this comparison alone."""
        return judged(self.interval, self.margin)

    @property
    def shown(self) -> Interval:
        """The interval in the unit for readers: ratios themselves, points in percent."""
        found = self.interval
        return Interval(*(self.in_unit(value) for value in (found.mean, found.low, found.high)))

    def in_unit(self, value: float) -> float:
        """A value of this comparison in the unit for readers."""
        if self.is_ratio:
            return math.exp(min(value, 700.0))
        return 100 * value if self.unit == "points" else value


def student_interval(values: Sequence[float]) -> Interval:
    """mean ± t · s / √n, with s the standard deviation (n − 1) and t Student's 97.5 % quantile for n − 1 degrees."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    quantile = _T[count - 2] if count - 2 < len(_T) else _NORMAL
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def judged(interval: Interval, margin: float) -> Verdict:
    """*supported* if the whole interval is above the margin, *not supported* if none of it is, *mixed* otherwise."""
    if interval.low > margin:
        return "supported"
    return "not supported" if interval.high <= margin else "mixed"


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of a claim with several parts: theirs if they agree, *mixed* otherwise."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else "mixed"
