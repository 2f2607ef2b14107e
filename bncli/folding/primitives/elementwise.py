"""Operations on two values elementwise: sums of two dynamic values, products by one, choices between some.

An operation with one dynamic operand and known others is not here: it is an affine itself (`chains.py`).
"""

from __future__ import annotations

import numpy as np

from bncli.folding.affine import Affine
from bncli.folding.primitives.rule import Affines, Move, Op, RulePair, Stuck

GATE = Stuck("a product of two values that depend on the input stands in the way (a gate, a GELU)")
SIGNS = {"add": 1.0, "add_any": 1.0, "sub": -1.0}


def sum_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(a ± b)·s + t = (a·s + t) ± b·s: both addends must take the scale."""
    if len(op.dynamic) != 2:
        return Stuck("it is added to a value that differs by example")
    affine = outputs[0]
    passed = {0: affine, 1: Affine.of_scale(affine.scale)}
    return _fitting(op, passed)


def sum_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(a·s + t) + b·s = (a + b)·s + t: a shift moves on, a scale only when both addends have the same."""
    arriving = [_operand(op, operands, index) for index in (0, 1)]
    if not np.all(arriving[0].scale == arriving[1].scale):
        other = op.named(1 - next(iter(operands)))
        return Stuck(f"it is added to {other}, which does not have its scale")
    shift = arriving[0].shift + SIGNS[op.name] * arriving[1].shift
    return Move(passed={0: Affine(arriving[0].scale, shift)})


def product_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(a·b)·s = (a·s)·b; there is no place for a shift."""
    affine = outputs[0]
    if not affine.is_scale:
        return GATE
    wide = next((i for i in op.dynamic if op.shapes[i] == op.shape), None)
    if wide is None or (op.name == "div" and wide == 1):
        return GATE
    return Move(passed={wide: affine})


def product_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(a·s)·b = (a·b)·s, a/(b·s) = (a/b)·(1/s); a shift would have to be multiplied by b."""
    arriving = [_operand(op, operands, index) for index in (0, 1)]
    if not all(affine.is_scale for affine in arriving):
        return GATE
    if op.name == "div" and not arriving[1].scale.all():
        return Stuck("it divides by a value whose scale is zero")
    second = 1.0 / arriving[1].scale if op.name == "div" else arriving[1].scale
    return Move(passed={0: Affine.of_scale(arriving[0].scale * second)})


def select_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """select(p, a, b)·s + t = select(p, a·s + t, b·s + t)."""
    if 0 not in op.dynamic and len(op.dynamic) == len(op.shapes):
        return Stuck("it is chosen from by position")
    if set(range(1, len(op.shapes))) - set(op.dynamic):
        return Stuck("it is replaced by a constant in places")
    return Move(passed=dict.fromkeys(range(1, len(op.shapes)), outputs[0]))


def select_forward(op: Op, operands: Affines) -> Move | Stuck:
    """select(p, a·s + t, b·s + t) = select(p, a, b)·s + t: every case must have the same affine."""
    cases = [_operand(op, operands, index) for index in range(1, len(op.shapes))]
    if set(range(1, len(op.shapes))) - set(op.dynamic) or not all(case.same_as(cases[0]) for case in cases):
        return Stuck("it is replaced by another value in places")
    return Move(passed={0: cases[0]})


def compare_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """A comparison delivers true or false, never an affine."""
    return Stuck("it is compared with another value")


def compare_forward(op: Op, operands: Affines) -> Move | Stuck:
    """x·s > 0 ⇔ x > 0 for s > 0: nothing moves on."""
    (index,) = operands if len(operands) == 1 else (-1,)
    if index == -1 or len(op.dynamic) != 1 or op.known(1 - index).any():
        return Stuck("it is compared with another value")
    affine = operands[index]
    if not affine.is_scale or not np.all(affine.scale > 0):
        return Stuck("its sign is asked for, and it would change")
    return Move()


def _operand(op: Op, operands: Affines, index: int) -> Affine:
    return operands.get(index, Affine.identity(len(op.shapes[index])))


def _fitting(op: Op, passed: Affines) -> Move | Stuck:
    """The move, unless an operand is broadcast along an axis where its affine differs."""
    for index, affine in passed.items():
        if any(op.shapes[index][axis] != op.shape[axis] for axis in affine.varies()):
            return Stuck("it is added to a value that is broadcast over its channels")
    return Move(passed=passed)


COMPARE = RulePair(compare_backward, compare_forward)
PRODUCT = RulePair(product_backward, product_forward)
SELECT = RulePair(select_backward, select_forward)
SUM = RulePair(sum_backward, sum_forward)
