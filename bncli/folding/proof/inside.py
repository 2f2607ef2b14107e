"""The inside of both networks: the values that they have in common, compared where the outputs prove nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bncli.folding.folded import Folded, flatten
from bncli.folding.rewrite.program import Program, values_of
from bncli.folding.trace.arguments import concrete
from bncli.folding.trace.constants import is_coarse, is_float
from bncli.folding.trace.graph import Graph, Node, Path, Pytree
from bncli.folding.verify import TOLERANCES, Match, Tally, allowed, default_tolerance, numbers

# A tiny change in front of one of these may be a large one behind it.
DISCONTINUOUS = frozenset(
    {"approx_top_k", "argmax", "argmin", "ceil", "floor", "rem", "round", "sign", "sort", "top_k"}
)
# They may leave out an input: the branch that is not taken, a loop without a turn.
BRANCHING = frozenset({"cond", "while"})
MANTISSA = {"bfloat16": 7, "float16": 10}
# These programs run twice: half the time to compile, more to run.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclass(frozen=True)
class Found:
    """The values inside that were compared.

    Args:
        witnesses: those that agree and vary with the input.
        wrong: the matches of those that differ.
    """

    witnesses: frozenset[int]
    wrong: tuple[Match, ...]


@dataclass(frozen=True)
class Inside:
    """The inside of both networks.

    Args:
        graph: the original network at the batch size of the examples.
        rough: the values behind a discontinuous operation, which say nothing if they differ.
        tolerance: the largest relative error of an output, or None; `least`: the rounding of the network's dtypes.
    """

    folded: Folded
    graph: Graph
    rough: frozenset[int]
    tolerance: float | None
    least: float

    def search(self, variables: Pytree, inputs: Sequence[Pytree], silent: Set[int]) -> Found:
        """The last values before the silent outputs that vary with the input, and those on the way that differ."""
        matches = self.matches(variables, inputs, self.common() & ancestors(self.graph, silent))
        producers = self.graph.producers
        witnesses: set[int] = set()
        wrong: list[Match] = []
        seen: set[int] = set()
        waiting = list(silent)
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            match = matches.get(value)
            if match is not None and match.tells:
                witnesses.add(value)
                continue
            if match is not None and match.differs:
                wrong.append(match)
            elif value in producers:
                waiting.extend(producers[value].inputs)
        return Found(frozenset(witnesses), tuple(wrong))

    def common(self) -> frozenset[int]:
        """The float values that both networks compute, and that are equal unless the fold is wrong."""
        program, avals = self.folded.program, self.graph.avals
        computed = {value for index in program.steps for value in self.graph.nodes[index].outputs}
        dynamic = computed - self.graph.known - program.moved - self.rough
        return frozenset(value for value in dynamic if is_float(avals[value].dtype))

    def matches(self, variables: Pytree, inputs: Sequence[Pytree], wanted: Set[int]) -> dict[int, Match]:
        """The comparison of the values, over all batches."""
        whole = Program(steps=tuple(node.index for node in self.graph.live()))

        def both(ours: dict[Path, Pytree], theirs: Pytree, x: Pytree) -> list[tuple[Pytree, Pytree]]:
            original = values_of(whole, self.graph, ours, x)
            folded = values_of(self.folded.program, self.graph, dict(flatten(theirs)), x)
            return [(original[value], folded[value]) for value in ordered]

        ordered = sorted(wanted)
        tallies = {value: self.tally(value) for value in ordered}
        run = compiled(both)
        with jax.default_matmul_precision("highest"):
            for x in inputs:
                for tally, pair in zip(
                    tallies.values(), run(concrete(variables), self.folded.variables, x), strict=True
                ):
                    tally.add(*map(numbers, pair))
        return {value: tally.match(0) for value, tally in tallies.items()}

    def tally(self, value: int) -> Tally:
        """The comparison of one value, with the tolerance of an output of its dtype."""
        dtype = self.graph.avals[value].dtype
        return Tally(allowed(dtype, self.tolerance, self.least), default_tolerance(dtype))


def ancestors(graph: Graph, values: Iterable[int], *, closed: Iterable[Node] = ()) -> set[int]:
    """The values and all that they are computed from; the way back ends at the operations that are ``closed``."""
    found = set(values)
    ends = {node.index for node in closed}
    for node in reversed(graph.nodes):
        if not found.isdisjoint(node.outputs) and node.index not in ends:
            found.update(node.inputs)
    return found


def gates(graph: Graph) -> list[Node]:
    """The operations that may leave out an input as a whole, so that their outputs show nothing of it."""
    dynamic = (node for node in graph.live() if not graph.known.issuperset(node.outputs))
    return [node for node in dynamic if node.name in BRANCHING or _is_one_choice(graph, node)]


def _is_one_choice(graph: Graph, node: Node) -> bool:
    """True if one number chooses between whole arrays, as under ``jnp.where(flag, a, b)``."""
    if node.name != "select_n" or node.inputs[0] in graph.known:
        return False
    which = node.inputs[0]
    producer = graph.producers.get(which)
    if producer is not None and producer.name == "broadcast_in_dim":
        which = producer.inputs[0]
    return math.prod(graph.avals[which].shape) == 1


def rough_values(graph: Graph) -> frozenset[int]:
    """The values behind a discontinuous operation on the input."""
    rough: set[int] = set()
    for node in graph.nodes:
        if not graph.known.issuperset(node.outputs) and (
            _is_discontinuous(graph, node) or not rough.isdisjoint(node.inputs)
        ):
            rough.update(node.outputs)
    return frozenset(rough)


def _is_discontinuous(graph: Graph, node: Node) -> bool:
    """True if the operation makes steps: a rounding, or a cast to integers or to float8."""
    if node.name in DISCONTINUOUS or node.params.get("mantissa_bits", MANTISSA["bfloat16"]) < MANTISSA["bfloat16"]:
        return True
    ins, outs = ([graph.avals[value].dtype for value in side] for side in (node.inputs, node.outputs))
    casts = node.name == "convert_element_type" and is_float(ins[0])
    return casts and (is_coarse(outs[0]) or jnp.issubdtype(outs[0], jnp.integer))


def least_tolerance(graph: Graph) -> float:
    """The rounding of the shortest float type that the data go through, float8 apart."""
    dynamic = {value for node in graph.live() for value in node.outputs} - graph.known
    short = (default_tolerance(graph.avals[value].dtype) for value in dynamic)
    bits = {node.params["mantissa_bits"] for node in graph.live() if node.name == "reduce_precision"}
    rounded = (TOLERANCES[name] for name, mantissa in MANTISSA.items() if any(number <= mantissa for number in bits))
    return max((*short, *rounded), default=0.0)


def compiled(function: Callable[..., Pytree]) -> Callable[..., Pytree]:
    """The function under `jit`, for few runs."""
    return jax.jit(function, compiler_options=QUICK_COMPILE if jax.default_backend() == "cpu" else None)
