"""The contents of a user's module without BN: the arrays of a folded network by module, and the layers it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bncli.errors import FoldError
from bncli.folding import Folded
from bncli.folding.folded import flatten
from bncli.frameworks.adapted import BIAS, MEAN, PARAMETERS, SCALE, STATISTICS, VAR, Array

SHIFT = "shift"  # the folder's name for what a kept layer adds
REMEDY = "use folded(x) and folded.variables, which hold it"


@dataclass(frozen=True)
class Remains:
    """The parts of a folded network that go back into the user's module.

    Attributes:
        arrays: module -> its arrays by name, without those of BN layers.
        norms: kept BN layer -> its multiply-add, "scale" and "shift" where present.
    """

    arrays: Mapping[str, Mapping[str, Array]]
    norms: Mapping[str, Mapping[str, Array]]

    def norm(self, name: str, channels: int, epsilon: float) -> dict[str, np.ndarray]:
        """Mean, var, scale and bias with which a BN layer of this ε is the multiply-add: it divides by √(1 − ε + ε)."""
        add = self.norms[name]
        scale, shift = np.asarray(add.get(SCALE, 1.0)), np.asarray(add.get(SHIFT, 0.0))
        return {
            MEAN: np.zeros(channels),
            VAR: np.full(channels, 1 - epsilon),
            SCALE: np.broadcast_to(scale, (channels,)),
            BIAS: np.broadcast_to(shift, (channels,)),
        }


def remains_of(folded: Folded, norms: Iterable[str]) -> Remains:
    """The arrays of a folded network by module.

    Args:
        norms: the names of all BN layers of the module.

    Raises:
        FoldError: an array varies by position or has no module: a bias map, a shift behind a shortcut.
    """
    names = set(norms)
    arrays: dict[str, dict[str, Array]] = {}
    kept: dict[str, dict[str, Array]] = {}
    for (collection, *module, name), array in flatten(folded.variables):
        layer = "/".join(module)
        if collection == STATISTICS:
            raise FoldError(
                f"{layer} is in an operation that is no multiply-add, so it has no folded form", remedy=REMEDY
            )
        if layer in names:
            _check_kept(folded, layer, array)
            kept.setdefault(layer, {})[name] = array
        elif collection == PARAMETERS:
            _check_shape(folded, (collection, *module, name), array)
            arrays.setdefault(layer, {})[name] = array
    return Remains(arrays, kept)


def _check_kept(folded: Folded, layer: str, array: Array) -> None:
    row = next((row for row in folded.report.norms if row.name == layer), None)
    if row is None or row.status == "folded":
        left = row.left if row is not None and row.left else "a multiply or add"
        raise FoldError(
            f"the fold of {layer} leaves {left} in the network, for which the module has no place", remedy=REMEDY
        )
    if np.ndim(array) > 1:
        raise FoldError(f"what is left of {layer} varies by position, and a BN layer does not", remedy=REMEDY)


def _check_shape(folded: Folded, path: tuple[str, ...], array: Array) -> None:
    """Refuse an array that varies by position and takes the place of a vector, or of none."""
    shapes = dict(flatten(folded.shapes))
    size = np.size(array) if path not in shapes else int(np.prod(shapes[path].shape))
    if np.size(array) != size or (path not in shapes and np.ndim(array) > 1):
        raise FoldError(f"the folded {'/'.join(path[1:])} varies by position, and a bias does not", remedy=REMEDY)
