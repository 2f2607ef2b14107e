"""The operations that the folder knows. To teach it another one, write its record and list it here: one line.

`primitive.py` says what a record holds, `stuck.py` how a rule refuses. The other files hold one family each.
"""

from __future__ import annotations

from collections.abc import Mapping

from bncli.folding.primitives import calls, conv, dot, elementwise, gather, joins, layout, nonlinear, pool
from bncli.folding.primitives.primitive import Primitive

__all__ = ["PRIMITIVES", "UNKNOWN", "primitive_of"]

RECORDS = (
    calls.CALL,
    calls.CUSTOM_VJP,
    calls.JIT,
    conv.CONV,
    dot.DOT,
    elementwise.ADD,
    elementwise.COMPARE,
    elementwise.DIV,
    elementwise.MUL,
    elementwise.NEG,
    elementwise.SELECT,
    elementwise.SUB,
    gather.GATHER,
    joins.CONCATENATE,
    joins.PAD,
    joins.SPLIT,
    layout.BARRIER,
    layout.BROADCAST,
    layout.CAST,
    layout.COPY,
    layout.LABEL,
    layout.REDUCE_PRECISION,
    layout.RESHAPE,
    layout.REV,
    layout.SLICE,
    layout.SQUEEZE,
    layout.TILE,
    layout.TRANSPOSE,
    nonlinear.ABS,
    nonlinear.ARGMAX,
    nonlinear.CLAMP,
    nonlinear.COND,
    nonlinear.CUMSUM,
    nonlinear.DYNAMIC_SLICE,
    nonlinear.ERF,
    nonlinear.ERFC,
    nonlinear.EXP,
    nonlinear.EXPM1,
    nonlinear.INTEGER_POW,
    nonlinear.LOG,
    nonlinear.LOG1P,
    nonlinear.LOGISTIC,
    nonlinear.MIN,
    nonlinear.POW,
    nonlinear.RELU,
    nonlinear.RSQRT,
    nonlinear.SCAN,
    nonlinear.SQRT,
    nonlinear.SQUARE,
    nonlinear.TANH,
    nonlinear.WHILE,
    pool.REDUCE_MAX,
    pool.REDUCE_MIN,
    pool.REDUCE_SUM,
    pool.WINDOW_EXTREME,
    pool.WINDOW_SUM,
)
PRIMITIVES: Mapping[str, Primitive] = {name: record for record in RECORDS for name in record.names}
UNKNOWN = Primitive(names=())


def primitive_of(name: str) -> Primitive:
    """The record of a primitive, or an empty one."""
    return PRIMITIVES.get(name, UNKNOWN)
