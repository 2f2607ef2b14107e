"""The number of images that the statistics of averaged weights are measured on."""

from hypothesis import given
from hypothesis import strategies as st

from bncli.training.statistics import num_measured_batches


@given(batch_size=st.integers(1, 10**6))
def test_twenty_batches_are_enough_and_so_are_those_of_2560_images(batch_size):
    num_batches = num_measured_batches(batch_size)
    assert num_batches * batch_size >= min(20 * batch_size, 2560)
    assert 1 <= num_batches <= 20
    assert (num_batches - 1) * batch_size < 2560
