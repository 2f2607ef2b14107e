"""The record of one operation: everything the folder knows about it.

A *backward* rule is told which affine each output must deliver and asks the same of its inputs. A *forward* rule is
told that operand v arrives as v' with v = affine(v') and says the same of its outputs. Both answer with a `Move`,
or with `Stuck` and a cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax.export
import numpy as np

from bncli.folding.affine import Affine, Array
from bncli.folding.primitives.stuck import Stuck

Affines: TypeAlias = Mapping[int, Affine]
Params: TypeAlias = Mapping[str, Any]  # the parameters of an equation, as JAX hands them out
Shape: TypeAlias = tuple[int, ...]

# Parameters on which no number depends; a record still has to name those that its operation may have.
IGNORABLE: Mapping[str, str] = {
    "accuracy": "the rounding of a function; the folded network calls it with the same parameter",
    "context_mesh": "the devices, not the numbers",
    "indices_are_sorted": "a promise about the positions, not the positions",
    "layout": "the order in memory, not the numbers",
    "name": "a label for `jax.checkpoint`",
    "new_dtype": "the dtype of the output, which every rule reads from the output itself",
    "out_sharding": "the devices that hold the output, not its numbers",
    "precision": "the rounding of a product; the folded operation keeps the parameter",
    "preferred_element_type": "the dtype of the output, which every rule reads from the output itself",
    "sharding": "the devices that hold the output, not its numbers",
    "unconstrained_dims": "the devices, not the numbers",
    "unique_indices": "a promise about the positions, not the positions",
    "weak_type": "the promotion of dtypes in later operations, which the trace already shows",
}


@dataclass(frozen=True)
class Move:
    """The way of an affine through an operation, or into it.

    Args:
        passed: what moves on: backward by operand, forward by output.
        left: what stays as a multiply or an add: backward behind an output, forward in front of an operand.
        weights: operand -> its new constant array.
        bias: the bias that an absorbing operation adds to its output; None if it absorbs nothing.
    """

    passed: Affines = field(default_factory=dict)
    left: Affines = field(default_factory=dict)
    weights: Mapping[int, Array] = field(default_factory=dict)
    bias: Affine | None = None


@dataclass(frozen=True)
class Op:
    """One operation as a rule sees it.

    Args:
        params: the parameters that the record reads, and no others.
        shapes: the operands' shapes; `shape`: the first output's.
        out_shapes: every output's shape.
        batch: operand -> the axes whose length is the batch size; `out_batch`: the first output's.
        dynamic: the operands whose numbers depend on the network's input; `sized`: those of them that depend on its
            shape only, so that a symbol is all that is known.
        known: operand -> its constant array in float64, evaluated on the call.
    """

    params: Params
    shapes: tuple[Shape, ...]
    out_shapes: tuple[Shape, ...]
    batch: tuple[frozenset[int], ...]
    out_batch: frozenset[int]
    dynamic: tuple[int, ...]
    known: Callable[[int], Array]
    sized: tuple[int, ...] = ()

    @property
    def has_symbols(self) -> bool:
        """True if a size is a symbol."""
        return any(jax.export.is_symbolic_dim(size) for shape in (*self.shapes, *self.out_shapes) for size in shape)

    @property
    def shape(self) -> Shape:
        """Shape of the first output."""
        return self.out_shapes[0]


Rule: TypeAlias = Callable[[Op, Affines], Move | Stuck]
Value: TypeAlias = Callable[[Params, Sequence[Array]], Array]  # operands -> value
Inverse: TypeAlias = Callable[[Params, Array, Shape], Array]  # value, the operand's shape -> operand
# constant operands, position of the other operand -> affine of the other operand
AffineOf: TypeAlias = Callable[[Sequence[Array], int], Affine | None]


@dataclass(frozen=True)
class Rules:
    """Both directions of one family of operations."""

    backward: Rule
    forward: Rule


@dataclass(frozen=True, kw_only=True)
class Primitive:
    """Everything the folder knows about one family of operations.

    Args:
        names: JAX's names of it.
        words: the words of the report for it, "a max-pool"; '' for an operation that users do not write.
        value: its value in NumPy, float64 from float64; without one, JAX computes it in the network's precision.
        inverse: its operand from its value, for an operation that only moves numbers.
        affine: its affine, for an operation on one value and constants.
        rules: its identities in both directions; None if nothing passes.
        reads: the parameters that these functions read. They see no others.
        ignores: the parameters that do not change a number (`IGNORABLE` says why).
        defaults: the parameters that these functions take to have this value.
        body: the parameter with the operations of a call, which are traced in its place.
        control_flow: True for a loop or branch, whose body is left as it is.
    """

    names: tuple[str, ...]
    words: str = ""
    value: Value | None = None
    inverse: Inverse | None = None
    affine: AffineOf | None = None
    rules: Rules | None = None
    reads: frozenset[str] = frozenset()
    ignores: frozenset[str] = frozenset()
    defaults: Params = field(default_factory=dict)
    body: str = ""
    control_flow: bool = False

    def unknown_parameter(self, params: Params) -> str | None:
        """The first parameter that the record does not account for: then none of its functions may be used."""
        return next((name for name, value in params.items() if not self._accounts_for(name, value)), None)

    def seen(self, params: Params) -> Params:
        """The parameters that the record declares to read."""
        return {name: params[name] for name in self.reads if name in params}

    def _accounts_for(self, name: str, value: object) -> bool:
        if name in self.reads or name in self.ignores:
            return True
        return name in self.defaults and bool(value == self.defaults[name])


def elementwise(function: Callable[..., Array]) -> Value:
    """The value of an operation that NumPy has under another name."""

    def value(_: Params, operands: Sequence[Array]) -> Array:
        with np.errstate(all="ignore"):  # a negative variance gives NaN here and is refused by name later
            return np.asarray(function(*operands))

    return value
