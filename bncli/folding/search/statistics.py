"""The running statistics among the variables: filed under `batch_stats`, named by the caller, or found by structure.

By structure, a variance is a variable v in 1/√(v + ε), and its mean the variable that is subtracted from the values
which are multiplied by that. No name is needed, but a network without ε, or with a stored standard deviation, has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal, TypeAlias

import jax

from bncli.errors import FoldError
from bncli.folding.primitives import elementwise, primitive_of
from bncli.folding.trace.constants import Provenance
from bncli.folding.trace.graph import Graph, Node, Path, Pytree, leaf_path

STATISTICS = "batch_stats"
ROOTS = ("pow", "rsqrt", "sqrt")
Way: TypeAlias = Literal["by name", "as given", "by structure"]
Kind: TypeAlias = Literal["mean", "var", "other"]


@dataclass(frozen=True)
class Role:
    """The part of a variable in a BN layer.

    Args:
        layer: the layer's name, which the report, `include` and `exclude` use.
        kind: "mean", "var", or "other" for a counter or another number that the statistics are computed from.
    """

    layer: str
    kind: Kind = "other"


# A predicate on the path of a variable, or a tree like the variables with a `Role`, True, False or None for each.
Asked: TypeAlias = Callable[[Path], bool] | Pytree | None


@dataclass(frozen=True)
class Pair:
    """The mean and the variance of one layer, found by structure."""

    mean: Path
    var: Path


@dataclass(frozen=True)
class Statistics:
    """The running statistics of a network.

    Args:
        way: "by name" if they are filed under `batch_stats`, "as given" by the caller, or "by structure".
        paths: the statistics.
        roles: the roles that the caller gave.
        pairs: the layers found by structure.
        prefix: the number of elements at the start of each path that name the collection, not a layer.
    """

    way: Way
    paths: frozenset[Path]
    roles: Mapping[Path, Role] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    prefix: int = 0

    def is_variance(self, path: Path) -> bool | None:
        """True or False if the caller or the structure tells; None if only the name can."""
        if path in self.roles:
            return self.roles[path].kind == "var"
        if any(path in (pair.mean, pair.var) for pair in self.pairs):
            return any(path == pair.var for pair in self.pairs)
        return None


def find_statistics(
    asked: Asked,
    variables: Pytree,
    graph: Graph,
    provenance: Provenance,
    *,
    inside: Sequence[tuple[Graph, Provenance]] = (),
) -> Statistics:
    """The statistics that the caller names; else those under `batch_stats`; else those found by structure.

    Args:
        inside: the bodies of the network's loops, each with the variables behind its values.

    Raises:
        FoldError: the caller's tree does not fit the variables, or the caller names none of them.
    """
    paths = [leaf_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]]
    traces = [(graph, provenance), *inside]
    if asked is not None:
        roles = _asked_roles(asked, variables, paths)
        chosen = frozenset(roles)
        pairs = [pair for pair in _pairs_in(traces) if {pair.mean, pair.var} <= chosen]
        given = {path: role for path, role in roles.items() if role is not None}
        return Statistics("as given", chosen, given, tuple(pairs), _prefix(chosen, paths))
    named = frozenset(path for path in paths if STATISTICS in path)
    if named:
        return Statistics("by name", named)
    pairs = _pairs_in(traces)
    found = frozenset(path for pair in pairs for path in (pair.mean, pair.var))
    return Statistics("by structure", found, {}, tuple(pairs), _prefix(found, paths))


def _asked_roles(asked: Asked, variables: Pytree, paths: Iterable[Path]) -> dict[Path, Role | None]:
    """The statistics that the caller names, each with its role if the caller gives one.

    Raises:
        FoldError: the tree does not fit the variables, has other leaves than roles, or names no variable.
    """
    marks = _marks(asked, variables, list(paths))
    roles = {path: mark if isinstance(mark, Role) else None for path, mark in marks.items() if mark}
    if not roles:
        raise FoldError(
            "statistics= names none of the variables",
            remedy="a predicate gets the path of each variable as a tuple of names; without statistics= they are found"
            f" by the key {STATISTICS!r} or by structure",
        )
    return roles


def _marks(asked: Asked, variables: Pytree, paths: list[Path]) -> dict[Path, object]:
    if callable(asked):
        return {path: bool(asked(path)) for path in paths}
    leaves, given = jax.tree_util.tree_flatten(asked, is_leaf=lambda mark: mark is None)
    structure: object = jax.tree_util.tree_structure(variables)
    if given != structure:
        raise FoldError(
            "the tree of statistics= has another structure than the variables",
            remedy="give a Role, True, False or None for each variable: jax.tree.map(…, variables) keeps the structure",
        )
    other = next((mark for mark in leaves if not isinstance(mark, Role | bool | None)), None)
    if other is not None:
        raise FoldError(
            f"the tree of statistics= has a {type(other).__name__} in it",
            remedy="give a bncli.folding.Role, True, False or None for each variable",
        )
    return dict(zip(paths, leaves, strict=True))


def _prefix(chosen: frozenset[Path], paths: Iterable[Path]) -> int:
    """1 if the statistics are in a collection of their own, whose name all their paths start with; else 0."""
    first = {path[0] for path in chosen if len(path) > 1}
    others = {path[0] for path in paths if path not in chosen}
    return int(len(first) == 1 and first.isdisjoint(others) and all(len(path) > 1 for path in chosen))


def common(pair: Pair) -> Path:
    """The elements that both paths start with."""
    together = zip(pair.mean[:-1], pair.var[:-1], strict=False)
    return tuple(mine for mine, _ in takewhile(lambda both: both[0] == both[1], together))


def _pairs_in(traces: Sequence[tuple[Graph, Provenance]]) -> list[Pair]:
    """The layers found by structure in all traces; one layer may be in several."""
    return list(dict.fromkeys(pair for graph, provenance in traces for pair in find_pairs(graph, provenance)))


def find_pairs(graph: Graph, provenance: Provenance) -> list[Pair]:
    """The mean and variance of each BN by structure, in the order in which the data meet them."""
    known = _Known(graph, provenance)
    variances = set(known.variances())
    pairs: dict[Path, Pair] = {}
    for node in graph.nodes:
        for path in known.beside(node) & variances:
            mean = known.mean_of(node, path)
            if path not in pairs and mean is not None and mean not in variances:
                pairs[path] = Pair(mean, path)
    return list(pairs.values())


class _Known:
    """The constant values of a graph, and what the data meet of them."""

    def __init__(self, graph: Graph, provenance: Provenance) -> None:
        self._graph = graph
        self._provenance = provenance
        self._producers = graph.producers

    def variances(self) -> Iterator[Path]:
        """The variables v in a known √(v + ε)."""
        for node in self._graph.nodes:
            if node.name in ROOTS and self._graph.known.issuperset(node.inputs):
                sources, is_shifted = self._paths(node.inputs[0]), self._has_epsilon(node.inputs[0])
                if len(sources) == 1 and is_shifted:
                    yield from sources

    def beside(self, node: Node) -> frozenset[Path]:
        """The variables behind the constants by which the node multiplies or divides a value of the data."""
        if primitive_of(node.name) not in (elementwise.MUL, elementwise.DIV) or self._data(node) is None:
            return frozenset()
        return frozenset[Path]().union(*(self._paths(value) for value in node.inputs))

    def mean_of(self, node: Node, variance: Path) -> Path | None:
        """The variable that is subtracted in front of this multiply, or with its factor behind it; else None."""
        return self._mean_behind(node, variance) or self._mean_before(node)

    def _mean_before(self, node: Node) -> Path | None:
        """x − mean, in front of the multiply."""
        before = self._producers.get(self._through_moves(self._data(node)))
        if before is None or primitive_of(before.name) is not elementwise.SUB:
            return None
        subtracted = before.inputs[1]
        paths = self._paths(subtracted)
        return next(iter(paths)) if subtracted in self._graph.known and len(paths) == 1 else None

    def _mean_behind(self, node: Node, variance: Path) -> Path | None:
        """mean·scale among the constants added behind the multiply: x·scale + (bias − mean·scale)."""
        factors = self.beside(node)
        added = {path for value in self._added_behind(node) for path in self._paths(value)} - factors
        for product in self._graph.nodes:
            sides = [self._paths(value) for value in product.inputs]
            if len(sides) != 2 or not self._graph.known.issuperset(product.inputs):
                continue
            for mean, factor in (sides, sides[::-1]):
                if len(mean) == 1 and variance in factor and mean <= added:
                    return next(iter(mean))
        return None

    def _added_behind(self, node: Node) -> Iterator[int]:
        """The constants added to the node's output."""
        for reader in self._graph.nodes:
            if node.outputs[0] in reader.inputs and primitive_of(reader.name) in (elementwise.ADD, elementwise.SUB):
                yield from (value for value in reader.inputs if value in self._graph.known)

    def _data(self, node: Node) -> int | None:
        """The node's one operand that depends on the input."""
        dynamic = [value for value in node.inputs if value not in self._graph.known]
        return dynamic[0] if len(dynamic) == 1 else None

    def _through_moves(self, value: int | None) -> int:
        """The value behind casts and changes of layout."""
        while value is not None and (node := self._producers.get(value)) is not None:
            if primitive_of(node.name).inverse is None:
                return value
            value = node.inputs[0]
        return -1 if value is None else value

    def _has_epsilon(self, value: int) -> bool:
        """True if a number was added to the variable."""
        node = self._producers.get(self._through_moves(value))
        if node is None or primitive_of(node.name) is not elementwise.ADD:
            return False
        return any(not self._paths(operand) for operand in node.inputs)

    def _paths(self, value: int) -> frozenset[Path]:
        return self._provenance.get(value, frozenset())
