"""Parts of a network by the paths of its arrays: its head, its layers by depth, and what a pattern names.

A path is the names of the modules and that of the array, joined by slashes: ``ResNetBlock_0/BatchNorm_1/scale``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import jax
import numpy as np

from bncli.config.settings import FineTuneConfig
from bncli.errors import ModelError, UsageError
from bncli.frameworks.network import Network, Variables

# The pattern that names all arrays but those of the head.
BACKBONE = "backbone"
# Modules that are the head as a whole, if the last layer lies in one.
HEAD_NAMES = frozenset({"classifier", "fc", "head", "heads", "logits", "predictions", "top"})
# Names in an error message.
_NEAREST = 3


@dataclass(frozen=True)
class Parts:
    """The parts of a network.

    Attributes:
        paths: of all trained arrays.
        head: the module that makes the logits, or the module named as a head around it.
        groups: the paths outside the head by depth, from the images on: a layer or block each.
        norms: the BN layers, in the order of the forward pass.
        foreign: the paths of statistics that no ``nn.BatchNorm`` keeps.
    """

    paths: tuple[str, ...]
    head: str
    groups: tuple[frozenset[str], ...]
    norms: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def backbone(self) -> frozenset[str]:
        """The paths outside the head."""
        return frozenset(path for path in self.paths if not _is_within(path, self.head))

    @property
    def head_paths(self) -> frozenset[str]:
        """The paths of the head."""
        return frozenset(self.paths) - self.backbone

    def of_module(self, module: str) -> frozenset[str]:
        """The paths below a module."""
        return frozenset(path for path in self.paths if _is_within(path, module))


@dataclass(frozen=True)
class Frozen:
    """The frozen parts of a network.

    Attributes:
        paths: of the arrays that are not trained.
        norms: the BN layers that use and keep their running statistics.
    """

    paths: frozenset[str]
    norms: frozenset[str]


def network_parts(network: Network, variables: Variables, image_shape: tuple[int, int, int]) -> Parts:
    """The parts of a network for images of ``image_shape`` = (H, W, C); nothing is computed.

    Args:
        network: the network.
        variables: its arrays, or their shapes and dtypes.
        image_shape: (H, W, C).
    """
    ranks = {path: leaf.ndim for path, leaf in _leaves(variables["params"])}
    owners = {owner(path) for path in ranks}
    called = [module for module in network.called_modules(variables, image_shape) if module in owners]
    head = _head(called, owners)
    norms = tuple(network.batch_norms(variables, image_shape))
    statistics = [path for path, _ in _leaves(variables.get("batch_stats", {}))]
    return Parts(
        paths=tuple(ranks),
        head=head,
        groups=_groups({path: rank for path, rank in ranks.items() if not _is_within(path, head)}, called),
        norms=norms,
        foreign=tuple(path for path in statistics if owner(path) not in norms),
    )


def frozen_parts(config: FineTuneConfig, parts: Parts, *, released: bool = False) -> Frozen:
    """The frozen parts of a network.

    Args:
        config: the settings.
        parts: of the network.
        released: True from ``--unfreeze-at`` on, where the patterns hold no longer.

    Raises:
        UsageError: a pattern matches nothing.
        ModelError: statistics are to be frozen that no ``nn.BatchNorm`` keeps.
    """
    if config.freeze_bn is not None and parts.foreign:
        raise ModelError(
            f"--freeze-bn {config.freeze_bn}: {parts.foreign[0]} is kept by a layer that is no flax.linen.BatchNorm, "
            "and cannot be told to use it in training",
            remedy="Build the model with flax.linen.BatchNorm, or leave out --freeze-bn.",
        )
    matched = named_paths(parts, config.freeze)
    paths = frozenset() if released else matched
    norms = frozenset(norm for norm in parts.norms if not released and _is_frozen(norm, parts, config.freeze, matched))
    if config.freeze_bn is not None:
        norms = frozenset(parts.norms)
    if config.freeze_bn == "all":
        paths = paths.union(*(parts.of_module(norm) for norm in norms))
    return Frozen(paths, norms)


def named_paths(parts: Parts, patterns: Iterable[str]) -> frozenset[str]:
    """The paths that the patterns of ``--freeze`` name.

    Raises:
        UsageError: a pattern names none; lists the nearest names.
    """
    found: frozenset[str] = frozenset()
    for pattern in patterns:
        paths = frozenset(path for path in parts.paths if _is_named(path, pattern, parts))
        if not paths:
            raise _nothing_named(pattern, parts)
        found |= paths
    return found


def owner(path: str) -> str:
    """The path of the module that holds an array."""
    return path.rpartition("/")[0]


def array_path(keys: Sequence[object]) -> str:
    """The path of an array from its keys in a tree, as ``jax.tree_util`` gives them."""
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def _leaves(tree: Variables) -> list[tuple[str, jax.ShapeDtypeStruct | jax.Array | np.ndarray]]:
    return [(array_path(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _is_within(path: str, module: str) -> bool:
    """True if a path is that of a module, or below it."""
    return path == module or path.startswith(f"{module}/" if module else "")


def _is_named(path: str, pattern: str, parts: Parts) -> bool:
    """True if a pattern matches a path, or that of a module around it."""
    if pattern == BACKBONE:
        return not _is_within(path, parts.head)
    return any(fnmatchcase(name, pattern.rstrip("/")) for name in _with_parents(path))


def _with_parents(path: str) -> list[str]:
    """``a/b/c``, ``a/b``, ``a``."""
    names = path.split("/")
    return ["/".join(names[:number]) for number in range(len(names), 0, -1)]


def _is_frozen(norm: str, parts: Parts, patterns: Iterable[str], frozen: frozenset[str]) -> bool:
    """True if all arrays of a BN layer are frozen or, if it has none, its name."""
    own = parts.of_module(norm)
    return own <= frozen if own else any(_is_named(norm, pattern, parts) for pattern in patterns)


def _nothing_named(pattern: str, parts: Parts) -> UsageError:
    names = list(dict.fromkeys(name for path in parts.paths for name in _with_parents(path)))
    nearest = difflib.get_close_matches(pattern, names, n=_NEAREST, cutoff=0.0)
    return UsageError(
        f"--freeze {pattern}: no array of the network has such a path",
        remedy=f"The nearest are {', '.join(nearest)}. A * stands for any text, and {BACKBONE} for all but "
        f"{parts.head or 'the head'}.",
    )


def _head(called: Sequence[str], owners: Iterable[str]) -> str:
    """The module of the last layer, or the module around it that is named as a head."""
    owners = set(owners)
    layers = [module for module in called if not any(other != module and _is_within(other, module) for other in owners)]
    last = (layers or called or sorted(owners) or [""])[-1]
    around = [name for name in reversed(_with_parents(last)) if name.rpartition("/")[2].lower() in HEAD_NAMES]
    return (*around, last)[0]


def _groups(ranks: dict[str, int], called: Sequence[str]) -> tuple[frozenset[str], ...]:
    """The paths by depth: one group for each module below the outermost that has more than one.

    A module without a kernel, such as BN, belongs to the group of the module before it.

    Args:
        ranks: number of axes by path.
        called: the modules that hold arrays, in the order of the forward pass.
    """
    level = _branching_level(ranks)
    members: dict[str, set[str]] = {}
    for path in sorted(ranks, key=lambda path: _place(path, called)):
        members.setdefault("/".join(path.split("/")[: level + 1]), set()).add(path)
    groups: list[set[str]] = []
    for paths in members.values():
        if groups and all(ranks[path] <= 1 for path in paths):
            groups[-1] |= paths
        else:
            groups.append(paths)
    return tuple(map(frozenset, groups))


def _branching_level(paths: Iterable[str]) -> int:
    """The number of modules that are around all paths."""
    parents = [owner(path).split("/") for path in paths]
    level = 0
    while parents and all(len(names) > level + 1 and names[level] == parents[0][level] for names in parents):
        level += 1
    return level


def _place(path: str, called: Sequence[str]) -> int:
    """The place of the module that holds an array in the forward pass; after all others if it is not called."""
    return called.index(owner(path)) if owner(path) in called else len(called)
