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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Path, Stored, canonical, naturally
from bncli.inspection.readers.assembly import assemble, contents_of
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.conventions import BN_NAME
from bncli.inspection.readers.grouping import Found, find_batch_norms
from bncli.inspection.readers.hdf5 import Hdf5, read_hdf5, require_h5py
from bncli.inspection.readers.keras_config import Configuration, Configured, parse
from bncli.inspection.readers.settings import Asked

WEIGHTS = "model.weights.h5"
CONFIG = "config.json"
MAX_CONFIG = 64 << 20
# Trained weights do not compress, and Keras stores them as they are: what claims to be so much larger is a bomb.
MAX_RATIO = 20

_VARS = "vars"
_OPTIMIZER = ("optimizer", "optimizer_weights")
# What Keras 2.12 and 2.13 called "layers".
_DEPENDENCIES = ("_layer_checkpoint_dependencies", "layer_checkpoint_dependencies")
_NUMBER = re.compile(r"_\d+$")
# Names of a BN layer's arrays by how many there are, where no configuration says which: γ is left out more often than β
# (Keras' own Inception networks have none). Batch renormalisation has three more.
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
# What Keras calls the class in a path; and what else has arrays of one length: γ and β, the counts of a metric.
_BN_CLASS = re.compile(r"(sync_)?batch_normalization(_v[12])?(_\d+)?")
_OTHER = re.compile(r"(group|instance|layer|rms|spectral|unit)_?norm|(^|_)auc|_at_", re.IGNORECASE)


@dataclass(frozen=True)
class _Layer:
    """A layer of any kind.

    Attributes:
        path: where it is in the file.
        label: its name, after those of the models it is in.
        arrays: by their names; none where they are neither guessed nor those of the configuration.
        position: in the order of the configuration.
        configured: what the configuration says of it; None where it says nothing, or is not there.
        is_guess: whether the names of its arrays were not in the file.
    """

    path: Path
    label: Path
    arrays: Mapping[str, Stored]
    position: int
    configured: Configured | None = None
    is_guess: bool = False

    @property
    def is_batch_norm(self) -> bool:
        """Whether the configuration says so."""
        return self.configured is not None and self.configured.is_batch_norm


def require_library() -> None:
    """Raises CheckpointError where h5py is not installed."""
    require_h5py()


def read(path: FilePath, asked: Asked) -> Contents:
    """The BN layers of a Keras file, with ε and momentum where their configuration is in it.

    Raises:
        CheckpointError: a part of the file is too large, missing or damaged.
        Exception: of any class, from h5py or zipfile, where the file is damaged.
    """
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if not is_archive:
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
    configuration = Configuration() if config is None else parse(config)
    layers = _in_order(_with_distinct_labels([*_numbered(content, configuration), *_named(content, configuration)]))
    arrays = {(*layer.label, name): array for layer in layers for name, array in layer.arrays.items()}
    of_label = {layer.label: layer for layer in layers}
    found = [_configured(layer, of_label.get(layer.name)) for layer in find_batch_norms(arrays)]
    guessed = ["/".join(layer.label) for layer in layers if layer.is_guess and _BY_COUNT[3] == tuple(layer.arrays)]
    left_out = ["/".join(layer.label) for layer in layers if layer.is_batch_norm and not layer.arrays]
    notes = [
        *_note("three arrays, of which the first may be γ or β, and is taken for β", guessed),
        *_note("left out, since its arrays are not those of Keras' BN layer", left_out),
    ]
    if not found:
        return contents_of(arrays, file_format="keras", asked=asked, notes=notes)
    return assemble(found, arrays, file_format="keras", asked=asked, notes=notes)


def _in_order(layers: Sequence[_Layer]) -> Sequence[_Layer]:
    """As the configuration has them; where it has not, as they were made if all have the names that Keras counts."""
    created = [layer.label[-1] for layer in layers if "moving_mean" in layer.arrays and layer.label]
    if len(created) == len(set(created)) and all(map(_BN_CLASS.fullmatch, created)):
        layers = sorted(layers, key=lambda layer: naturally(layer.label[-1:]))
    return sorted(layers, key=lambda layer: layer.position)


def _note(text: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{text}: {', '.join(names[:3])}{more}"


def _configured(found: Found, layer: _Layer | None) -> Found:
    known = layer.configured if layer is not None else None
    return found if known is None else replace(found, epsilon=known.epsilon, momentum=known.momentum)


def _numbered(content: Hdf5, configuration: Configuration) -> Iterator[_Layer]:
    """The layers whose arrays have numbers in place of names."""
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
        )


def _guessed_names(arrays: Sequence[Stored], place: Path, names: Path) -> tuple[str, ...]:
    """What the arrays of a layer are, by their shapes and what it is called; () for no layer of interest."""
    if len({array.shape for array in arrays}) == 1 and len(arrays[0].shape) == 1:
        return _BY_COUNT.get(len(arrays), ()) if _is_called_bn((*place[-1:], *names[-1:]), len(arrays)) else ()
    return ("kernel", "bias")[: len(arrays)] if len(arrays[0].shape) > 2 else ()


def _is_called_bn(words: Path, num_arrays: int) -> bool:
    """Whether a layer of so many equally long arrays is BN, by its class or attribute, and its name."""
    if any(map(_BN_CLASS.fullmatch, words)):
        return True
    return not any(map(_OTHER.search, words)) and (num_arrays == 4 or any(map(BN_NAME.search, words)))


def _named(content: Hdf5, configuration: Configuration) -> Iterator[_Layer]:
    """The layers whose arrays have names."""
    groups: dict[Path, dict[str, Stored]] = {}
    for path, array in content.arrays.items():
        if _VARS not in path and path[0] not in _OPTIMIZER:
            *parent, name = canonical(path)
            # A layer stands where its last array does: those that are trained are listed before all others.
            group = groups[tuple(parent)] = groups.pop(tuple(parent), {})
            group[name] = array
    for path, arrays in groups.items():
        label = path[1:] if path[:1] == ("model_weights",) else path
        if label[:1] and label[0] in label[1:]:  # a layer's arrays have its name before theirs
            label = label[label.index(label[0], 1) :]
        yield _Layer(path, label, arrays, configuration.position((), label), configuration.find((), label))


def _as_keras_3_counts(groups: Iterable[Path]) -> dict[Path, str]:
    """Path of a group -> what Keras 3 calls it, where that differs.

    Keras 2.12 and 2.13 counted each layer that has weights twice: the second of a class is number 2, the third 4.
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
    """The layer's name, after those of the models it is in; () where the file does not have it."""
    if (*path, _VARS) not in content.names:
        return ()
    above = [(*path[:length], _VARS) for length in range(1, len(path) + 1)]
    return tuple(content.names[place] for place in above if place in content.names)


def _with_distinct_labels(layers: Sequence[_Layer]) -> list[_Layer]:
    """The layers, those with a label that another has as well by their path."""
    taken = Counter(layer.label for layer in layers)
    return [layer if taken[layer.label] == 1 else replace(layer, label=layer.path) for layer in layers]
