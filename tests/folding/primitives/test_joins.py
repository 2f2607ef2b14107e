"""Pad, concatenate, split."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from folding.oracle import check_backward, check_fold, check_forward, conv, inputs, make, norm, relu

PADS = {
    "channels": ((0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 2, 0)),
    "cropped": ((0, 0, 0), (-1, 2, 0), (0, -1, 0), (0, 0, 0)),
    "interior": ((0, 0, 0), (0, 1, 2), (1, 0, 1), (0, 0, 0)),
    "space": ((0, 0, 0), (1, 2, 0), (0, 3, 0), (0, 0, 0)),
}


def pad(config, value=0.0):
    return lambda x: lax.pad(x, jnp.asarray(value, x.dtype), config)


@pytest.mark.parametrize("case", sorted(set(PADS) - {"channels"}))
def test_a_scale_moves_up_through_a_pad_and_the_shift_stays(case):
    result = check_backward(pad(PADS[case]))
    assert sorted(result.variables["params"]["bn"]) == ["shift"]


@pytest.mark.parametrize("value", [0.0, -1.5])
@pytest.mark.parametrize("case", sorted(set(PADS) - {"channels"}))
def test_an_affine_moves_down_through_a_pad(case, value):
    check_forward(pad(PADS[case], value))


def test_padded_channels_and_infinite_padding_are_kept():
    check_forward(pad(PADS["channels"]), reason="differs along a padded axis")
    check_backward(pad(PADS["channels"]), reason="differs along a padded axis")
    check_forward(lambda x: jnp.maximum(pad(PADS["space"], -jnp.inf)(x), 0), reason="padded with an infinite value")
    check_backward(pad(PADS["space"], 1.0), reason="padded with a value other than zero")


def test_bn_before_a_concatenation_folds_beside_parts_without_bn():
    variables = make(a=(3, 3, 3, 4), bn=4, b=(3, 3, 9, 2))

    def apply(v, x):
        y = norm(v, "bn", relu(conv(v, "a", x)))
        ones = jnp.ones((*y.shape[:-1], 2), y.dtype)
        return conv(v, "b", jnp.concatenate([x, y, ones], axis=-1))

    check_fold(apply, variables, inputs(2, 5, 4, 3), folded=["bn"], direction="forward")


def test_two_bn_before_one_concatenation():
    variables = make(a=(3, 3, 3, 4), bn1=4, bn2=3, b=(3, 3, 7, 2))

    def apply(v, x):
        parts = [norm(v, "bn2", relu(x)), norm(v, "bn1", relu(conv(v, "a", x)))]
        return conv(v, "b", jnp.concatenate(parts, axis=-1))

    check_fold(apply, variables, inputs(2, 5, 4, 3), folded=["bn2", "bn1"], direction="forward")


def test_bn_after_a_concatenation_needs_every_part():
    variables = make(a=(3, 3, 3, 4), b=(1, 1, 3, 2), bn=6, c=(1, 1, 3, 3))

    def all_parts(v, x):
        return relu(norm(v, "bn", jnp.concatenate([conv(v, "a", x), conv(v, "b", x)], axis=-1)))

    def not_all(v, x):
        return relu(norm(v, "bn", jnp.concatenate([relu(conv(v, "c", x)), conv(v, "c", x)], axis=-1)))

    result = check_fold(all_parts, variables, inputs(2, 5, 4, 3), folded=["bn"], direction="backward")
    assert set(result.report.norms[0].into) == {"a", "b"}
    check_fold(not_all, variables, inputs(2, 5, 4, 3), kept=["bn"])


def test_bn_after_a_concatenation_with_a_constant():
    variables = make(a=(3, 3, 3, 4), bn=6)
    grid = np.random.default_rng(0).normal(size=(1, 5, 4, 2))

    def apply(v, x):
        y = conv(v, "a", x)
        return relu(norm(v, "bn", jnp.concatenate([y[:1], grid], axis=-1)))

    check_fold(apply, variables, inputs(2, 5, 4, 3), folded=["bn"], direction="backward")


def test_bn_after_a_concatenation_with_a_constant_for_each_example_is_kept():
    variables = make(a=(3, 3, 3, 4), bn=6)

    def apply(v, x):
        y = conv(v, "a", x)
        return relu(norm(v, "bn", jnp.concatenate([y, jnp.ones((*y.shape[:-1], 2), y.dtype)], axis=-1)))

    result = check_fold(apply, variables, inputs(2, 5, 4, 3), kept=["bn"])
    assert "as long as the batch" in result.report.norms[0].reason


def test_a_split_gives_each_part_its_segment():
    def swap(x):
        first, second = jnp.split(x, [1], axis=-1)
        return jnp.concatenate([second, first], axis=-1)

    check_backward(swap)
    check_forward(swap)


def test_bn_on_one_part_of_a_split():
    variables = make(a=(3, 3, 3, 4), bn=3)

    def apply(v, x):
        first, second = jnp.split(conv(v, "a", x), [1], axis=-1)
        return jnp.concatenate([relu(first), relu(norm(v, "bn", second))], axis=-1)

    check_fold(apply, variables, inputs(2, 5, 4, 3), folded=["bn"], direction="backward")


def test_a_wide_concatenation_along_space():
    check_forward(lambda x: jnp.concatenate([x, x[:, ::-1]], axis=1))
