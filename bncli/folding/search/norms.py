"""BN layers by name: which statistics belong to one layer, in the words of whoever wrote the network.

Most frameworks say it in the path: `batch_stats/Block_1/BatchNorm_0/mean` (Flax), `…/bn/mean/value` (NNX),
`…/batch_norm/~/mean_ema/average` (Haiku), `bn1.running_mean` (PyTorch). Where the path is a position in a list (Keras,
Equinox), the statistics that one multiply-add reads are one layer, named after its scale and bias.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Protocol

from bncli.folding.affine import Affine
from bncli.folding.search.statistics import STATISTICS, Statistics, common
from bncli.folding.trace.graph import Path

MEANS = frozenset({"mean", "mean_ema", "moving_mean", "mu", "running_mean"})
VARIANCES = frozenset({"moving_variance", "running_var", "sigma", "var", "var_ema", "variance"})
# Boxes that a framework puts around an array, with their neighbours: the last elements of a path that name no layer.
BOXES = frozenset({"average", "counter", "hidden", "raw_value", "value"})
NAMELESS = "BatchNorm"
# Kinds of variables: the first elements of a path that name no layer.
COLLECTIONS = frozenset({STATISTICS, "constants", "others", "params", "state", "variables"})


class Link(Protocol):
    """One multiply or add by constants."""

    @property
    def source(self) -> int:
        """The value it reads."""

    @property
    def output(self) -> int:
        """The value it makes."""

    @property
    def affine(self) -> Affine:
        """Its function."""

    @property
    def paths(self) -> frozenset[Path]:
        """The variables its numbers come from."""


def statistic(path: Path) -> str:
    """The name of the statistic alone: `mean`, `var_ema`; the last element of the path if it is no known one."""
    return _split(path)[1] or path[-1]


def is_variance(path: Path, statistics: Statistics | None = None) -> bool:
    """True if the statistics tell that the variable is a variance; else, if its path names one."""
    told = statistics.is_variance(path) if statistics is not None else None
    return _split(path)[1] in VARIANCES if told is None else told


def looks_like_statistic(path: Path) -> bool:
    """True if the path ends in the name of a mean or a variance, wherever it is filed."""
    return bool(_split(path)[1])


def norm_name(path: Path, statistics: Statistics | None = None) -> str:
    """The layer of a statistic by the role that the caller gave it, else by its path alone."""
    if statistics is None:
        return _own_name(path) or NAMELESS
    return _given_name(path, statistics) or NAMELESS


def module_name(path: Path) -> str:
    """The module of a parameter, without the collection it is filed in: `Block_1/Conv_0`; '' at the top."""
    return "/".join(unboxed(path)[_in_collection(path) : -1])


def unboxed(path: Path) -> Path:
    """The path without the box around the array; a shorter path than `params/Conv_0/kernel/value` has none."""
    return path[:-1] if len(path) > 2 + _in_collection(path) and path[-1] in BOXES else path


def _in_collection(path: Path) -> int:
    """1 if the path starts with a collection, which names no layer: `params`, or a position in a tuple; else 0."""
    return int(path[0] in COLLECTIONS or path[0].isdigit())


def norm_names(paths: Iterable[Path], names: Mapping[Path, str]) -> tuple[str, ...]:
    """The BN layers whose statistics are among the variables: `('Block_0/BatchNorm_0',)`."""
    return tuple(sorted({names[path] for path in paths if path in names}))


def name_norms(statistics: Statistics, links: Sequence[Link]) -> dict[Path, str]:
    """The layer of each statistic.

    Args:
        links: the multiplies and adds of the network, in order.
    """
    own = {path: _given_name(path, statistics) for path in statistics.paths} | _pair_names(statistics)
    paired = {path for pair in statistics.pairs for path in (pair.mean, pair.var)}
    nameless = {path for path, name in own.items() if not name and (path in paired or not looks_like_statistic(path))}
    groups = _groups(nameless, links)
    names = {path: name or NAMELESS for path, name in own.items()}
    taken = set(own.values())
    for group in groups:
        name = _free(_name_of(group, links, statistics) or NAMELESS, taken, numbered=len(groups) > 1)
        taken.add(name)
        names |= dict.fromkeys(group, name)
    return names


def _split(path: Path) -> tuple[str, str]:
    """The path in front of the statistic's name, and that name; '' twice if it has none."""
    elements = re.split(r"([/.])", "/".join(_below(path)))
    while len(elements) > 1 and elements[-1] in BOXES:
        del elements[-2:]
    return ("".join(elements[:-1]), elements[-1]) if elements[-1] in MEANS | VARIANCES else ("", "")


