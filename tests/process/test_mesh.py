"""The mesh holds every device along the batch, and a batch must divide over them."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.errors import UsageError
from bncli.process import mesh


def test_the_mesh_holds_every_device_along_the_batch():
    made = mesh.make_mesh()
    assert made.axis_names == (mesh.BATCH_AXIS,)
    assert made.size == jax.device_count()
    x = np.arange(6 * made.size).reshape(2 * made.size, 3)
    for sharding in (mesh.batch_sharding(made), mesh.replicated(made)):
        np.testing.assert_array_equal(jax.device_put(x, sharding), x)
    assert mesh.batch_sharding(made, axis=1).spec == jax.sharding.PartitionSpec(None, "batch")


def test_a_batch_must_divide_over_the_devices():
    class Mesh8:
        size = 8

    mesh.check_batch_size(16, Mesh8)
    with pytest.raises(UsageError, match="--batch-size 12 does not divide over 8 devices") as caught:
        mesh.check_batch_size(12, Mesh8)
    assert caught.value.remedy == "Use a multiple of 8."


class Mesh4:
    size = 4


@given(batch_size=st.integers(1, 10**5), num_examples=st.integers(1, 10**5))
def test_a_fitting_batch_holds_the_same_examples_with_less_padding(batch_size, num_examples):
    size = mesh.fitting_batch_size(batch_size, num_examples, Mesh4)
    assert size <= batch_size or size < num_examples + 4
    assert min(size, num_examples) == min(batch_size, num_examples)
    assert size == batch_size or (size % 4 == 0 and size < num_examples + 4)
    if batch_size > 1024:
        assert size <= max(batch_size, num_examples)


@pytest.mark.parametrize(("size", "rounded"), [(1, 8), (8, 8), (43, 48), (48, 48)])
def test_a_size_is_rounded_up_to_one_that_divides(size, rounded):
    class Mesh8:
        size = 8

    assert mesh.round_up(size, Mesh8) == rounded
