"""Nonlinearities: nothing passes, except a positive scale through what is positively homogeneous."""

from __future__ import annotations

import numpy as np

from bncli.folding.affine import Affine
from bncli.folding.primitives.rule import Affines, Move, Op, RulePair, Stuck


def opaque(reason: str) -> RulePair:
    """The rules of an operation that lets nothing through."""
    stuck = Stuck(reason)

    def refuse(op: Op, affines: Affines) -> Stuck:
        return stuck

    return RulePair(refuse, refuse)


def relu_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """max(x, 0)·s = max(x·s, 0) for s ≥ 0."""
    stuck = _refuse(op, outputs[0])
    return stuck if stuck is not None else Move(passed={op.dynamic[0]: outputs[0]})


def relu_forward(op: Op, operands: Affines) -> Move | Stuck:
    """max(x·s, 0) = max(x, 0)·s for s ≥ 0."""
    (affine,) = operands.values() if len(operands) == 1 else (Affine.identity(len(op.shape)),)
    stuck = _refuse(op, affine)
    return stuck if stuck is not None else Move(passed={0: affine})


def _refuse(op: Op, affine: Affine) -> Stuck | None:
    if len(op.dynamic) != 1:
        return Stuck("a maximum of two values stands in the way")
    if op.known(1 - op.dynamic[0]).any():
        return Stuck("a clip stands in the way")
    if not affine.is_scale or not np.all(affine.scale >= 0):
        return Stuck("a ReLU stands in the way")
    return None


RELU = RulePair(relu_backward, relu_forward)
