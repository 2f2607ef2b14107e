"""The layers of a report from those found in a file, with a note for each assumption.

Letters: C channels, L layers stacked in one array, R replicas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.readers.arrays import FLOATS, MAX_VALUES, Arrays, Stored
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.copies import choose
from bncli.inspection.readers.grouping import Found, find_batch_norms
from bncli.inspection.readers.replicas import count_replicas
from bncli.inspection.readers.settings import Asked, settle

# DenseNet-264 has 264 layers, an ensemble of ten has ten times as many; a stack may claim any number.
MAX_LAYERS = 4096
REMEDY = "Is the file damaged? Restore it from a copy."

NOT_IN_THE_REST = "no BN layer found in the parts that were read"
NO_LAYER = "no BN layer found: no running mean and variance under the names of Flax, Haiku, Keras, ONNX or PyTorch"
_KERNELS = ("kernel", "w", "weight")
_BIASES = ("b", "bias")


def contents_of(
    arrays: Arrays, *, file_format: str, asked: Asked, notes: Sequence[str] = (), unread: Sequence[str] = ()
) -> Contents:
    """The BN layers among the arrays of a file, recognised by name.

    Args:
        arrays: of the file, by path.
        file_format: its name.
        asked: the user's options.
        notes: what else there is to say.
        unread: the parts that were not read, one note each.
    """
    found = find_batch_norms(arrays)
    if found:
        return assemble(found, arrays, file_format=file_format, asked=asked, notes=(*notes, *unread))
    return nothing_found(file_format, notes=notes, unread=unread, folded=looks_folded(*count_biases(arrays)))


def nothing_found(
    file_format: str, *, notes: Iterable[str] = (), unread: Sequence[str] = (), folded: Iterable[str] = ()
) -> Contents:
    """The contents of a file without BN layers.

    Args:
        file_format: its name.
        notes: what else there is to say.
        unread: the parts that were not read, one note each. Only without any can a file be said to have no BN.
        folded: the note on what the file looks like if it has no BN.
    """
    verdict = (NOT_IN_THE_REST, *unread) if unread else (NO_LAYER, *folded)
    return Contents(file_format, (), (*notes, *verdict))


def assemble(
    found: Sequence[Found], arrays: Arrays, *, file_format: str, asked: Asked, notes: Iterable[str] = ()
) -> Contents:
    """The layers that were found, at least one, completed by what the file does not say.

    Raises:
        CheckpointError: the arrays of a layer do not fit each other, or there are more than a network has.
    """
    found, chosen = choose(found)
    _check(found)
    found, assumed = settle(found, asked)
    replicas = count_replicas(found, arrays)
    layers = tuple(layer for one in found for layer in _layers(one, replicas))
    return Contents(file_format, layers, (*notes, *chosen, *assumed), framework=found[0].convention.framework)


def count_biases(arrays: Arrays) -> tuple[int, int]:
    """(number of convolutions with a bias, number of convolutions)."""
    kernels = [path for path, array in arrays.items() if path[-1] in _KERNELS and len(array.shape) > 2]
    return sum(any((*path[:-1], bias) in arrays for bias in _BIASES) for path in kernels), len(kernels)


def looks_folded(biased: int, convolutions: int) -> tuple[str, ...]:
    """A note if all convolutions have a bias: before BN they usually have none."""
    if not convolutions or biased < convolutions:
        return ()
    which = "its only convolution has" if convolutions == 1 else f"all {convolutions} convolutions have"
    return (f"it looks folded, or built without BN: {which} a bias",)


def _check(found: Sequence[Found]) -> None:
    """Raise CheckpointError unless these can be the layers of a network."""
    for layer in found:
        shapes = {name: array.shape for name, array in layer.arrays.items()}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{name} {str(list(shape))[:80]}" for name, shape in shapes.items())
            raise CheckpointError(f"the arrays of the BN layer {layer.label} differ in shape: {told}", remedy=REMEDY)
        if not layer.mean.size:
            raise CheckpointError(f"the BN layer {layer.label} has no channels", remedy=REMEDY)
        for name, array in layer.arrays.items():
            if array.dtype not in FLOATS:
                raise CheckpointError(
                    f"{name} of the BN layer {layer.label} is {array.dtype}, but bncli reads {', '.join(FLOATS)}",
                    remedy="Save the network before it is quantised, or in another dtype.",
                )
    values, layers = (sum(map(count, found)) for count in (_num_values, _num_layers))
    if values > MAX_VALUES or layers > MAX_LAYERS:
        raise CheckpointError(
            f"{layers:,} BN layer{'s' * (layers != 1)} of {values:,} values are too many for a network: limits are "
            f"{MAX_LAYERS:,} layers and {MAX_VALUES:,} values",
            remedy=REMEDY,
        )


def _num_values(layer: Found) -> int:
    return sum(array.size for array in layer.arrays.values())


def _num_layers(layer: Found) -> int:
    return math.prod(_stack(layer.mean.shape))


def _layers(found: Found, replicas: int | None) -> Iterator[BatchNormArrays]:
    """The layer, or each of the layers stacked in its arrays, numbered: ``Block/BatchNorm_0[1]``."""
    arrays = {name: array.values() for name, array in found.arrays.items()}
    updates = found.updates.values() if found.updates is not None and _is_number(found.updates) else None
    assert found.epsilon is not None  # ``settle`` has filled it in
    all_statistics = None
    if replicas is not None:
        all_statistics = np.stack([arrays["mean"], arrays["var"]], axis=1)  # [R, 2, …, C]
        arrays = {name: array[0] for name, array in arrays.items()}
        updates = updates if updates is None or updates.ndim == 0 else updates[0]
    stack = _stack(arrays["mean"].shape)
    for index in np.ndindex(stack):
        yield BatchNormArrays(
            name=f"{found.label}[{','.join(map(str, index))}]" if stack else found.label,
            mean=arrays["mean"][index].reshape(-1),
            var=arrays["var"][index].reshape(-1),
            scale=arrays["scale"][index].reshape(-1) if "scale" in arrays else None,
            bias=arrays["bias"][index].reshape(-1) if "bias" in arrays else None,
            epsilon=found.epsilon,
            momentum=found.momentum,
            relu_follows=found.relu_follows,
            updates=_count(updates, index) if updates is not None else None,
            dtype=found.mean.dtype,
            replicas=_of_layer(all_statistics, index),
            train_mode=found.train_mode,
        )


def _stack(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that count stacked layers: all but the last, or none if at most one axis is longer than 1."""
    return () if sum(length > 1 for length in shape) < 2 else shape[:-1]


def _of_layer(statistics: np.ndarray | None, index: tuple[int, ...]) -> np.ndarray | None:
    """[R, 2, C] of one layer."""
    if statistics is None:
        return None
    own = statistics[np.index_exp[:, :] + index]
    return own.reshape(*own.shape[:2], -1)


def _is_number(array: Stored) -> bool:
    return array.dtype.startswith(("float", "int", "uint"))


def _count(updates: np.ndarray, index: tuple[int, ...]) -> int | None:
    """The number of updates of a layer, if these numbers, one or [L], can be that."""
    if updates.size == 1:
        value = float(updates.reshape(-1)[0])
    elif updates.ndim == len(index) and np.all(np.less(index, updates.shape)):
        value = float(updates[index])
    else:
        return None
    return int(value) if np.isfinite(value) and value >= 0 else None
