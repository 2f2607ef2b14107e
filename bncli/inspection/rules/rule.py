"""One row of the table of findings. Its functions are called with NumPy's warnings off: NaN compares as False.

Letters: C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from bncli.inspection.layers import BatchNormArrays

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

Network = Sequence[BatchNormArrays]
Channels = tuple[int, ...]
Flags = np.ndarray | bool  # bool [C], or whether it is the layer as such


@dataclass(frozen=True)
class Entry:
    """What a finding's code stands for, as the README has it.

    Attributes:
        code: stable name.
        severities: those it may have; the first one where nothing grades it.
        when: the threshold, in words.
        why: the reason for it, with its source.
    """

    code: str
    severities: tuple[Severity, ...]
    when: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Rule(Entry):
    """A rule on one layer.

    Attributes:
        concerned: the channels of a layer that the rule objects to.
        message: what is the case, from the layer and the channels concerned.
        remedy: a command or a setting, with the fields of ``remedies``.
        unless: codes that say the same with the better reason: channels that have one are left out, and a layer that
            has one as such.
        grade: which of its severities it is; None for the first.
    """

    concerned: Callable[[BatchNormArrays], Flags]
    message: Callable[[BatchNormArrays, Channels], str]
    remedy: str
    unless: tuple[str, ...] = ()
    grade: Callable[[BatchNormArrays, Channels], Severity] | None = None

    def on(self, network: Network) -> Rule:
        """The rule itself: the other layers do not matter to it."""
        return self


@dataclass(frozen=True, kw_only=True)
class NetworkRule(Entry):
    """A rule on a layer among the others of its network: the same functions, with the network before the layer."""

    concerned: Callable[[Network, BatchNormArrays], Flags]
    message: Callable[[Network, BatchNormArrays, Channels], str]
    remedy: str
    unless: tuple[str, ...] = ()
    grade: Callable[[Network, BatchNormArrays, Channels], Severity] | None = None

    def on(self, network: Network) -> Rule:
        """The rule on one layer of this network."""
        return Rule(
            code=self.code,
            severities=self.severities,
            when=self.when,
            why=self.why,
            concerned=partial(self.concerned, network),
            message=partial(self.message, network),
            remedy=self.remedy,
            unless=self.unless,
            grade=self.grade and partial(self.grade, network),
        )


def of_channels(layer: BatchNormArrays, channels: Channels) -> str:
    """``3 of 64 channels``."""
    return f"{len(channels)} of {layer.channels} channel{'s' * (layer.channels != 1)}"


def at(values: np.ndarray, channels: Channels) -> np.ndarray:
    """The values [C] of the channels concerned."""
    return values[list(channels)]
