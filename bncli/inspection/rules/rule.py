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
from bncli.inspection.live_report import LayerLive, LiveReport

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

Network = Sequence[BatchNormArrays]
Channels = tuple[int, ...]
Flags = np.ndarray | bool  # bool [C], or one answer for the layer as a whole


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The words of one finding, as the documentation shows them.

    Attributes:
        code: stable name.
        severities: those it can have; the first is the default.
        when: the threshold, in words.
        why: the reason for the threshold, with its source.
        remedy: a command or a setting, with the fields of ``remedies``.
        unless: codes that explain the same symptom better. A channel that has one of them is left out, and so is a
            whole layer.
    """

    code: str
    severities: tuple[Severity, ...]
    when: str
    why: str
    remedy: str
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule(Entry):
    """A rule about one layer.

    Attributes:
        affected: the channels of a layer that have the finding.
        message: what is wrong, from the layer and the affected channels.
        grade: chooses among the severities; None for the first.
    """

    affected: Callable[[BatchNormArrays], Flags]
    message: Callable[[BatchNormArrays, Channels], str]
    grade: Callable[[BatchNormArrays, Channels], Severity] | None = None

    def on(self, network: Network) -> Rule:
        """The rule itself: it does not depend on the other layers."""
        return self


@dataclass(frozen=True, kw_only=True)
class NetworkRule(Entry):
    """A rule about a layer among the others: the functions of a ``Rule``, with the network as their first argument."""

    affected: Callable[[Network, BatchNormArrays], Flags]
    message: Callable[[Network, BatchNormArrays, Channels], str]
    grade: Callable[[Network, BatchNormArrays, Channels], Severity] | None = None

    def on(self, network: Network) -> Rule:
        """The rule for one layer of this network."""
        return Rule(
            code=self.code,
            severities=self.severities,
            when=self.when,
            why=self.why,
            remedy=self.remedy,
            unless=self.unless,
            affected=partial(self.affected, network),
            message=partial(self.message, network),
            grade=self.grade and partial(self.grade, network),
        )


@dataclass(frozen=True, kw_only=True)
class DataRule(Entry):
    """A rule about what ``--data`` measured.

    Attributes:
        affected: the layers that have the finding.
        message: what is wrong with one of them.
        grade: chooses among the severities; None for the first.
    """

    affected: Callable[[LiveReport], Sequence[LayerLive]]
    message: Callable[[LiveReport, LayerLive], str]
    grade: Callable[[LiveReport], Severity] | None = None


def of_channels(layer: BatchNormArrays, channels: Channels) -> str:
    """Such as ``3 of 64 channels``."""
    return f"{len(channels)} of {layer.channels} channel{'s' * (layer.channels != 1)}"


def at(values: np.ndarray, channels: Channels) -> np.ndarray:
    """The values [C] of these channels."""
    return values[list(channels)]
