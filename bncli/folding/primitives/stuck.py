"""Reasons why an affine cannot move, as data: rules name a cause, `report/reasons.py` makes the sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto, unique
from typing import TypeAlias

Slot: TypeAlias = tuple[int, int]  # (operation, operand)


@unique
class Cause(Enum):
    """The kinds of obstacle."""

    # any operation
    NO_RULE = auto()
    UNKNOWN_PARAMETER = auto()
    # convolutions and matrix products
    BATCH_GROUPS = auto()
    COMPUTED_KERNEL = auto()
    SCALE_ALONG_BOTH_FACTORS = auto()
    SCALE_BY_POSITION = auto()
    TWO_COMPUTED_FACTORS = auto()
    # sums, products, choices
    ADDEND_BROADCAST = auto()
    ADDEND_BY_EXAMPLE = auto()
    ADDEND_UNSCALED = auto()
    CHOICE_BY_POSITION = auto()
    COMPARISON = auto()
    COMPARISON_OF_SIGN = auto()
    DIVISION_BY_ZERO = auto()
    GATE = auto()
    REPLACED = auto()
    REPLACED_BY_CONSTANT = auto()
    # nonlinearities
    CLIP = auto()
    MAXIMUM_OF_TWO = auto()
    RELU = auto()
    # pools
    POOLED_OVER_BATCH = auto()
    SCALE_IN_WINDOW = auto()
    SHIFT_IN_WINDOW = auto()
    # pads and moves
    BARRIER_CONSTANT = auto()
    BROADCAST_AXIS = auto()
    COARSE_ROUNDING = auto()
    INDEXED = auto()
    INDEXED_AXIS = auto()
    MERGED_WITH_BATCH = auto()
    PADDED_WITH_COMPUTED = auto()
    PADDED_WITH_INFINITY = auto()
    PADDED_WITH_NONZERO = auto()
    SCALE_ALONG_PADDING = auto()
    # values and their readers
    CONSTANT_BY_EXAMPLE = auto()
    DIFFERENT_DEMANDS = auto()
    DIFFERS_BY_EXAMPLE = auto()
    INTEGERS = auto()
    INTEGER_WEIGHT = auto()
    NETWORK_INPUT = auto()
    NETWORK_OUTPUT = auto()
    NOT_FINITE = auto()
    OTHER_READERS = auto()
    SYMBOLIC_SIZE = auto()
    # the user's choice
    NOT_SELECTED = auto()


@dataclass(frozen=True)
class Stuck:
    """An affine that cannot move on.

    Args:
        cause: the kind of obstacle.
        operation: the operation whose rule refuses it, if one does.
        operand: the operand of that operation that is concerned.
        parameter: the parameter of that operation that is concerned.
        value: the value that must not change.
        readers: the slots that read the value and are concerned.
        asking: the slots that ask for the change.
    """

    cause: Cause
    operation: int | None = None
    operand: int | None = None
    parameter: str = ""
    value: int | None = None
    readers: tuple[Slot, ...] = ()
    asking: tuple[Slot, ...] = ()
