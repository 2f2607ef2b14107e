"""Laws of batches: every example once, no tiny batch, nothing depends on anything but (seed, epoch, example)."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.data import epoch_batches, epoch_order, eval_batches, example_keys, steps_per_epoch
from bncli.data.batches import alternating_flips
from bncli.errors import ConfigError

SIZES = {"num_examples": st.integers(1, 300), "batch_size": st.integers(1, 80)}


def real(batches):
    """The real examples of the batches, in their order."""
    return np.concatenate([b.indices if b.mask is None else b.indices[b.mask] for b in batches])


def shuffled(num_examples):
    return np.random.default_rng(num_examples).permutation(num_examples).astype(np.int32)


@given(**SIZES)
def test_an_epoch_holds_every_example_once_in_the_order_given(num_examples, batch_size):
    order = shuffled(num_examples)
    np.testing.assert_array_equal(real(epoch_batches(order, batch_size)), order)


@given(**SIZES)
def test_evaluation_holds_every_example_once_in_order(num_examples, batch_size):
    np.testing.assert_array_equal(real(eval_batches(num_examples, batch_size)), np.arange(num_examples))


@given(**SIZES)
def test_all_batches_have_one_shape_and_a_mask_only_where_padded(num_examples, batch_size):
    for batches in (epoch_batches(shuffled(num_examples), batch_size), eval_batches(num_examples, batch_size)):
        batches = list(batches)
        assert len(batches) == steps_per_epoch(num_examples, batch_size)
        for batch in batches:
            assert batch.indices.shape == (batch_size,)
            assert batch.indices.dtype == np.int32
            assert batch.mask is None or (batch.mask.dtype == bool and 0 < batch.mask.sum() < batch_size)
            assert batch.num_real == (batch_size if batch.mask is None else batch.mask.sum())


@given(**SIZES)
def test_no_training_batch_is_smaller_than_half(num_examples, batch_size):
    counts = [batch.num_real for batch in epoch_batches(shuffled(num_examples), batch_size)]
    assert min(counts) >= min(num_examples, batch_size / 2)
    assert counts == sorted(counts, reverse=True)
    assert all(count == batch_size for count in counts[:-2])


@given(**SIZES)
def test_padding_is_real_examples_behind_the_real_ones(num_examples, batch_size):
    order = shuffled(num_examples)
    for batch in epoch_batches(order, batch_size):
        if batch.mask is not None:
            assert not np.any(np.diff(batch.mask.astype(int)) > 0)
            np.testing.assert_array_equal(batch.indices[~batch.mask], np.resize(order, batch_size - batch.num_real))


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (13, 4, [4, 4, 3, 2]),
        (14, 4, [4, 4, 3, 3]),
        (15, 4, [4, 4, 4, 3]),
        (3, 4, [3]),
        (5, 4, [3, 2]),
        (2, 1, [1, 1]),
    ],
)
def test_the_last_two_batches_share_what_is_left(num_examples, batch_size, sizes):
    assert [batch.num_real for batch in epoch_batches(shuffled(num_examples), batch_size)] == sizes


@pytest.mark.parametrize("num_examples", [1, 2, 257])
def test_the_order_is_a_permutation_that_seed_and_epoch_determine(num_examples):
    order = epoch_order(3, 5, num_examples)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))
    np.testing.assert_array_equal(order, epoch_order(3, 5, num_examples))


def test_orders_of_other_seeds_and_epochs_differ():
    orders = {epoch_order(seed, epoch, 100).tobytes() for seed in (0, 1, 2) for epoch in (0, 1, 2)}
    assert len(orders) == 9


def test_the_order_does_not_depend_on_the_default_implementation_of_keys():
    expected = epoch_order(0, 0, 50)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(epoch_order(0, 0, 50), expected)


def test_a_key_depends_on_seed_epoch_and_example_alone():
    seed_key = jax.random.key(1)
    keys = jax.random.key_data(jax.jit(example_keys)(seed_key, 7, np.arange(40, dtype=np.int32)))
    some = np.array([39, 3, 3, 17], np.int32)
    np.testing.assert_array_equal(jax.random.key_data(example_keys(seed_key, 7, some)), keys[some])


def test_keys_of_other_seeds_epochs_and_examples_differ():
    keys = [
        jax.random.key_data(example_keys(jax.random.key(seed), epoch, np.arange(20, dtype=np.int32)))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 2 * 3 * 20


def test_orders_and_keys_never_change():
    # A resumed run must see what it would have seen, with any version. Both come from streams of their own.
    assert epoch_order(0, 0, 8).tolist() == [3, 0, 4, 2, 6, 7, 1, 5]
    assert epoch_order(3, 5, 8).tolist() == [4, 3, 6, 5, 2, 7, 0, 1]
    keys = example_keys(jax.random.key(0), 0, np.arange(2, dtype=np.int32))
    assert jax.random.key_data(keys).tolist() == [[1941479997, 1420331131], [3862021491, 526317948]]


INDICES = np.arange(4000, dtype=np.int32)
FIRST_FLIPS = [1, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 1]


def flips_of(epoch, indices):
    return alternating_flips(jax.random.key(0), epoch, indices)


def flips(epoch, indices=INDICES, *, seed=0):
    return np.asarray(alternating_flips(jax.random.key(seed), epoch, indices))


def test_flips_alternate_and_half_of_the_examples_begin():
    first = flips(0)
    assert 0.45 < first.mean() < 0.55
    for epoch in range(1, 5):
        np.testing.assert_array_equal(flips(epoch), first ^ (epoch % 2 == 1))
    np.testing.assert_array_equal(jax.jit(flips_of)(np.int32(3), INDICES), flips(3))  # the epoch may be traced


def test_a_flip_depends_on_seed_and_example_alone():
    some = np.array([39, 3, 3, 17], np.int32)
    np.testing.assert_array_equal(flips(4, some), flips(4)[some])
    assert 0.4 < (flips(0) == flips(0, seed=1)).mean() < 0.6


def test_flips_never_change():
    assert flips(0, INDICES[:12]).astype(int).tolist() == FIRST_FLIPS


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(ConfigError, match="batch size"):
        list(epoch_batches(shuffled(3), batch_size))
    with pytest.raises(ConfigError, match="batch size"):
        steps_per_epoch(3, batch_size)


def test_an_empty_split_is_refused():
    with pytest.raises(ConfigError, match="no example"):
        list(eval_batches(0, 4))
