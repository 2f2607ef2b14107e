"""BN layers among the arrays of a file, recognised by the names of the frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from bncli.inspection.readers.arrays import Arrays, Path, Stored
from bncli.inspection.readers.conventions import CONVENTIONS, Convention


@dataclass(frozen=True)
class Found:
    """A BN layer found in a file.

    Attributes:
        place: the keys above its network, such as ("state_dict",).
        name: its path in the network.
        convention: the naming of its arrays.
        mean: running mean, usually [C].
        var: running variance.
        scale: γ; None if the layer has none.
        bias: β; None if the layer has none.
        updates: the number of updates of the statistics.
        epsilon: None if the file does not store it.
        momentum: weight of the old value; None if the file does not store it.
        relu_follows: True if only a ReLU is known to read the layer's output.
        train_mode: True if the file says that the layer normalises by the batch.
    """

    place: Path
    name: Path
    convention: Convention
    mean: Stored
    var: Stored
    scale: Stored | None = None
    bias: Stored | None = None
    updates: Stored | None = None
    epsilon: float | None = None
    momentum: float | None = None
    relu_follows: bool = False
    train_mode: bool = False

    @property
    def label(self) -> str:
        """The layer's name as its framework writes it."""
        label = self.convention.separator.join(self.name)
        return label.encode(
            "utf-8", "backslashreplace"
        ).decode()  # JSON can hold characters that a terminal cannot print

    @property
    def arrays(self) -> dict[str, Stored]:
        """The arrays with one value a channel, by their role."""
        arrays = {"mean": self.mean, "var": self.var, "scale": self.scale, "bias": self.bias}
        return {name: array for name, array in arrays.items() if array is not None}


def find_batch_norms(arrays: Arrays) -> tuple[Found, ...]:
    """All BN layers in the order of their running means."""
    file = _File(arrays)
    found: dict[int, Found] = {}
    for convention in CONVENTIONS:
        for layer in _by_convention(file, convention):
            found.setdefault(id(layer.mean), layer)
    return tuple(found[id(array)] for array in arrays.values() if id(array) in found)


@dataclass(frozen=True)
class _File:
    """The arrays, with an index of parameters that are not beside their statistics."""

    arrays: Arrays

    @cached_property
    def params(self) -> dict[Path, list[Path]]:
        """Path below a tree called "params" -> full paths of the arrays with that path."""
        index: dict[Path, list[Path]] = {}
        for path in self.arrays:
            for number, part in enumerate(path):
                if part == "params":
                    index.setdefault(path[number + 1 :], []).append(path)
        return index


def _by_convention(file: _File, convention: Convention) -> Iterator[Found]:
    depth = len(convention.mean)
    for path, mean in file.arrays.items():
        module = path[:-depth]
        if path[-depth:] != convention.mean or (*module, *convention.var) not in file.arrays:
            continue
        layer = _with_parts(file, convention, module, mean)
        if layer is not None and _is_batch_norm(layer):
            yield layer


def _with_parts(file: _File, convention: Convention, module: Path, mean: Stored) -> Found | None:
    """The layer at ``module``; None if it is not in the collection that the convention requires."""
    place, name, parent = mean.place, module[len(mean.place) :], module
    if convention.collections is not None:
        collection = _collection(convention.collections, module)
        if collection is None:
            return None
        above, parameters = collection
        place, name = module[:above], module[above + 1 :]
        parent = (*place, parameters, *name)
        if module[above] != convention.collections[0]:  # such as ema_batch_stats
            place = module[: above + 1]
    return Found(
        place=place,
        name=name,
        convention=convention,
        mean=mean,
        var=file.arrays[*module, *convention.var],
        scale=_parameter(file, convention, parent, name, convention.scale),
        bias=_parameter(file, convention, parent, name, convention.bias),
        updates=file.arrays.get((*module, *convention.updates)) if convention.updates else None,
    )


def _collection(collections: tuple[str, str], module: Path) -> tuple[int, str] | None:
    """Position of the statistics' collection in a path, and the name of the parameters'; None if there is none.

    Copies have their own: beside ``ema_batch_stats`` there is ``ema_params``.
    """
    statistics, parameters = collections
    if statistics in module:
        return len(module) - 1 - module[::-1].index(statistics), parameters
    if statistics != "batch_stats":  # Haiku's "state" is a part of too many names
        return None
    for number, part in enumerate(module):
        start, found, end = part.partition(statistics)
        if found and start[-1:] in ("", "_") and end[:1] in ("", "_"):
            return number, f"{start}{parameters}{end}"
    return None


def _parameter(file: _File, convention: Convention, parent: Path, name: Path, leaves: Iterable[str]) -> Stored | None:
    """γ or β beside its statistics, or in another "params" tree if only one has a layer of this name."""
    for leaf in leaves:
        if (*parent, leaf) in file.arrays:
            return file.arrays[*parent, leaf]
        elsewhere = file.params.get((*name, leaf), []) if convention.collections else []
        if len(elsewhere) == 1:
            return file.arrays[elsewhere[0]]
    return None


def _is_batch_norm(layer: Found) -> bool:
    """True if arrays called mean and var belong to a BN layer, not to another kind of layer."""
    pattern = layer.convention.looks_like_bn
    if pattern is None or layer.scale is not None or layer.bias is not None:
        return True
    return bool(layer.name and pattern.search(layer.name[-1]))
