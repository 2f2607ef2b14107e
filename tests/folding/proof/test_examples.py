"""Random inputs like the example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.folding import NothingToFoldWarning, fold
from bncli.folding.proof.examples import BATCHES, EXAMPLES, count, random_inputs


def batches(example, apply_fn=lambda v, x: x):
    with pytest.warns(NothingToFoldWarning):
        return random_inputs(fold(apply_fn, {"w": np.float32(1)}, example, verify=False))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64", "uint8", "int8", "int32", "bool"])
def test_numbers_of_every_dtype(dtype):
    first, second = batches(jax.ShapeDtypeStruct((2, 400), dtype))
    assert (first.shape, first.dtype) == ((2, 400), dtype)
    numbers = np.asarray(first, np.complex128)
    assert np.any(numbers != np.asarray(second, np.complex128))
    limits = {"uint8": (0, 255), "int8": (0, 127), "int32": (0, 1), "bool": (0, 1)}
    if dtype in limits:
        assert (numbers.real.min(), numbers.real.max()) == pytest.approx(limits[dtype], abs=2)
    else:
        assert abs(numbers.real.mean()) < 0.2
        assert numbers.real.std() == pytest.approx(1.0, abs=0.1)


def test_random_keys_are_drawn_too():
    (first, _), (second, _) = batches((jax.random.key(1), np.zeros((2, 3), np.float32)))
    assert first.dtype == second.dtype == jax.random.key(0).dtype
    assert np.any(jax.random.key_data(first) != jax.random.key_data(second))
    assert batches((jax.random.key(1, impl="rbg"), np.float32(0))) is None


@pytest.mark.parametrize(("own", "drawn"), [(1, 1), (2, 2), (64, EXAMPLES)])
def test_a_few_examples_are_enough(own, drawn):
    found = batches({"a": jax.ShapeDtypeStruct((own, 3), np.float32), "b": np.float32(0)})
    assert len(found) == BATCHES
    assert [x["a"].shape for x in found] == [(drawn, 3)] * BATCHES
    assert [count(x) for x in found] == [drawn] * BATCHES
    assert count(jnp.zeros(())) == 1


def test_a_network_that_runs_other_operations_for_few_examples_gets_as_many_as_it_was_folded_with():
    found = batches(np.zeros((6, 3), np.float32), lambda v, x: x * 2 if x.shape[0] == 6 else x + 1)
    assert found[0].shape == (6, 3)
