"""y = x·scale + shift."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from bncli.folding.affine import Affine, compact, spread, varying

FLOATS = st.floats(-10, 10, width=32)
SHAPES = st.tuples(*[st.sampled_from([1, 3])] * 2)
AFFINES = st.builds(
    Affine, *[SHAPES.flatmap(lambda shape: stn.arrays(np.float64, shape, elements=FLOATS)) for _ in range(2)]
)
X = np.random.default_rng(0).normal(size=(3, 3))


def at(affine, x):
    return x * affine.scale + affine.shift


@given(AFFINES, AFFINES)
def test_composition_is_application_twice(outer, inner):
    np.testing.assert_allclose(at(outer.after(inner), X), at(outer, at(inner, X)), rtol=1e-12, atol=1e-10)


@given(AFFINES)
def test_identity_changes_nothing(affine):
    for same in (affine.after(Affine.identity(2)), Affine.identity(2).after(affine)):
        assert same.same_as(affine)
    assert Affine.identity(2).is_identity
    assert affine.is_identity == (affine.is_scale and affine.is_shift)


def test_compact_drops_the_axes_that_say_nothing():
    array = np.broadcast_to(np.arange(3.0), (1, 4, 5, 3))
    assert compact(array).shape == (1, 1, 1, 3)
    assert compact(np.full((2, 3), 7.0)).shape == (1, 1)
    assert compact(array + np.arange(4.0)[:, None, None]).shape == (1, 4, 1, 3)


def test_compact_takes_rounding_for_nothing_and_a_border_for_something():
    assert compact(np.array([1.0, 1.0 + 1e-15])).shape == (1,)
    assert compact(np.array([1.0, 1.0 + 1e-10])).shape == (2,)


def test_compact_hides_neither_infinity_nor_nan():
    for bad in (np.inf, np.nan):
        assert not np.isfinite(compact(np.array([1.0, bad]))).all()


def test_spread_and_varying():
    array = np.arange(3.0).reshape(1, 1, 3)
    assert varying(array) == {2}
    assert spread(array, (2, 4, 3), frozenset({1})).shape == (1, 4, 3)
