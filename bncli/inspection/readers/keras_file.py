"""BN layers of Keras' files: ``.keras``, ``.weights.h5`` and ``.h5``; by h5py alone, in a separate process.

::

    model.keras           a zip archive: config.json, model.weights.h5
    *.weights.h5          Keras 3: layers/batch_normalization_1/vars/0 … by number; the attribute "name" is the layer's
    *.h5                  older: model_weights/NAME/NAME/gamma:0 … by name; the configuration is an attribute

(https://keras.io/guides/serialization_and_saving; keras/src/saving/saving_lib.py, legacy/saving/legacy_h5_format.py.)
Keras' own loader is not used: it can run code from the file.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Path, Stored, canonical, naturally
from bncli.inspection.readers.assembly import assemble, contents_of
from bncli.inspection.readers.contents import Contents, named
from bncli.inspection.readers.conventions import BN_NAME
from bncli.inspection.readers.grouping import Found, find_batch_norms
from bncli.inspection.readers.hdf5 import Hdf5, read_hdf5, require_h5py
from bncli.inspection.readers.keras_config import Configuration, Configured, parse
from bncli.inspection.readers.settings import Asked
from bncli.process.files import open_regular

WEIGHTS = "model.weights.h5"
CONFIG = "config.json"
MAX_CONFIG = 64 << 20
# Trained weights do not compress, and Keras stores them uncompressed: a member so much larger than the file is a bomb.
MAX_RATIO = 20

_VARS = "vars"
_OPTIMIZER = ("optimizer", "optimizer_weights")
# Names of "layers" in Keras 2.12 and 2.13.
_DEPENDENCIES = ("_layer_checkpoint_dependencies", "layer_checkpoint_dependencies")
_NUMBER = re.compile(r"_\d+$")
# Names of a BN layer's arrays by their number, for files without configuration: γ is missing more often than β (Keras'
# own Inception networks have none). Batch renormalisation has three more.
_STATISTICS = ("moving_mean", "moving_variance")
_RENORM = (*_STATISTICS, "moving_stddev", "renorm_mean", "renorm_stddev")
_BY_COUNT: Mapping[int, tuple[str, ...]] = {
    2: _STATISTICS,
    3: ("beta", *_STATISTICS),
    4: ("gamma", "beta", *_STATISTICS),
    5: _RENORM,
    6: ("beta", *_RENORM),
    7: ("gamma", "beta", *_RENORM),
}
# The class in a path as Keras writes it; and other layers with arrays of one length, such as other norms and metrics.
_BN_CLASS = re.compile(r"(sync_)?batch_normalization(_v[12])?(_\d+)?")
_OTHER = re.compile(r"(group|instance|layer|rms|spectral|unit)_?norm|(^|_)auc|_at_", re.IGNORECASE)


@dataclass(frozen=True)
class _Layer:
    """A layer of any kind.

    Attributes:
        path: its path in the file.
        label: its name, after those of the models around it.
        arrays: by name; empty if the names are neither in the configuration nor could be guessed.
        position: its place in the order of the configuration.
        configured: its entry in the configuration; None if there is none.
        is_guess: True if the names of its arrays are not in the file.
        could_be_bn: True if its arrays would fit BN, and only its own name speaks against it.
    """

    path: Path
    label: Path
    arrays: Mapping[str, Stored]
    position: int
    configured: Configured | None = None
    is_guess: bool = False
    could_be_bn: bool = False

    @property
    def is_batch_norm(self) -> bool:
        """True if the configuration says so."""
        return self.configured is not None and self.configured.is_batch_norm


def require_library() -> None:
    """Raise CheckpointError if h5py is not installed."""
    require_h5py()


def read(path: FilePath, asked: Asked) -> Contents:
    """Read the BN layers of a Keras file, with ε and momentum if it holds their configuration.

    Raises:
        CheckpointError: a part of the file is too large, missing or damaged.
        Exception: h5py's or zipfile's, of any class, if the file is damaged.
    """
    with open_regular(path) as file:
        is_archive = file.read(2) == b"PK"
    if not is_archive:
        content = read_hdf5(path)
        return _contents(content, content.config, asked)
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        config = _member(archive, CONFIG, MAX_CONFIG) if CONFIG in archive.namelist() else None
        weights = _member(archive, WEIGHTS, MAX_RATIO * path.stat().st_size)
    return _contents(read_hdf5(io.BytesIO(weights)), config, asked)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member of the archive.

    Raises:
        CheckpointError: it claims to be larger than ``limit``; zipfile reads no more than that.
    """
    size = archive.getinfo(name).file_size
    if size > limit:
        raise CheckpointError(
            f"{archive.filename}: {name} claims {size:,} bytes, but can have at most {limit:,}",
            remedy="Is the file damaged? Restore it from a copy.",
        )
    return archive.read(name)


def _contents(content: Hdf5, config: str | bytes | None, asked: Asked) -> Contents:
    configuration = Configuration() if config is None else parse(config)
    layers = _in_order(_with_distinct_labels([*_numbered(content, configuration), *_named(content, configuration)]))
    arrays = {(*layer.label, name): array for layer in layers for name, array in layer.arrays.items()}
    of_label = {layer.label: layer for layer in layers}
    found = [_configured(layer, of_label.get(layer.name)) for layer in find_batch_norms(arrays)]
    guessed = ["/".join(layer.label) for layer in layers if layer.is_guess and _BY_COUNT[3] == tuple(layer.arrays)]
    left_out = ["/".join(layer.label) for layer in layers if layer.is_batch_norm and not layer.arrays]
    notes = [*_note("three arrays, the first of which can be γ or β, and is assumed to be β", guessed)]
    unread = [*_note("left out, because its arrays do not match Keras' BN layer", left_out)]
    if found:
        return assemble(found, arrays, file_format="keras", asked=asked, notes=[*notes, *unread])
    doubtful = ["/".join(layer.label) for layer in layers if layer.could_be_bn]
    unread += _note("not recognised as BN, because the file names neither its arrays nor its class", doubtful)
    return contents_of(arrays, file_format="keras", asked=asked, notes=notes, unread=unread)


