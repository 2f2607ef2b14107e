"""BN layers of what PyTorch saves: state dicts, training checkpoints that hold them, and whole modules.

Objects of unknown classes are inert records (``inert_pickle``), which are searched for tensors like any container. Of
a module that was saved whole, the tree of ``_modules``, ``_parameters`` and ``_buffers`` is read, which is what its
state dict would hold, and ε and momentum of its BN layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_DEPTH, Path, Stored, children_of, split_name
from bncli.inspection.readers.assembly import assemble, contents_of
from bncli.inspection.readers.contents import Contents, named
from bncli.inspection.readers.conventions import BN_NAME
from bncli.inspection.readers.copies import WRAPPER
from bncli.inspection.readers.grouping import Found, find_batch_norms
from bncli.inspection.readers.inert_pickle import PLAIN, Global, Record
from bncli.inspection.readers.pickled_numpy import VALUES, array_in
from bncli.inspection.readers.settings import Asked, non_negative
from bncli.inspection.readers.torch_file import SAVE_ANEW, Storage, Tensor, TorchFile, opened

# What a module keeps its parts in, in the order of a state dict.
_PARTS = ("_parameters", "_buffers", "_modules")
# A file in the file, as storages are pickled outside of ``torch.save``.
_INNER_FILE = Global("torch.storage", "_load_from_bytes")


def read(path: FilePath, asked: Asked) -> Contents:
    """Read the BN layers of a PyTorch file; the numbers of other tensors are not read.

    Raises:
        CheckpointError: the file is damaged, or holds no tensors, but objects of other classes.
    """
    with opened(path) as file:
        return _contents(path, file, asked)


def stored_arrays(path: FilePath, file: TorchFile) -> dict[Path, Stored]:
    """All tensors of an open file by path; the values are read when asked for.

    Raises:
        CheckpointError: the file holds no tensors, but objects of other classes, or is nested too deep.
    """
    return _found(path, _Search(file))


def _found(path: FilePath, search: _Search) -> dict[Path, Stored]:
    arrays = dict(search.arrays(search.file.content, ()))
    if not arrays and search.classes:
        raise CheckpointError(
            f"{path} is no state dict: it holds no tensors, but {named(list(search.classes))}", remedy=SAVE_ANEW
        )
    return arrays


def _contents(path: FilePath, file: TorchFile, asked: Asked) -> Contents:
    search = _Search(file)
    arrays = _found(path, search)
    notes, unread = search.notes(), tuple(dict.fromkeys(search.unread))
    found = [search.with_settings(layer) for layer in find_batch_norms(arrays)]
    if not found:
        return contents_of(arrays, file_format="pytorch", asked=asked, notes=notes, unread=unread)
    return assemble(found, arrays, file_format="pytorch", asked=asked, notes=(*notes, *unread))


@dataclass
class _Search:
    """The search of a file for tensors, and what it meets.

    Attributes:
        file: the file.
        classes: names of the classes and functions whose objects are records, in the order of the file.
        unread: the parts that were not read, one note each.
        settings: (ε, momentum) of the BN modules by their paths.
        by_batch: names of BN modules without running statistics.
    """

    file: TorchFile
    classes: dict[str, None] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    settings: dict[Path, tuple[float | None, float | None]] = field(default_factory=dict)
    by_batch: list[str] = field(default_factory=list)
    _open: dict[int, object] = field(default_factory=dict)  # the containers that the search is in, against cycles

    def arrays(self, node: object, place: Path, root: Path | None = None) -> Iterator[tuple[Path, Stored]]:
        """The tensors below a node by path: keys, numbers in lists, attributes, and the parts of their names.

        Args:
            node: a container, a record, or anything else.
            place: its path.
            root: the path of the module that was saved whole, if the node is part of one.
        """
        if id(node) in self._open or not self._may_descend(place):
            return
        self._open[id(node)] = node
        if root is None and _is_module(node):
            root = place
        above = _wrapper(place) if root is None else root
        for key, child in self._children(node, place):
            if isinstance(child, PLAIN):
                continue
            stored = self._stored(child, above)
            if stored is None:
                yield from self.arrays(child, (*place, key), root)
            else:
                yield (*place, *split_name(key)), stored
        del self._open[id(node)]

    def _may_descend(self, place: Path) -> bool:
        """True if the depth is a network's.

        Raises:
            CheckpointError: plain containers are deeper than that.
        """
        if len(place) <= MAX_DEPTH:
            return True
        if not any(isinstance(node, Record) for node in self._open.values()):
            raise CheckpointError(
                f"containers of more than {MAX_DEPTH} levels are too deep for a network", remedy=SAVE_ANEW
            )
        self.unread.append(f"not examined: objects nested deeper than {MAX_DEPTH} levels")
        return False

    def _children(self, node: object, place: Path) -> Iterable[tuple[str, object]]:
        """Children of a node by name."""
        if isinstance(node, Storage):
            self.unread.append("not examined: tensors of kinds that bncli does not read, such as quantised ones")
        if isinstance(node, Record):
            return self._in_module(node, place) if _is_module(node) else self._in_record(node)
        return () if isinstance(node, Global) else children_of(node) or ()

    def _in_module(self, module: Record, place: Path) -> Iterator[tuple[str, object]]:
        """The parameters, buffers and submodules."""
        parts = _parts(module)
        self._note_settings(module, place)
        return (
            (key, child) for name in _PARTS for key, child in children_of(parts.get(name)) or () if child is not None
        )

    def _in_record(self, record: Record) -> Iterator[tuple[str, object]]:
        """All that an object of an unknown class was given."""
        if record.made_by not in VALUES:
            self.classes[record.maker] = None
        if record.made_by == _INNER_FILE:
            self.unread.append("not examined: tensors that were pickled without torch.save")
        for held in (record.args, record.elements, record.items, record.state):
            yield from children_of(held) or (("", held),) if held is not None else ()

    def _note_settings(self, module: Record, place: Path) -> None:
        """Keep ε and momentum of a BN module, or its name if it has no statistics."""
        parts = _parts(module)
        buffers = parts.get("_buffers")
        if not isinstance(buffers, Mapping) or "running_mean" not in buffers:
            return
        if buffers["running_mean"] is None:
            if BN_NAME.search(module.maker):
                self.by_batch.append(".".join(place))
            return
        momentum = parts.get("momentum")
        weight_of_old = 1 - momentum if isinstance(momentum, float | int) and 0 <= momentum <= 1 else None
        self.settings[place] = (non_negative(parts.get("eps"), f"ε of {'.'.join(place)}"), weight_of_old)

    def _stored(self, node: object, place: Path) -> Stored | None:
        """The array of a tensor or a NumPy array; None for anything else."""
        if isinstance(node, Tensor):
            return Stored(node.shape, node.dtype, lambda: self.file.numbers(node), place)
        return array_in(node, place) if isinstance(node, Record) else None

    def with_settings(self, layer: Found) -> Found:
        """The layer, with ε and momentum if its module says them."""
        epsilon, momentum = self.settings.get((*layer.place, *layer.name), (layer.epsilon, layer.momentum))
        return replace(layer, epsilon=epsilon, momentum=momentum)

    def notes(self) -> tuple[str, ...]:
        """The notes on stand-ins and on modules without statistics."""
        searched = named(list(self.classes))
        by_batch = named(self.by_batch)
        return (
            *([f"searched for tensors, but not rebuilt, objects of other classes: {searched}"] if searched else ()),
            *([f"without running statistics, so each batch is normalised by itself: {by_batch}"] if by_batch else ()),
        )


def _is_module(node: object) -> bool:
    """True for a record of an ``nn.Module``."""
    return isinstance(node, Record) and _PARTS[-1] in _parts(node)


def _parts(record: Record) -> Mapping[object, object]:
    """The attributes of a record by name."""
    return record.state if isinstance(record.state, Mapping) else {}


def _wrapper(place: Path) -> Path:
    """The keys above a state dict, up to the first that is not a wrapper."""

    def is_wrapper(key: str) -> bool:
        return key.isdecimal() or WRAPPER.fullmatch(key) is not None

    length = next((number for number, key in enumerate(place) if not is_wrapper(key)), len(place))
    return place[:length]
