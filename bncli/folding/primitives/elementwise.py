"""Elementwise sums, products, choices and comparisons.

With one dynamic operand and constant others, a sum or product is an affine itself (`affine`). The rules are for two
dynamic operands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncli.folding.affine import Affine, Array
from bncli.folding.primitives.primitive import Affines, Move, Op, Primitive, Rules, elementwise
from bncli.folding.primitives.stuck import Cause, Stuck

GATE = Stuck(Cause.GATE)


def sum_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(a ± b)·s + t = (a·s + t) ± b·s: both addends must take the scale."""
    if len(op.dynamic) != 2:
        return Stuck(Cause.ADDEND_BY_EXAMPLE)
    affine = outputs[0]
    passed = {0: affine, 1: Affine.of_scale(affine.scale)}
    return _fitting(op, passed)


def add_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(a·s + t) + (b·s + u) = (a + b)·s + (t + u): shifts move on, a scale only if both addends have it."""
    return _sum_forward(op, operands, 1.0)


def sub_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(a·s + t) − (b·s + u) = (a − b)·s + (t − u): shifts move on, a scale only if both addends have it."""
    return _sum_forward(op, operands, -1.0)


def _sum_forward(op: Op, operands: Affines, sign: float) -> Move | Stuck:
    arriving = [_operand(op, operands, index) for index in (0, 1)]
    if not np.all(arriving[0].scale == arriving[1].scale):
        return Stuck(Cause.ADDEND_UNSCALED, operand=1 - next(iter(operands)))
    return Move(passed={0: Affine(arriving[0].scale, arriving[0].shift + sign * arriving[1].shift)})


def mul_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(a·b)·s = (a·s)·b; there is no place for a shift, unless b is a symbolic size: then it is left behind."""
    if len(op.sized) == 1:
        return _scaled(op, 1 - op.sized[0], outputs[0])
    wide = next((i for i in op.dynamic if op.shapes[i] == op.shape), None)
    return GATE if wide is None or not outputs[0].is_scale else Move(passed={wide: outputs[0]})


def mul_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(a·s)·(b·u) = (a·b)·(s·u); a shift would have to be multiplied by the other factor."""
    first, second = (_operand(op, operands, index) for index in (0, 1))
    if not (first.is_scale and second.is_scale):
        return Stuck(Cause.SYMBOLIC_SIZE) if op.sized else GATE
    return Move(passed={0: Affine.of_scale(first.scale * second.scale)})


def div_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(a/b)·s = (a·s)/b; there is no place for a shift, unless b is a symbolic size: then it is left behind."""
    if op.sized == (1,):
        return _scaled(op, 0, outputs[0])
    is_wide = op.dynamic[0] == 0 and op.shapes[0] == op.shape
    return Move(passed={0: outputs[0]}) if is_wide and outputs[0].is_scale else GATE


def div_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(a·s)/(b·u) = (a/b)·(s/u) for u ≠ 0; a shift would have to be divided by b."""
    first, second = (_operand(op, operands, index) for index in (0, 1))
    if not (first.is_scale and second.is_scale):
        return Stuck(Cause.SYMBOLIC_SIZE) if op.sized else GATE
    if not second.scale.all():
        return Stuck(Cause.DIVISION_BY_ZERO)
    return Move(passed={0: Affine.of_scale(first.scale * (1.0 / second.scale))})


def _scaled(op: Op, operand: int, affine: Affine) -> Move | Stuck:
    """The move of the scale to one operand, the shift left behind."""
    if op.shapes[operand] != op.shape:
        return GATE
    left = {} if affine.is_scale else {0: Affine.of_shift(affine.shift)}
    return Move(passed={operand: Affine.of_scale(affine.scale)}, left=left)


