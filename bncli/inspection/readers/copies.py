"""Several copies of one network in a file, such as the weights and their moving average: which one is looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from bncli.inspection.readers.arrays import Path
from bncli.inspection.readers.grouping import Found

_AVERAGES = "average|averaged|avg|ema|shadow|swa|target|teacher"
_WORDS = f"{_AVERAGES}|best|dict|mod|model|module|net|network|online|orig|params|state|student|train|variables|weights"
# What a network is put under, such as state_dict, model_ema, module, _orig_mod.
WRAPPER = re.compile(f"_?({_WORDS})(_?({_WORDS}))*")
AVERAGE = re.compile(_AVERAGES)
# What PyTorch's DataParallel and torch.compile put before the names of all layers.
TRANSPARENT = ("module", "_orig_mod")


def choose(found: Sequence[Found]) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """(the layers of one copy, a note that says so); all layers where they are not each other's copies."""
    groups: dict[Path, list[Found]] = {}
    for layer in found:
        groups.setdefault(_wrappers(layer), []).append(layer)
    names = {wrappers: {_path(layer)[len(wrappers) :] for layer in group} for wrappers, group in groups.items()}
    taken = min(groups, key=_rank)
    copies = [wrappers for wrappers in groups if wrappers != taken and names[wrappers] == names[taken]]
    notes = (
        [f"taken from {_words(taken)}; {', '.join(map(_words, copies))} holds the same layers again"] if copies else []
    )
    left = [layer for layer in found if _wrappers(layer) not in copies]
    if copies and len(left) == len(groups[taken]):  # the note says what they stand under
        left = [replace(layer, place=taken, name=_path(layer)[len(taken) :]) for layer in left]
    return _named(left), tuple(notes)


def _path(layer: Found) -> Path:
    return (*layer.place, *layer.name)


def _wrappers(layer: Found) -> Path:
    """The beginning of its path that names no layer."""
    path = _path(layer)
    length = 0
    while length < len(path) - 1 and WRAPPER.fullmatch(path[length]):
        length += 1
    return path[:length]


def _rank(wrappers: Path) -> tuple[bool, int]:
    """The weights themselves before averages of them, and what is less wrapped before what is more."""
    return any(AVERAGE.search(part) for part in wrappers), len(wrappers)


def _words(wrappers: Path) -> str:
    return ".".join(wrappers) or "the top"


def _named(layers: Sequence[Found]) -> tuple[Found, ...]:
    """The layers by their paths in the network, and by where they are in the file if that differs."""
    if len({layer.place for layer in layers}) > 1:
        layers = [replace(layer, place=(), name=_path(layer)) for layer in layers]
    return tuple(_without_transparent(layers))


def _without_transparent(layers: Sequence[Found]) -> Sequence[Found]:
    if any(len(layer.name) < 2 or layer.name[0] not in TRANSPARENT for layer in layers):
        return layers
    return _without_transparent([replace(layer, name=layer.name[1:]) for layer in layers])
