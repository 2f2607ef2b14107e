"""Laws of setting examples aside: a stratified part, a training example left in every class, no second copy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.data.splits import stratified_sample, take_out
from bncli.errors import ConfigError

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=120).map(lambda labels: np.asarray(labels, np.int32))
FRACTIONS = st.floats(0.01, 0.99)


@given(labels=LABELS, fraction=FRACTIONS, seed=st.integers(0, 2**64 - 1))
def test_every_class_gives_its_part_and_keeps_one(labels, fraction, seed):
    chosen = stratified_sample(labels, fraction, seed=seed)
    assert np.array_equal(chosen, np.unique(chosen))
    counts = np.bincount(labels)
    taken = np.bincount(labels[chosen], minlength=len(counts))
    spare = np.maximum(counts - 1, 0)
    assert (taken <= spare).all()
    assert len(chosen) == min(max(1, round(len(labels) * fraction)), spare.sum())


@given(counts=st.lists(st.integers(20, 60), min_size=1, max_size=6), fraction=st.floats(0.1, 0.9))
def test_no_class_of_some_size_is_more_than_one_off_its_part(counts, fraction):
    labels = np.repeat(np.arange(len(counts)), counts)
    taken = np.bincount(labels[stratified_sample(labels, fraction, seed=0)], minlength=len(counts))
    assert (np.abs(taken - np.asarray(counts) * fraction) <= 1).all()


def test_the_seed_decides():
    labels = np.arange(200) % 4
    first = stratified_sample(labels, 0.25, seed=1)
    np.testing.assert_array_equal(first, stratified_sample(labels, 0.25, seed=1))
    assert not np.array_equal(first, stratified_sample(labels, 0.25, seed=2))


def test_the_choice_never_changes_between_versions():
    # A resumed run must find its own val split again, whatever NumPy is installed by then.
    chosen = stratified_sample(np.arange(40) % 4, 0.25, seed=7)
    assert chosen.tolist() == [6, 10, 20, 21, 23, 24, 32, 33, 37, 39]


@given(length=st.integers(0, 60), picks=st.sets(st.integers(0, 59)), width=st.integers(0, 3), chunk=st.integers(1, 40))
def test_taking_out_is_numpy_delete_without_a_copy(length, picks, width, chunk):
    import bncli.data.splits as splits

    array = np.arange(length * (width + 1)).reshape(length, width + 1)
    original = array.copy()
    indices = np.asarray(sorted(pick for pick in picks if pick < length), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "_CHUNK_BYTES", chunk)
        kept, taken = take_out(array, indices)
    np.testing.assert_array_equal(kept, np.delete(original, indices, axis=0))
    np.testing.assert_array_equal(taken, original[indices])
    assert kept.size == 0 or np.shares_memory(kept, array)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_part_that_is_none_is_refused(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        stratified_sample(np.arange(4), fraction, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed is -1"):
        stratified_sample(np.arange(4), 0.5, seed=-1)
