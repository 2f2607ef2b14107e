"""What a rule is given and what it answers.

A *backward* rule is told what affine each output must deliver and asks the same of its inputs; a *forward* rule is
told that operand v arrives as v' with v = affine(v') and says the same of its outputs. Both answer with a `Move`,
or with `Stuck` and a reason that a user understands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bncli.folding.affine import Affine, Array

Affines = Mapping[int, Affine]


@dataclass(frozen=True)
class Stuck:
    """This affine cannot move here; the reason completes "kept, because …"."""

    reason: str


@dataclass(frozen=True)
class Move:
    """How an operation lets an affine through, or takes it in.

    Args:
        passed: what moves on: backward by operand, forward by output.
        left: what stays as a multiply or an add: backward behind an output, forward in front of an operand.
        weights: operand -> its new known array.
        bias: what an absorbing operation adds to its output; None for an operation that only lets through.
    """

    passed: Affines = field(default_factory=dict)
    left: Affines = field(default_factory=dict)
    weights: Mapping[int, Array] = field(default_factory=dict)
    bias: Affine | None = None


@dataclass(frozen=True)
class Op:
    """One operation as a rule sees it.

    Args:
        name: the primitive's name.
        params: the primitive's parameters.
        shapes: the operands' shapes; `shape`: the first output's.
        out_shapes: every output's shape.
        batch: operand -> the axes whose length is the batch size; `out_batch`: the first output's.
        dynamic: the operands that depend on the network's input.
        known: operand -> its array in float64, evaluated on the call.
        named: operand -> what a user calls it.
    """

    name: str
    params: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    out_shapes: tuple[tuple[int, ...], ...]
    batch: tuple[frozenset[int], ...]
    out_batch: frozenset[int]
    dynamic: tuple[int, ...]
    known: Callable[[int], Array]
    named: Callable[[int], str]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_shapes[0]


Rule = Callable[[Op, Affines], Move | Stuck]


@dataclass(frozen=True)
class RulePair:
    """Both directions of one primitive family."""

    backward: Rule
    forward: Rule
