"""Pools and reductions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from folding.oracle import check_backward, check_fold, check_forward, conv, dense, inputs, make, norm, relu


def max_pool(x, padding="VALID", window=(2, 3), strides=(2, 1)):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding)


def min_pool(x):
    return lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 3, 1), (1, 2, 1, 1), "SAME")


def sum_pool(x, padding, **options):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 3, 1), (1, 2, 1, 1), padding, **options)


def average_pool(x, padding):
    """Flax's `count_include_pad=False`: divided by what is really in the window."""
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return sum_pool(x, padding) / sum_pool(ones, padding)


POOLS = {
    "average, counted": lambda x: average_pool(x, "SAME"),
    "average, padded": lambda x: sum_pool(x, "SAME") / 6.0,
    "average, unpadded": lambda x: average_pool(x, "VALID"),
    "by reshape": lambda x: x.reshape(x.shape[0], 3, 2, 2, 2, x.shape[3]).max(axis=(2, 4)),
    "global max": lambda x: x.max(axis=(1, 2)),
    "global mean": lambda x: x.mean(axis=(1, 2)),
    "global sum kept": lambda x: x.sum(axis=(1, 2), keepdims=True),
    "max": max_pool,
    "max, padded": lambda x: max_pool(x, "SAME"),
    "min": min_pool,
    "min of space": lambda x: x.min(axis=2),
    "sum, base dilated": lambda x: sum_pool(x, "VALID", base_dilation=(1, 2, 1, 1)),
    "sum, lopsided": lambda x: sum_pool(x, ((0, 0), (1, 0), (0, 2), (0, 0))),
    "sum, window dilated": lambda x: sum_pool(x, "SAME", window_dilation=(1, 2, 1, 1)),
}


@pytest.mark.parametrize("case", POOLS)
def test_bn_after_a_pool(case):
    check_backward(POOLS[case])


@pytest.mark.parametrize("case", POOLS)
def test_bn_before_a_pool(case):
    check_forward(POOLS[case])


def test_all_positive_scales_leave_no_sign():
    variables = make(a=(3, 3, 3, 4), bn=4)
    variables["params"]["bn"]["scale"] = np.array([0.5, 0.0, 1.0, 2.0])
    result = check_fold(lambda v, x: relu(norm(v, "bn", max_pool(conv(v, "a", x)))), variables, inputs(2, 6, 4, 3))
    assert "bn" not in result.variables["params"]


def test_a_positional_shift_does_not_pass_a_max_pool():
    def padded_then_pooled(x):
        return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))

    check_forward(padded_then_pooled, reason="shift differs within a max-pool's window")


def test_a_masked_shift_does_not_pass_a_max_pool():
    mask = np.random.default_rng(0).normal(size=(6, 4, 1))
    variables = make(bn=3, a=(3, 3, 3, 2), c=(3 * 2 * 3, 4))

    def apply(v, x):
        return dense(
            v, "c", max_pool(norm(v, "bn", relu(x)) * mask, window=(2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        )

    result = check_fold(apply, variables, inputs(2, 6, 4, 3), kept=["bn"])
    assert "shift differs" in result.report.norms[0].reason


def test_a_reduction_over_the_batch_is_kept():
    check_forward(lambda x: x - x.mean(axis=0, keepdims=True), reason="pooled over the batch")


def test_a_reduction_over_channels_is_kept():
    check_forward(lambda x: x.mean(axis=-1, keepdims=True), reason="its scale differs within a pooling window")
    check_forward(lambda x: x.max(axis=-1, keepdims=True), reason="its scale differs within a pooling window")
