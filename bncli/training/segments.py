"""A function of micro-batches, cut where it needs a statistic of all of them.

``function(params, statistics, fixed, micro)`` returns the moments of each layer beside its results. Within it, a layer
uses the statistics of all micro-batches, which follow from the moments that the layer itself sends out. So the function
cannot run to its end on one micro-batch before all others have come as far. ``cut`` finds these places in its trace::

    segment 0 ──moments──> statistics ──> segment 1 ──moments──> statistics ──> segment 2 ──> results
        └───────────── values of the micro-batch ──┘                    and so on

Each segment is an ordinary function that JAX differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from bncli.errors import ModelError

Tree: TypeAlias = Any  # nested containers of arrays, or of what describes them
Atom: TypeAlias = jex.Var | jex.Literal
Arrays: TypeAlias = Sequence[jax.Array]


@dataclass(frozen=True, eq=False)
class Segment:
    """The equations of a function between two sets of statistics.

    Attributes:
        equations: in the order of the trace.
        constants: the arrays that the trace has captured, by variable.
        shared: the variables that it reads and that all micro-batches share: parameters, statistics, fixed inputs.
        reads: their places among all shared leaves.
        micro: the variables of the micro-batch's leaves.
        entering: the variables that earlier segments have computed from the micro-batch.
        leaving: those that later segments read.
        results: the outputs of the function that are computed here.
        places: their places among all outputs.
    """

    equations: tuple[jex.JaxprEqn, ...]
    constants: Mapping[jex.Var, jax.Array]
    shared: tuple[jex.Var, ...]
    reads: tuple[int, ...]
    micro: tuple[jex.Var, ...]
    entering: tuple[jex.Var, ...]
    leaving: tuple[jex.Var, ...]
    results: tuple[Atom, ...]
    places: tuple[int, ...]

    def run(self, shared: Arrays, micro: Arrays, entering: Arrays) -> tuple[list[jax.Array], list[jax.Array]]:
        """(the values that leave, the results) for the values of the variables of the same names."""
        values = dict(self.constants)
        for variables, arrays in ((self.shared, shared), (self.micro, micro), (self.entering, entering)):
            values.update(zip(variables, arrays, strict=True))
        for equation in self.equations:
            made = _evaluate(equation, [_read(values, atom) for atom in equation.invars])
            values.update(zip(equation.outvars, made, strict=True))
        return [values[variable] for variable in self.leaving], [_read(values, atom) for atom in self.results]


@dataclass(frozen=True, eq=False)
class Cut:
    """A function in segments.

    Attributes:
        segments: in the order of the computation.
        layers: for each segment, the layers whose moments it computes.
        names: all layers, in the order of their leaves among the statistics and the moments.
        results: the tree of the function's results beside the moments.
    """

    segments: tuple[Segment, ...]
    layers: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    results: jax.tree_util.PyTreeDef


# (params, {layer: (mean, var)}, fixed, micro) -> ({layer: (first moment, second moment)}, results)
Function: TypeAlias = Callable[[Tree, Mapping[str, Tree], Tree, Tree], tuple[Mapping[str, Tree], Tree]]


def cut(function: Function, params: Tree, statistics: Mapping[str, Tree], fixed: Tree, micro: Tree) -> Cut:
    """Cut a function into segments, from its trace; nothing is computed.

    Args:
        function: sees the moments of a layer before it uses the layer's statistics; two arrays a layer.
        params: differentiated; arrays or descriptions of them, as all that follow.
        statistics: by layer.
        fixed: shared by all micro-batches, not differentiated.
        micro: one micro-batch.

    Raises:
        ModelError: a layer uses its statistics before its moments are known.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(params, statistics, fixed, micro)
    jaxpr, constants = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    sizes = [len(jax.tree.leaves(tree)) for tree in (params, statistics, fixed)]
    shared, of_micro = jaxpr.invars[: sum(sizes)], tuple(jaxpr.invars[sum(sizes) :])
    names = tuple(sorted(statistics))
    statistic_of = {var: names[i // 2] for i, var in enumerate(shared[sizes[0] : sizes[0] + sizes[1]])}
    moments = {name: jaxpr.outvars[2 * i : 2 * i + 2] for i, name in enumerate(names)}
    trace = _Trace(
        equations=_live(jaxpr.eqns, jaxpr.outvars),
        constants=dict(zip(jaxpr.constvars, constants, strict=True)),
        shared=tuple(shared),
        micro=of_micro,
        outputs=tuple(jaxpr.outvars),
    )
    levels = trace.levels(statistic_of, moments)
    segments = tuple(trace.segment(level, levels) for level in range(max(levels.values(), default=0) + 1))
    layers = tuple(tuple(names[place // 2] for place in _first_moments(segment, names)) for segment in segments)
    return Cut(segments, layers, names, jax.tree.structure(shape[1]))


def _first_moments(segment: Segment, names: Sequence[str]) -> list[int]:
    return [place for place in segment.places if place < 2 * len(names) and place % 2 == 0]


@dataclass(frozen=True, eq=False)
class _Trace:
    """The trace of a function; its fields are those of ``Segment``."""

    equations: tuple[jex.JaxprEqn, ...]
    constants: Mapping[jex.Var, jax.Array]
    shared: tuple[jex.Var, ...]
    micro: tuple[jex.Var, ...]
    outputs: tuple[Atom, ...]

    def levels(self, statistic_of: Mapping[jex.Var, str], moments: Mapping[str, Sequence[Atom]]) -> dict[jex.Var, int]:
        """The number of the segment in which each variable is known."""
        level: dict[jex.Var, int] = dict.fromkeys((*self.constants, *self.micro), 0)
        level.update((var, 0) for var in self.shared if var not in statistic_of)
        for equation in self.equations:
            reads = _variables(equation.invars)
            for var in reads:
                if var not in level:
                    level[var] = 1 + _level_of_moments(statistic_of[var], moments, level)
            level.update(dict.fromkeys(equation.outvars, max((level[var] for var in reads), default=0)))
        return level

    def segment(self, number: int, levels: Mapping[jex.Var, int]) -> Segment:
        """One segment."""
        varying = self._varying()
        mine = [eqn for eqn in self.equations if _makes(eqn, varying) and levels[eqn.outvars[0]] == number]
        last = max(levels.values(), default=0)
        known = {atom: levels[atom] for atom in _variables(self.outputs) if atom in varying}
        places = [
            i
            for i, atom in enumerate(self.outputs)
            if (last if isinstance(atom, jex.Literal) else known.get(atom, last)) == number
        ]
        results = tuple(self.outputs[place] for place in places)
        leaving = self._boundary(number + 1, levels, varying)
        needed = {*_variables(results), *leaving, *(var for eqn in mine for var in _variables(eqn.invars))}
        common = _live([eqn for eqn in self.equations if not _makes(eqn, varying)], needed)
        chosen = {id(eqn) for eqn in (*mine, *common)}
        needed.update(var for eqn in common for var in _variables(eqn.invars))
        reads = tuple(i for i, var in enumerate(self.shared) if var in needed)
        return Segment(
            equations=tuple(eqn for eqn in self.equations if id(eqn) in chosen),
            constants={var: array for var, array in self.constants.items() if var in needed},
            shared=tuple(self.shared[place] for place in reads),
            reads=reads,
            micro=self.micro,
            entering=self._boundary(number, levels, varying),
            leaving=leaving,
            results=results,
            places=tuple(places),
        )

    def _varying(self) -> set[Atom]:
        """The variables that depend on the micro-batch."""
        varying: set[Atom] = set(self.micro)
        for eqn in self.equations:
            if not varying.isdisjoint(_variables(eqn.invars)):
                varying.update(eqn.outvars)
        return varying

    def _boundary(self, number: int, levels: Mapping[jex.Var, int], varying: set[Atom]) -> tuple[jex.Var, ...]:
        """The variables of earlier segments that segment ``number`` or a later one reads."""
        made = [var for eqn in self.equations for var in eqn.outvars if var in varying and levels[var] < number]
        later = [eqn for eqn in self.equations if _makes(eqn, varying) and levels[eqn.outvars[0]] >= number]
        read = {var for eqn in later for var in _variables(eqn.invars)}
        return tuple(var for var in made if var in read)


def _level_of_moments(layer: str, moments: Mapping[str, Sequence[Atom]], level: Mapping[jex.Var, int]) -> int:
    known = [level.get(var) for var in _variables(moments[layer])]
    if None in known:
        raise ModelError(
            f"{layer} uses its statistics before they are known",
            remedy="Take the usual approximation: --accumulate-bn micro.",
        )
    return max((number for number in known if number is not None), default=0)


def _makes(equation: jex.JaxprEqn, varying: set[Atom]) -> bool:
    return not varying.isdisjoint(equation.outvars)


def _live(equations: Sequence[jex.JaxprEqn], outputs: Iterable[Atom]) -> tuple[jex.JaxprEqn, ...]:
    """The equations that the outputs depend on, in order."""
    needed = set(_variables(outputs))
    kept = []
    for equation in reversed(equations):
        if not needed.isdisjoint(equation.outvars):
            needed.update(_variables(equation.invars))
            kept.append(equation)
    return tuple(reversed(kept))


def _variables(atoms: Iterable[Atom]) -> list[jex.Var]:
    return [atom for atom in atoms if not isinstance(atom, jex.Literal)]


def _read(values: Mapping[jex.Var, jax.Array], atom: Atom) -> jax.Array:
    return jnp.asarray(atom.val, getattr(atom.aval, "dtype", None)) if isinstance(atom, jex.Literal) else values[atom]


def _evaluate(equation: jex.JaxprEqn, inputs: Arrays) -> list[jax.Array]:
    primitive: Any = equation.primitive  # its methods are untyped
    outputs = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
    return list(outputs) if primitive.multiple_results else [outputs]
