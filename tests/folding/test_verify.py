"""The proof of a fold."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from bncli.folding import Verification, verify
from bncli.folding.verify import TOLERANCES, default_tolerance

BATCHES = [np.eye(4, dtype=np.float32) * 10, np.eye(4, dtype=np.float32)[:2]]


def test_equal_networks_pass():
    assert verify(lambda x: x, lambda x: x, BATCHES) == Verification(
        6, 0.0, 0.0, 1.0, TOLERANCES["float32"], passed=True, status="proved"
    )


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


def test_infinities_in_the_same_places_are_equal_and_the_rest_is_compared():
    """A mask of minus infinity over some of the logits."""

    def masked(x):
        return np.where(np.arange(4) > 2, -np.inf, x)

    assert verify(masked, masked, BATCHES).status == "proved"
    assert verify(masked, lambda x: masked(x * 1.01), BATCHES).status == "failed"
    assert verify(masked, lambda x: x, BATCHES).status == "failed"


def test_no_examples_prove_nothing():
    proof = verify(lambda x: x, lambda x: x, [])
    assert (proof.num_examples, proof.passed) == (0, False)


def test_batches_may_be_a_stream_and_outputs_a_tree():
    def network(x):
        return {"logits": x * 2, "maps": (x[:, None],)}

    assert verify(network, network, iter(BATCHES)).passed


def test_all_zero_outputs_are_compared_absolutely():
    assert not verify(lambda x: x * 0, lambda x: x * 0 + 1e-3, BATCHES).passed


CONSTANT = {
    "zeros": lambda x: x * 0,
    "equal": lambda x: x * 0 + 3,
    "the same for every example": lambda x: x * 0 + np.arange(4),
    "saturated": lambda x: 1 - 1e-7 * x,
    "one number for each batch": lambda x: np.float32(7),
    "nothing": lambda x: (),
}


@pytest.mark.parametrize("name", CONSTANT)
@pytest.mark.parametrize("batches", [BATCHES, BATCHES[:1]])
def test_outputs_that_do_not_vary_with_the_input_prove_nothing(name, batches):
    proof = verify(CONSTANT[name], CONSTANT[name], batches)
    assert (proof.status, proof.passed) == ("not proved", False)
    assert proof.note == "the outputs do not vary with the input"


def test_outputs_without_a_batch_axis_vary_from_batch_to_batch():
    batches = [np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)]
    assert verify(lambda x: x.sum(), lambda x: x.sum(), batches).status == "proved"
    assert verify(lambda x: x.sum(), lambda x: x.sum(), batches[:1]).status == "not proved"


def test_a_small_output_beside_a_large_one_has_an_error_of_its_own():
    def network(x, factor=1.0):
        return {"large": x * 1e6, "small": x * 1e-6 * factor}

    proof = verify(network, lambda x: network(x, 1.01), BATCHES)
    assert proof.status == "failed"
    assert proof.max_rel_error == pytest.approx(0.01, rel=1e-3)


def test_the_tolerance_reported_is_that_of_the_worst_output():
    def network(x, error=0.0):
        return x.astype(jnp.bfloat16), x + error

    assert verify(network, network, BATCHES).tolerance == TOLERANCES["bfloat16"]
    proof = verify(network, lambda x: network(x, 0.1), BATCHES)
    assert (proof.status, proof.tolerance) == ("failed", TOLERANCES["float32"])


def test_outputs_of_another_shape_fail():
    assert verify(lambda x: x, lambda x: x[:, :1], BATCHES).status == "failed"


def test_an_error_as_large_as_what_the_input_changes_proves_nothing():
    """A logit of 1000 that moves by 0.05: half of that is within the tolerance of 1000."""
    proof = verify(lambda x: x * 5e-3 + 1000, lambda x: x * 2.5e-3 + 1000, BATCHES)
    assert (proof.status, proof.max_rel_error < proof.tolerance) == ("not proved", True)


def test_tolerance_follows_the_dtype_of_the_outputs():
    assert default_tolerance(jnp.bfloat16) > default_tolerance(np.float16) > default_tolerance(np.float32)
    assert default_tolerance(np.int32) == 0.0
    assert verify(lambda x: x.astype(jnp.bfloat16), lambda x: x.astype(jnp.bfloat16), BATCHES).tolerance == 0.0625