def select_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """select(p, a, b)·s + t = select(p, a·s + t, b·s + t)."""
    if 0 not in op.dynamic and len(op.dynamic) == len(op.shapes):
        return Stuck(Cause.CHOICE_BY_POSITION)
    if set(range(1, len(op.shapes))) - set(op.dynamic):
        return Stuck(Cause.REPLACED_BY_CONSTANT)
    return Move(passed=dict.fromkeys(range(1, len(op.shapes)), outputs[0]))


def select_forward(op: Op, operands: Affines) -> Move | Stuck:
    """select(p, a·s + t, b·s + t) = select(p, a, b)·s + t: every case must have the same affine."""
    cases = [_operand(op, operands, index) for index in range(1, len(op.shapes))]
    if set(range(1, len(op.shapes))) - set(op.dynamic) or not all(case.same_as(cases[0]) for case in cases):
        return Stuck(Cause.REPLACED)
    return Move(passed={0: cases[0]})


def compare_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """A comparison delivers true or false, which no affine applies to."""
    return Stuck(Cause.COMPARISON)


def compare_forward(op: Op, operands: Affines) -> Move | Stuck:
    """x·s > 0 ⇔ x > 0 for s > 0: the output does not change."""
    (index,) = operands if len(operands) == 1 else (-1,)
    if index == -1 or len(op.dynamic) != 1 or op.known(1 - index).any():
        return Stuck(Cause.COMPARISON)
    affine = operands[index]
    if not affine.is_scale or not np.all(affine.scale > 0):
        return Stuck(Cause.COMPARISON_OF_SIGN)
    return Move()


def _operand(op: Op, operands: Affines, index: int) -> Affine:
    return operands.get(index, Affine.identity(len(op.shapes[index])))


def _fitting(op: Op, passed: Affines) -> Move | Stuck:
    """The move, unless an operand is broadcast along an axis along which its affine varies."""
    for index, affine in passed.items():
        if any(op.shapes[index][axis] != op.shape[axis] for axis in affine.varies()):
            return Stuck(Cause.ADDEND_BROADCAST)
    return Move(passed=passed)


# --- the same operations with one dynamic operand ------------------------------------------------------------------


def _add_constant(constants: Sequence[Array], position: int) -> Affine:
    return Affine.of_shift(constants[0])


def _sub_constant(constants: Sequence[Array], position: int) -> Affine:
    """x − k, or k − x."""
    if position == 0:
        return Affine.of_shift(-constants[0])
    return Affine(-np.ones((1,) * constants[0].ndim), constants[0])


def _mul_constant(constants: Sequence[Array], position: int) -> Affine:
    return Affine.of_scale(constants[0])


def _div_constant(constants: Sequence[Array], position: int) -> Affine | None:
    """x / k; k / x is no affine."""
    return Affine.of_scale(1.0 / constants[0]) if position == 0 and constants[0].all() else None


def _negation(constants: Sequence[Array], position: int) -> Affine:
    return Affine(-np.ones(()), np.zeros(()))


ADD = Primitive(
    names=("add", "add_any"),
    words="a sum",
    value=elementwise(np.add),
    affine=_add_constant,
    rules=Rules(sum_backward, add_forward),
)
COMPARE = Primitive(
    names=("ge", "gt", "le", "lt"), words="a comparison", rules=Rules(compare_backward, compare_forward)
)
DIV = Primitive(
    names=("div",),
    words="a division",
    value=elementwise(np.divide),
    affine=_div_constant,
    rules=Rules(div_backward, div_forward),
)
MUL = Primitive(
    names=("mul",),
    words="a product",
    value=elementwise(np.multiply),
    affine=_mul_constant,
    rules=Rules(mul_backward, mul_forward),
    defaults={"out_dtype": None},
)
NEG = Primitive(names=("neg",), words="a negation", value=elementwise(np.negative), affine=_negation)
SELECT = Primitive(names=("select_n",), words="a jnp.where", rules=Rules(select_backward, select_forward))
SUB = Primitive(
    names=("sub",),
    words="a difference",
    value=elementwise(np.subtract),
    affine=_sub_constant,
    rules=Rules(sum_backward, sub_forward),
)
