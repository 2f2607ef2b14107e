"""The choice among several copies of one network in a file, such as the weights and their moving average."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bncli.inspection.readers.arrays import FLOATS, Path
from bncli.inspection.readers.grouping import Found

_AVERAGES = "average|averaged|avg|ema|shadow|swa|target|teacher"
_WORDS = (
    f"{_AVERAGES}|batch|best|dict|mod|model|module|net|network|online|orig|params|state|stats|student|train|variables|"
    "weights"
)
# Keys above a network, such as state_dict, model_ema, module, _orig_mod.
WRAPPER = re.compile(f"_?({_WORDS})(_?({_WORDS}))*")
AVERAGE = re.compile(_AVERAGES)
_DIGITS = re.compile(r"\d+")
# Prefixes that PyTorch's DataParallel and torch.compile add to the names of all layers.
TRANSPARENT = ("module", "_orig_mod")


# Weights and their average have nearly the same statistics: relative distance of the means, and rms of the log variance
# ratios. Between independent networks both are around 1.
MAX_DISTANCE = 0.5
# Networks side by side in a file; more keys than that are the layers of one.
MAX_COPIES = 8


def choose(found: Sequence[Found]) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """The layers of one copy and a note that names the others; all layers if they are not copies of each other."""
    above = _above(found)
    groups: dict[Path, list[Found]] = {}
    for layer, place in zip(found, above, strict=True):
        groups.setdefault(place, []).append(layer)
    names = {place: {_path(layer)[len(place) :] for layer in group} for place, group in groups.items()}
    taken = min(groups, key=_rank)
    copies = [place for place in groups if place != taken and names[place] == names[taken]]
    hold = "holds" if len(copies) == 1 else "hold"
    notes = (
        [f"read from {_words(taken)}; {', '.join(map(_words, copies))} {hold} the same layers again"] if copies else []
    )
    left = [layer for layer, place in zip(found, above, strict=True) if place not in copies]
    if copies and len(left) == len(groups[taken]):  # the note names the keys above them
        left = [replace(layer, place=taken, name=_path(layer)[len(taken) :]) for layer in left]
    return _named(left), tuple(notes)


def _above(found: Sequence[Found]) -> list[Path]:
    """For each layer the keys above its network: those that look like wrappers, or under which a copy lies."""
    by_value = _keys_above_copies(found)
    return [by_value.get(_path(layer), _wrappers(layer)) for layer in found]


def _keys_above_copies(found: Sequence[Found]) -> dict[Path, Path]:
    """Path of a layer -> the keys above its network, for networks under any names that are nearly equal."""
    paths = {_path(layer): layer for layer in found}
    shared = _shared_start(list(paths))
    keys = _without_series(dict.fromkeys(path[shared] for path in paths))
    if len(keys) > MAX_COPIES:
        return {}
    networks = {
        key: {path[shared + 1 :]: layer for path, layer in paths.items() if path[shared] == key and path[shared + 1 :]}
        for key in keys
    }
    above: dict[Path, Path] = {}
    for key, network in networks.items():
        rest = {path[shared:]: layer for path, layer in paths.items() if path[shared] != key}
        others = [((other,), network_) for other, network_ in networks.items() if other != key] + [((), rest)]
        for other, its_layers in others:
            if network and _are_copies(network, its_layers):
                start = next(iter(paths))[:shared]
                above |= {(*start, key, *name): (*start, key) for name in network}
                above |= {(*start, *other, *name): (*start, *other) for name in its_layers}
    return above


def _without_series(keys: Iterable[str]) -> list[str]:
    """The keys that differ in more than a number: ``layer1`` and ``layer2`` are parts of one network or an ensemble."""
    stems = {key: _DIGITS.sub("", key) for key in keys}
    counts = Counter(stems.values())
    return [key for key, stem in stems.items() if stem and counts[stem] == 1]


def _shared_start(paths: Sequence[Path]) -> int:
    """The number of keys that all paths share, before the last key of the shortest."""
    first, last = min(paths), max(paths)
    length = min(map(len, paths)) - 1
    return next((k for k in range(length) if first[k] != last[k]), length)


def _are_copies(network: Mapping[Path, Found], other: Mapping[Path, Found]) -> bool:
    """True if both have the same layers with nearly the same statistics, which are not the initial ones."""
    if network.keys() != other.keys() or any(network[name].mean.shape != other[name].mean.shape for name in network):
        return False
    stats = [_statistics(layers[name]) for name in network for layers in (network, other)]
    if any(stat is None for stat in stats):
        return False
    mean_a, var_a, mean_b, var_b = (
        np.concatenate([stat[part] for stat in stats[which::2] if stat is not None])
        for which in (0, 1)
        for part in (0, 1)
    )
    distance = np.linalg.norm((mean_a - mean_b) / np.sqrt(var_a))
    size = np.linalg.norm(mean_a / np.sqrt(var_a))
    ratios = np.log(var_a / var_b)
    return bool(size > 0 and distance < MAX_DISTANCE * size and np.sqrt(np.mean(ratios**2)) < MAX_DISTANCE)


def _statistics(layer: Found) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and variance in one axis each; None if they are broken."""
    if layer.mean.shape != layer.var.shape or layer.mean.dtype not in FLOATS or layer.var.dtype not in FLOATS:
        return None
    mean, var = layer.mean.values().reshape(-1), layer.var.values().reshape(-1)
    return (mean, var) if np.isfinite(mean).all() and np.isfinite(var).all() and (var > 0).all() else None


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
