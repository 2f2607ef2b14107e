"""BN layers in what Keras saves: ``.keras``, ``.weights.h5`` and ``.h5``; by h5py alone, in a process of its own.

::

    model.keras           a zip archive: config.json, model.weights.h5
    *.weights.h5          Keras 3: layers/batch_normalization_1/vars/0 … by number; the attribute "name" is the layer's
    *.h5                  older: model_weights/NAME/NAME/gamma:0 … by name; the configuration is an attribute

(https://keras.io/guides/serialization_and_saving; keras/src/saving/saving_lib.py, legacy/saving/legacy_h5_format.py.)
Keras' own loader is not used: it can run code that a file brings.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Path, Stored, canonical, naturally
from bncli.inspection.readers.assembly import assemble, contents_of
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.conventions import BN_NAME
from bncli.inspection.readers.grouping import Found, find_batch_norms
from bncli.inspection.readers.hdf5 import Hdf5, read_hdf5, require_h5py
from bncli.inspection.readers.keras_config import Configured, parse
from bncli.inspection.readers.settings import Asked

WEIGHTS = "model.weights.h5"
CONFIG = "config.json"
MAX_CONFIG = 64 << 20
# Trained weights do not compress, and Keras stores them as they are: what claims to be so much larger is a bomb.
MAX_RATIO = 20

_VARS = "vars"
_OPTIMIZER = ("optimizer", "optimizer_weights")
# What Keras 2.12 called "layers".
_LAYERS = ("_layer_checkpoint_dependencies", "layer_checkpoint_dependencies", "layers")
# Names of a BN layer's arrays by how many there are, where no configuration says which: γ is left out more often than β
# (Keras' own Inception networks have none).
_BY_COUNT: Mapping[int, tuple[str, ...]] = {
    2: ("moving_mean", "moving_variance"),
    3: ("beta", "moving_mean", "moving_variance"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


@dataclass(frozen=True)
class _Layer:
    """A layer of any kind.

    Attributes:
        path: where it is in the file.
        label: its name, after those of the models it is in.
        arrays: by their names.
        configured: what the configuration says of it; None where it says nothing, or is not there.
        is_guess: whether the names of its arrays were not in the file.
    """

    path: Path
    label: Path
    arrays: Mapping[str, Stored]
    configured: Configured | None = None
    is_guess: bool = False


def require_library() -> None:
    """Raises CheckpointError where h5py is not installed."""
    require_h5py()


def read(path: FilePath, asked: Asked) -> Contents:
    """The BN layers of a Keras file, with ε and momentum where their configuration is in it.

    Raises:
        CheckpointError: a part of the file is too large, missing or damaged.
        Exception: of any class, from h5py or zipfile, where the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        content = read_hdf5(path)
        return _contents(content, content.config, asked)
    with zipfile.ZipFile(path) as archive:
        config = _member(archive, CONFIG, MAX_CONFIG) if CONFIG in archive.namelist() else None
        weights = _member(archive, WEIGHTS, MAX_RATIO * path.stat().st_size)
    return _contents(read_hdf5(io.BytesIO(weights)), config, asked)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A file in the archive.

    Raises:
        CheckpointError: it claims to be larger than ``limit``; zipfile reads no more than it claims.
    """
    size = archive.getinfo(name).file_size
    if size > limit:
        raise CheckpointError(
            f"{archive.filename}: {name} claims {size:,} bytes, and more than {limit:,} cannot be",
            remedy="Is the file damaged? Restore it from a copy.",
        )
    return archive.read(name)


def _contents(content: Hdf5, config: str | bytes | None, asked: Asked) -> Contents:
    configured = () if config is None else parse(config)
    layers = _with_distinct_labels([*_numbered(content, configured), *_named(content, configured)])
    arrays = {(*layer.label, name): array for layer in layers for name, array in layer.arrays.items()}
    arrays = {path: arrays[path] for path in sorted(arrays, key=naturally)}
    found = find_batch_norms(arrays)
    if not found:
        return contents_of(arrays, file_format="keras", asked=asked)
    of_label = {layer.label: layer for layer in layers}
    guessed = [layer.label for layer in found if of_label[layer.name].is_guess and layer.bias and not layer.scale]
    notes = (
        [f"three arrays, of which the first may be γ or β, and is taken for β: {_words(guessed)}"] if guessed else []
    )
    known = [_configured(layer, of_label[layer.name].configured) for layer in _in_order(found, of_label, configured)]
    return assemble(known, arrays, file_format="keras", asked=asked, notes=notes)


def _words(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _numbered(content: Hdf5, configured: Sequence[Configured]) -> Iterator[_Layer]:
    """The layers whose arrays have numbers in place of names."""
    groups: dict[Path, dict[int, Stored]] = {}
    for path, array in content.arrays.items():
        if path[-2:-1] == (_VARS,) and path[-1].isdecimal() and path[0] not in _OPTIMIZER:
            groups.setdefault(path[:-2], {})[int(path[-1])] = array
    for path, by_number in groups.items():
        arrays = [by_number[number] for number in sorted(by_number)]
        own = content.names.get((*path, _VARS))
        known = _find(configured, _layer_path(path), own)
        names = known.variables if known else _guessed_names(arrays, own or path[-1] if path else "")
        if len(names) == len(arrays):
            yield _Layer(path, _label(path, content), dict(zip(names, arrays, strict=True)), known, known is None)


def _guessed_names(arrays: Sequence[Stored], name: str) -> tuple[str, ...]:
    """What the arrays of a layer are, by their shapes and the layer's name; () for no layer of interest."""
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1 and len(arrays[0].shape) == 1 and (len(arrays) == 4 or BN_NAME.search(name)):
        return _BY_COUNT.get(len(arrays), ())
    return ("kernel", "bias")[: len(arrays)] if len(arrays[0].shape) > 2 else ()


