"""The proof of a fold."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from bncli.folding import Verification, verify
from bncli.folding.verify import TOLERANCES, default_tolerance

BATCHES = [np.eye(4, dtype=np.float32) * 10, np.eye(4, dtype=np.float32)[:2]]


def test_equal_networks_pass():
    assert verify(lambda x: x, lambda x: x, BATCHES) == Verification(6, 0.0, 0.0, 1.0, TOLERANCES["float32"], True)


def test_errors_are_relative_to_the_largest_output():
    proof = verify(lambda x: x, lambda x: x + 0.5, BATCHES)
    assert (proof.max_abs_error, proof.max_rel_error, proof.passed) == (0.5, 0.05, False)
    assert verify(lambda x: x, lambda x: x + 0.5, BATCHES, tolerance=0.05).passed


def test_top1_agreement_counts_examples():
    def disagreeing(x):
        y = np.array(x)
        y[0, 0], y[0, 1] = y[0, 1], y[0, 0]
        return y

    assert verify(lambda x: x, disagreeing, BATCHES).top1_agreement == pytest.approx(4 / 6)


@pytest.mark.parametrize("original", [lambda x: x, lambda x: x * np.nan])
def test_nan_never_passes(original):
    assert not verify(original, lambda x: x * np.nan, BATCHES).passed


def test_infinite_outputs_never_pass():
    assert not verify(lambda x: x * np.inf, lambda x: x * np.inf, [np.ones((2, 3), np.float32)]).passed


def test_no_examples_prove_nothing():
    proof = verify(lambda x: x, lambda x: x, [])
    assert (proof.num_examples, proof.passed) == (0, False)


def test_batches_may_be_a_stream_and_outputs_a_tree():
    def network(x):
        return {"logits": x * 2, "maps": (x[:, None],)}

    assert verify(network, network, iter(BATCHES)).passed


def test_all_zero_outputs_are_compared_absolutely():
    assert not verify(lambda x: x * 0, lambda x: x * 0 + 1e-3, BATCHES).passed


def test_tolerance_follows_the_dtype_of_the_outputs():
    assert default_tolerance(jnp.bfloat16) > default_tolerance(np.float16) > default_tolerance(np.float32)
    assert default_tolerance(np.int32) == 0.0
    assert verify(lambda x: x.astype(jnp.bfloat16), lambda x: x.astype(jnp.bfloat16), BATCHES).tolerance == 0.125