def _in_order(layers: Sequence[_Layer]) -> Sequence[_Layer]:
    """The layers in the order of the configuration; without one, by Keras' counters if all names have them."""
    created = [layer.label[-1] for layer in layers if "moving_mean" in layer.arrays and layer.label]
    if len(created) == len(set(created)) and all(map(_BN_CLASS.fullmatch, created)):
        layers = sorted(layers, key=lambda layer: naturally(layer.label[-1:]))
    return sorted(layers, key=lambda layer: layer.position)


def _note(text: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{text}: {named(names)}"


def _configured(found: Found, layer: _Layer | None) -> Found:
    known = layer.configured if layer is not None else None
    return found if known is None else replace(found, epsilon=known.epsilon, momentum=known.momentum)


def _numbered(content: Hdf5, configuration: Configuration) -> Iterator[_Layer]:
    """The layers whose arrays have numbers instead of names."""
    groups: dict[Path, dict[int, Stored]] = {}
    for path, array in content.arrays.items():
        if path[-2:-1] == (_VARS,) and path[-1].isdecimal() and path[0] not in _OPTIMIZER:
            groups.setdefault(path[:-2], {})[int(path[-1])] = array
    renamed = _as_keras_3_counts(content.groups)
    for path, by_number in groups.items():
        place = tuple(renamed.get(path[: length + 1], part) for length, part in enumerate(path))
        names = _names(path, content)
        arrays = [by_number[number] for number in sorted(by_number)]
        known = configuration.find(place, names)
        variables = (known.variables if known else ()) or _guessed_names(arrays, place, names)
        yield _Layer(
            path,
            label=names or (known.names if known else tuple(part for part in place if part != "layers")),
            arrays=dict(zip(variables, arrays, strict=True)) if len(variables) == len(arrays) else {},
            position=configuration.position(place, names),
            configured=known,
            is_guess=known is None or not known.is_batch_norm,
            could_be_bn=known is None and not variables and _fits_batch_norm(arrays, (*place[-1:], *names[-1:])),
        )


def _guessed_names(arrays: Sequence[Stored], place: Path, names: Path) -> tuple[str, ...]:
    """Names of a layer's arrays, guessed from their shapes and the layer's names; () for other layers."""
    if len({array.shape for array in arrays}) == 1 and len(arrays[0].shape) == 1:
        return _BY_COUNT.get(len(arrays), ()) if _is_called_bn((*place[-1:], *names[-1:]), len(arrays)) else ()
    return ("kernel", "bias")[: len(arrays)] if len(arrays[0].shape) > 2 else ()


def _fits_batch_norm(arrays: Sequence[Stored], words: Path) -> bool:
    """True for as many equally long arrays as BN has, unless the layer is called by another kind's name."""
    return (
        len(arrays) in _BY_COUNT
        and len({array.shape for array in arrays}) == 1
        and len(arrays[0].shape) == 1
        and not any(map(_OTHER.search, words))
    )


def _is_called_bn(words: Path, num_arrays: int) -> bool:
    """True if a layer with this number of equally long arrays is BN, judging by its class, attribute and name."""
    if any(map(_BN_CLASS.fullmatch, words)):
        return True
    return not any(map(_OTHER.search, words)) and (num_arrays == 4 or any(map(BN_NAME.search, words)))


def _named(content: Hdf5, configuration: Configuration) -> Iterator[_Layer]:
    """The layers whose arrays have names."""
    groups: dict[Path, dict[str, Stored]] = {}
    for path, array in content.arrays.items():
        if _VARS not in path and path[0] not in _OPTIMIZER:
            *parent, name = canonical(path)
            # Trained arrays are listed first, so the last array decides the place of a layer.
            group = groups[tuple(parent)] = groups.pop(tuple(parent), {})
            group[name] = array
    for path, arrays in groups.items():
        label = path[1:] if path[:1] == ("model_weights",) else path
        if label[:1] and label[0] in label[1:]:  # the names of a layer's arrays begin with its own
            label = label[label.index(label[0], 1) :]
        yield _Layer(path, label, arrays, configuration.position((), label), configuration.find((), label))


def _as_keras_3_counts(groups: Iterable[Path]) -> dict[Path, str]:
    """Path of a group -> its name in Keras 3, if that differs.

    Keras 2.12 and 2.13 counted each layer with weights twice: the second of a class is number 2, the third is 4.
    """
    names: dict[Path, str] = {}
    counts: Counter[tuple[Path, str]] = Counter()
    for path in groups:
        if len(path) > 1 and path[-2] in _DEPENDENCIES:
            names[path[:-1]] = "layers"
            stem = _NUMBER.sub("", path[-1])
            number = counts[path[:-1], stem]
            counts[path[:-1], stem] += 1
            names[path] = f"{stem}_{number}" if number else stem
    return names


def _names(path: Path, content: Hdf5) -> Path:
    """The layer's name, after those of the models around it; () if the file lacks it."""
    if (*path, _VARS) not in content.names:
        return ()
    above = [(*path[:length], _VARS) for length in range(1, len(path) + 1)]
    return tuple(content.names[place] for place in above if place in content.names)


def _with_distinct_labels(layers: Sequence[_Layer]) -> list[_Layer]:
    """The layers, with their paths as labels where two have the same label."""
    taken = Counter(layer.label for layer in layers)
    return [layer if taken[layer.label] == 1 else replace(layer, label=layer.path) for layer in layers]