def _below(path: Path) -> Path:
    """The path below the collection of statistics."""
    return path[path.index(STATISTICS) + 1 :] if STATISTICS in path else path


def _given_name(path: Path, statistics: Statistics) -> str:
    """The layer by the role that the caller gave; else as the path below the collection names it."""
    if path in statistics.roles:
        return statistics.roles[path].layer
    return _own_name(path[statistics.prefix :])


def _pair_names(statistics: Statistics) -> dict[Path, str]:
    """The layers found by structure, each by the module of both statistics; '' if that is none of its own."""
    pairs = [pair for pair in statistics.pairs if not {pair.mean, pair.var} & set(statistics.roles)]
    modules = [_own_name((*common(pair)[statistics.prefix :], "")) for pair in pairs]
    counts = Counter(modules)
    return {
        path: module if counts[module] == 1 else ""
        for pair, module in zip(pairs, modules, strict=True)
        for path in (pair.mean, pair.var)
    }


def _own_name(path: Path) -> str:
    """The layer as the path names it; '' if it is a position in a list."""
    module, name = _split(path)
    if not name:
        module = "/".join(_below(path)[:-1])
    elements = [element for element in module.rstrip("/.").split("/") if element]
    while elements and elements[-1] == "~":  # Haiku's mark for what a module makes for itself
        elements.pop()
    return "" if all(element.isdigit() for element in elements) and not name else "/".join(elements)


def _groups(paths: Set[Path], links: Sequence[Link]) -> list[frozenset[Path]]:
    """The statistics that belong together, in the order in which the data meet them."""
    groups: list[frozenset[Path]] = []
    for together in _meetings(paths, links):
        joined = [group for group in groups if not group.isdisjoint(together)]
        place = groups.index(joined[0]) if joined else len(groups)
        groups[place : place + 1] = [together.union(*joined)]
        groups = [group for group in groups if group not in joined[1:]]
    return groups


def _meetings(paths: Set[Path], links: Sequence[Link]) -> Iterator[frozenset[Path]]:
    """The statistics of each link: its own, and for a multiply the mean that was subtracted in front of it."""
    by_output = {link.output: link for link in links}
    factors = frozenset[Path]().union(*(link.paths & paths for link in links if not link.affine.is_shift))
    for link in links:
        mine = link.paths & paths
        before = _before(link, by_output, paths) if mine and link.affine.is_scale else None
        if before is not None and before.affine.is_shift and factors.isdisjoint(before.paths):
            mine |= before.paths & paths
        if mine:
            yield frozenset(mine)


def _before(link: Link, by_output: Mapping[int, Link], paths: Set[Path]) -> Link | None:
    """The last link in front of this one that reads statistics."""
    before = by_output.get(link.source)
    while before is not None and not before.paths & paths:
        before = by_output.get(before.source)
    return before


def _name_of(group: frozenset[Path], links: Sequence[Link], statistics: Statistics) -> str:
    """The module of the scale or bias that the layer multiplies or adds; '' if it has no name."""
    outputs: set[int] = set()
    for link in links:
        mine = not group.isdisjoint(link.paths)
        if not mine and (link.source not in outputs or link.paths & statistics.paths):
            continue
        outputs.add(link.output)
        modules = sorted(module_name(path) for path in link.paths - statistics.paths)
        named = [module for module in modules if not all(element.isdigit() for element in module.split("/"))]
        if named and named[0]:
            return named[0]
    return ""


def _free(name: str, taken: Set[str], *, numbered: bool) -> str:
    """The name, with a number if it is a makeshift one or taken."""
    if name not in taken and not (numbered and name == NAMELESS):
        return name
    return next(f"{name}_{number}" for number in range(len(taken) + 1) if f"{name}_{number}" not in taken)
