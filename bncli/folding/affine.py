"""y = x·scale + shift in float64: the only thing that a fold moves.

Both arrays have the rank of the value they apply to. An axis has length 1 if the array is constant along it: the gain
of an NHWC feature map is `[1, 1, 1, C]`, and a border map is a shift of shape `[1, H, W, C]`. The batch axis always
has length 1, because nothing that depends on the example is an affine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Values that differ by less than this fraction of the largest one count as equal: float64 rounding, not a border.
ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class Affine:
    """y = x·scale + shift, elementwise with broadcasting.

    Args:
        scale: the factor, one axis for each axis of the value, each of length 1 or full.
        shift: the summand, in the same layout.
    """

    scale: Array
    shift: Array

    @classmethod
    def identity(cls, rank: int) -> Affine:
        """y = x."""
        return cls(np.ones((1,) * rank), np.zeros((1,) * rank))

    @classmethod
    def of_scale(cls, scale: Array) -> Affine:
        """y = x·scale."""
        return cls(scale, np.zeros((1,) * scale.ndim))

    @classmethod
    def of_shift(cls, shift: Array) -> Affine:
        """y = x + shift."""
        return cls(np.ones((1,) * shift.ndim), shift)

    def after(self, inner: Affine) -> Affine:
        """self(inner(x)): scale·(x·inner.scale + inner.shift) + shift."""
        return Affine(self.scale * inner.scale, compact(self.scale * inner.shift + self.shift))

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.scale.ndim

    @property
    def is_scale(self) -> bool:
        """True if it adds nothing."""
        return not self.shift.any()

    @property
    def is_shift(self) -> bool:
        """True if it only adds."""
        return bool(np.all(self.scale == 1))

    @property
    def is_identity(self) -> bool:
        """True if it changes nothing."""
        return self.is_scale and self.is_shift

    @property
    def is_finite(self) -> bool:
        """True if every number is finite."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    def same_as(self, other: Affine) -> bool:
        """True if both are the same function."""
        return _equal(self.scale, other.scale) and _equal(self.shift, other.shift)

    def varies(self) -> frozenset[int]:
        """The axes along which one of the arrays varies."""
        return varying(self.scale) | varying(self.shift)


def varying(array: np.ndarray) -> frozenset[int]:
    """The axes along which the array is not constant."""
    return frozenset(axis for axis, size in enumerate(array.shape) if size > 1)


def compact(array: Array) -> Array:
    """The array with length 1 along each axis along which it is constant, up to float64 rounding."""
    largest = np.abs(array).max(initial=0.0)
    tolerance = ROUNDING * largest if np.isfinite(largest) else 0.0
    for axis in varying(array):
        first = array.take([0], axis=axis)
        if np.all(np.abs(array - first) <= tolerance):
            array = first
    return array


def spread(array: Array, shape: tuple[int, ...], axes: frozenset[int]) -> Array:
    """The array broadcast along the given axes to their full length."""
    target = tuple(shape[axis] if axis in axes else size for axis, size in enumerate(array.shape))
    return np.broadcast_to(array, target)


def _equal(a: Array, b: Array) -> bool:
    return a is b or bool(np.all(a == b))
