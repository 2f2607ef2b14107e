"""The choice among several copies of one network in a file, such as the weights and their moving average."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from bncli.inspection.readers.arrays import Path
from bncli.inspection.readers.grouping import Found

_AVERAGES = "average|averaged|avg|ema|shadow|swa|target|teacher"
_WORDS = f"{_AVERAGES}|best|dict|mod|model|module|net|network|online|orig|params|state|student|train|variables|weights"
# Keys above a network, such as state_dict, model_ema, module, _orig_mod.
WRAPPER = re.compile(f"_?({_WORDS})(_?({_WORDS}))*")
AVERAGE = re.compile(_AVERAGES)
# Prefixes that PyTorch's DataParallel and torch.compile add to the names of all layers.
TRANSPARENT = ("module", "_orig_mod")


def choose(found: Sequence[Found]) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """The layers of one copy and a note that names the others; all layers if they are not copies of each other."""
    groups: dict[Path, list[Found]] = {}
    for layer in found:
        groups.setdefault(_wrappers(layer), []).append(layer)
    names = {wrappers: {_path(layer)[len(wrappers) :] for layer in group} for wrappers, group in groups.items()}
    taken = min(groups, key=_rank)
    copies = [wrappers for wrappers in groups if wrappers != taken and names[wrappers] == names[taken]]
    notes = (
        [f"read from {_words(taken)}; {', '.join(map(_words, copies))} holds the same layers again"] if copies else []
    )
    left = [layer for layer in found if _wrappers(layer) not in copies]
    if copies and len(left) == len(groups[taken]):  # the note names the keys above them
        left = [replace(layer, place=taken, name=_path(layer)[len(taken) :]) for layer in left]
    return _named(left), tuple(notes)


def _path(layer: Found) -> Path:
    return (*layer.place, *layer.name)


def _wrappers(layer: Found) -> Path:
    """The start of the layer's path that consists of wrappers."""
    path = _path(layer)
    length = 0
    while length < len(path) - 1 and WRAPPER.fullmatch(path[length]):
        length += 1
    return path[:length]


def _rank(wrappers: Path) -> tuple[bool, int]:
    """Sort key: weights before averages of them, then fewer wrappers before more."""
    return any(AVERAGE.search(part) for part in wrappers), len(wrappers)


def _words(wrappers: Path) -> str:
    return ".".join(wrappers) or "the top level"


def _named(layers: Sequence[Found]) -> tuple[Found, ...]:
    """The layers by their paths in the network, preceded by their places in the file if these differ."""
    if len({layer.place for layer in layers}) > 1:
        layers = [replace(layer, place=(), name=_path(layer)) for layer in layers]
    return tuple(_without_transparent(layers))


def _without_transparent(layers: Sequence[Found]) -> Sequence[Found]:
    if any(len(layer.name) < 2 or layer.name[0] not in TRANSPARENT for layer in layers):
        return layers
    return _without_transparent([replace(layer, name=layer.name[1:]) for layer in layers])
