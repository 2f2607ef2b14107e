"""Operations that only move elements."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from bncli.folding.primitives.layout import factor_groups, reshaped
from bncli.folding.primitives.stuck import Stuck
from folding.oracle import check_backward, check_forward

COMMUTING = {
    "barrier": lambda x: lax.optimization_barrier((x, jnp.ones(2)))[0],
    "broadcast": lambda x: jnp.broadcast_to(x[:, :, :, None], (*x.shape[:3], 2, x.shape[3]))[:, :, :, 0],
    "cast": lambda x: (
        x.astype(jnp.float32).astype(x.dtype) if x.dtype == jnp.float32 else lax.reduce_precision(x, 11, 52)
    ),
    "channels first": lambda x: x.transpose(0, 3, 1, 2).transpose(0, 2, 3, 1),
    "channels reversed": lambda x: x[..., ::-1],
    "expand": lambda x: jnp.squeeze(jnp.expand_dims(x, (1, 3)) * 1.5, (1, 3)),
    "every other": lambda x: x[:, ::2, 1::2],
    "flip": lambda x: x[:, ::-1],
    "repeat": lambda x: jnp.broadcast_to(x[:, :, None], (*x.shape[:2], 2, *x.shape[2:])).reshape(
        x.shape[0], -1, *x.shape[2:]
    ),
    "no gradient": lax.stop_gradient,
    "space merged": lambda x: x.reshape(x.shape[0], 1, -1, x.shape[3]),
    "tile": lambda x: jnp.tile(x, (1, 2, 1, 1)),
    "wrap": lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="wrap"),
}


@pytest.mark.parametrize("case", sorted(set(COMMUTING) - {"wrap"}))
def test_an_affine_moves_up_through(case):
    check_backward(COMMUTING[case])


@pytest.mark.parametrize("case", sorted(COMMUTING))
def test_an_affine_moves_down_through(case):
    check_forward(COMMUTING[case])


def test_channels_that_end_up_elsewhere():
    """One transpose and not two: a permutation that is not its own inverse would show only here."""
    check_backward(lambda x: x.transpose(0, 3, 1, 2), axis=1)
    check_forward(lambda x: x.transpose(0, 2, 3, 1), (2, 3, 6, 4), axis=1)


def test_a_sliced_convolution_leaves_the_other_channels_alone():
    check_backward(lambda x: x[..., 1:3])
    check_forward(lambda x: x[..., 1:3])


def test_channels_split_into_groups_and_shuffled():
    def shuffle(x):
        return x.reshape(*x.shape[:3], 2, -1).swapaxes(3, 4).reshape(x.shape)

    check_backward(shuffle)
    check_forward(shuffle, (2, 6, 4, 4))


def test_bn_after_flattening_folds_where_space_is_one_position():
    check_backward(lambda x: x.mean((1, 2), keepdims=True).reshape(x.shape[0], -1))


def test_channels_merged_with_the_batch_are_kept():
    check_forward(
        lambda x: x.transpose(3, 0, 1, 2).reshape(-1, *x.shape[1:3], 1), reason="merges its channels with the batch"
    )


def test_tiled_channels_repeat_an_affine():
    check_forward(lambda x: jnp.tile(x, (1, 1, 1, 2)))
    check_backward(lambda x: jnp.tile(x, (1, 1, 1, 2)), reason="differs along an axis that a broadcast")


def test_a_statistic_of_a_broadcast_axis_is_kept():
    check_backward(
        lambda x: jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape), reason="differs along an axis that a broadcast"
    )


@pytest.mark.parametrize(
    ("shape", "new_shape", "groups"),
    [
        ((2, 2, 2, 8), (2, 32), [((0,), (0,)), ((1, 2, 3), (1,))]),
        ((5, 6), (5, 2, 3), [((0,), (0,)), ((1,), (1, 2))]),
        ((5, 1, 6), (5, 6), [((0, 1), (0,)), ((2,), (1,))]),
        ((4, 6), (6, 4), [((0, 1), (0, 1))]),
        ((2, 3, 5), (6, 5), [((0, 1), (0,)), ((2,), (1,))]),
        ((1, 1), (), [((0, 1), ())]),
    ],
)
def test_axes_fall_into_groups_of_equal_products(shape, new_shape, groups):
    assert [(tuple(a), tuple(b)) for a, b in factor_groups(shape, new_shape)] == groups


def test_axes_of_unknown_length_fall_into_groups_too():
    """Their products have no order that JAX knows: a batch of `b` may be one of 1."""
    b, h = export.symbolic_shape("b, h")
    groups = factor_groups((b, h, 4, 1), (1, b, 4 * h))
    assert [(tuple(ins), tuple(outs)) for ins, outs in groups] == [((), (0,)), ((0,), (1,)), ((1, 2, 3), (2,))]


def test_a_reshape_repeats_an_array_only_where_it_has_to():
    channels = np.arange(3.0).reshape(1, 1, 3)
    flat = reshaped(channels, (4, 2, 3), (4, 6), frozenset({0}), frozenset({0}))
    np.testing.assert_array_equal(flat, [[0, 1, 2, 0, 1, 2]])
    assert isinstance(reshaped(channels, (4, 2, 3), (24,), frozenset({0}), frozenset({0})), Stuck)
