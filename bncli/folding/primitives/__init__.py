"""primitive -> its fold rules. To teach the folder an operation, write its identity as a rule and list it here."""

from __future__ import annotations

from bncli.folding.primitives.conv import CONV
from bncli.folding.primitives.dot import DOT
from bncli.folding.primitives.elementwise import COMPARE, PRODUCT, SELECT, SUM
from bncli.folding.primitives.joins import CONCATENATE, PAD, SPLIT
from bncli.folding.primitives.layout import BARRIER, BROADCAST, RESHAPE, REV, SAME, SLICE, SQUEEZE, TRANSPOSE
from bncli.folding.primitives.nonlinear import RELU, opaque
from bncli.folding.primitives.pool import REDUCE_EXTREME, REDUCE_SUM, WINDOW_EXTREME, WINDOW_SUM
from bncli.folding.primitives.rule import Move, Op, RulePair, Stuck

__all__ = ["RULES", "Move", "Op", "RulePair", "Stuck", "rules_of"]

RULES: dict[str, RulePair] = {
    "abs": opaque("an absolute value stands in the way"),
    "add": SUM,
    "add_any": SUM,
    "argmax": opaque("its largest position is asked for"),
    "broadcast_in_dim": BROADCAST,
    "clamp": opaque("a clip stands in the way"),
    "concatenate": CONCATENATE,
    "cond": opaque("a branch (cond) reads it"),
    "conv_general_dilated": CONV,
    "convert_element_type": SAME,
    "copy": SAME,
    "copy_p": SAME,
    "cumsum": opaque("a running sum stands in the way"),
    "div": PRODUCT,
    "dot_general": DOT,
    "dynamic_slice": opaque("it is sliced at a computed position"),
    "erf": opaque("a GELU stands in the way"),
    "erfc": opaque("a GELU stands in the way"),
    "exp": opaque("an exponential (softmax, ELU) stands in the way"),
    "expm1": opaque("an exponential (ELU) stands in the way"),
    "gather": opaque("it is indexed (gather)"),
    "ge": COMPARE,
    "gt": COMPARE,
    "integer_pow": opaque("a power stands in the way (a GELU has one)"),
    "le": COMPARE,
    "log": opaque("a logarithm stands in the way"),
    "log1p": opaque("a logarithm stands in the way"),
    "logistic": opaque("a sigmoid stands in the way"),
    "lt": COMPARE,
    "max": RELU,
    "min": opaque("a clip stands in the way"),
    "mul": PRODUCT,
    "name": SAME,
    "optimization_barrier": BARRIER,
    "pad": PAD,
    "reduce_max": REDUCE_EXTREME,
    "reduce_min": REDUCE_EXTREME,
    "reduce_precision": SAME,
    "reduce_sum": REDUCE_SUM,
    "reduce_window_max": WINDOW_EXTREME,
    "reduce_window_min": WINDOW_EXTREME,
    "reduce_window_sum": WINDOW_SUM,
    "reshape": RESHAPE,
    "rev": REV,
    "rsqrt": opaque("a square root stands in the way"),
    "scan": opaque("a loop (scan) reads it"),
    "select_n": SELECT,
    "sharding_constraint": SAME,
    "slice": SLICE,
    "split": SPLIT,
    "sqrt": opaque("a square root stands in the way"),
    "square": opaque("a power stands in the way"),
    "squeeze": SQUEEZE,
    "stop_gradient": SAME,
    "sub": SUM,
    "tanh": opaque("a tanh stands in the way"),
    "transpose": TRANSPOSE,
    "while": opaque("a loop (while) reads it"),
}


def rules_of(name: str) -> RulePair:
    """The rules of a primitive; of an unlisted one, rules that name it as the reason."""
    return RULES.get(name) or opaque(f"{name} stands in the way, for which there is no fold rule")