def _named(content: Hdf5, configured: Sequence[Configured]) -> Iterator[_Layer]:
    """The layers whose arrays have names."""
    groups: dict[Path, dict[str, Stored]] = {}
    for path, array in content.arrays.items():
        if _VARS not in path and path[0] not in _OPTIMIZER:
            *parent, name = canonical(path)
            groups.setdefault(tuple(parent), {})[name] = array
    for path, arrays in groups.items():
        label = path[1:] if path[:1] == ("model_weights",) else path
        if label[:1] and label[0] in label[1:]:  # a layer's arrays have its name before theirs
            label = label[label.index(label[0], 1) :]
        yield _Layer(path, label, arrays, _find(configured, (), label[-1] if label else None))


def _layer_path(path: Path) -> Path:
    """As the configuration of Keras 3 has it."""
    parts = [part for key in path for part in re.split(r"\\", key)]  # Keras 2.12 joined them so
    return tuple("layers" if part in _LAYERS else part for part in parts)


def _label(path: Path, content: Hdf5) -> Path:
    """The layer's name, after those of the models it is in; of a file without names, its path."""
    above = [path[:length] for length in range(1, len(path) + 1)]
    names = [content.names[*place, _VARS] for place in above if (*place, _VARS) in content.names]
    if (*path, _VARS) in content.names and names:
        return tuple(names)
    return tuple(part for part in _layer_path(path) if part != "layers")


def _with_distinct_labels(layers: Sequence[_Layer]) -> list[_Layer]:
    """The layers, those with a label that another has as well by their path."""
    taken: dict[Path, int] = {}
    for layer in layers:
        taken[layer.label] = taken.get(layer.label, 0) + 1
    return [layer if taken[layer.label] == 1 else replace(layer, label=layer.path) for layer in layers]


def _find(configured: Sequence[Configured], path: Path, name: str | None) -> Configured | None:
    by_path = [layer for layer in configured if layer.path == path]
    by_name = [layer for layer in configured if layer.name == name]
    return next(iter((*by_path, *by_name)), None)


def _configured(layer: Found, known: Configured | None) -> Found:
    return layer if known is None else replace(layer, epsilon=known.epsilon, momentum=known.momentum)


def _in_order(
    found: Sequence[Found], of_label: Mapping[Path, _Layer], configured: Sequence[Configured]
) -> Sequence[Found]:
    """The layers in the order of the configuration, and those that it does not know after them."""
    order = {id(layer): number for number, layer in enumerate(configured)}
    return sorted(found, key=lambda layer: order.get(id(of_label[layer.name].configured), len(order)))
