"""Nonlinearities, loops and branches: nothing passes, except a positive scale through a ReLU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bncli.folding.affine import Affine, Array
from bncli.folding.primitives.primitive import Affines, Move, Op, Params, Primitive, Rules, elementwise
from bncli.folding.primitives.stuck import Cause, Stuck


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
        return Stuck(Cause.MAXIMUM_OF_TWO)
    if op.known(1 - op.dynamic[0]).any():
        return Stuck(Cause.CLIP)
    if not affine.is_scale or not np.all(affine.scale >= 0):
        return Stuck(Cause.RELU)
    return None


def _integer_power(params: Params, operands: Sequence[Array]) -> Array:
    return np.asarray(operands[0] ** float(params["y"]))


def _rsqrt(operand: Array) -> Array:
    return np.asarray(1.0 / np.sqrt(operand))


def _opaque(name: str, words: str, function: Callable[..., Array] | None = None) -> Primitive:
    """The record of a function that lets nothing through; some versions of JAX give it an accuracy."""
    value = None if function is None else elementwise(function)
    return Primitive(names=(name,), words=words, value=value, ignores=frozenset({"accuracy"}))


ABS = _opaque("abs", "an absolute value", np.abs)
ARGMAX = _opaque("argmax", "an argmax")
CLAMP = _opaque("clamp", "a clip")
COND = Primitive(names=("cond",), words="a branch (cond)", control_flow=True)
CUMSUM = _opaque("cumsum", "a running sum")
DYNAMIC_SLICE = _opaque("dynamic_slice", "a slice at a computed position")
ERF = _opaque("erf", "a GELU")
ERFC = _opaque("erfc", "a GELU")
EXP = _opaque("exp", "an exponential (softmax, ELU)", np.exp)
EXPM1 = _opaque("expm1", "an exponential (ELU)")
INTEGER_POW = Primitive(names=("integer_pow",), words="a power", value=_integer_power, reads=frozenset({"y"}))
LOG = _opaque("log", "a logarithm", np.log)
LOG1P = _opaque("log1p", "a logarithm")
LOGISTIC = _opaque("logistic", "a sigmoid")
MIN = _opaque("min", "a clip", np.minimum)
POW = _opaque("pow", "a power", np.power)
RELU = Primitive(
    names=("max",), words="a ReLU", value=elementwise(np.maximum), rules=Rules(relu_backward, relu_forward)
)
RSQRT = _opaque("rsqrt", "a square root", _rsqrt)
SCAN = Primitive(names=("scan",), words="a loop (scan)", control_flow=True)
SQRT = _opaque("sqrt", "a square root", np.sqrt)
SQUARE = _opaque("square", "a power", np.square)
TANH = _opaque("tanh", "a tanh", np.tanh)
WHILE = Primitive(names=("while",), words="a loop (while)", control_flow=True)
