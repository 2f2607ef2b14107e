"""Sums, products and choices of dynamic values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from folding.oracle import check_backward, check_fold, check_forward, conv, dense, inputs, make, norm, relu

X = inputs(2, 5, 4, 3)


@pytest.mark.parametrize("operation", [jnp.add, jnp.subtract])
def test_bn_after_a_sum_of_two_convolutions(operation):
    variables = make(a=(3, 3, 3, 4), b=(1, 1, 3, 4), bn=4)
    result = check_fold(
        lambda v, x: relu(norm(v, "bn", operation(conv(v, "a", x), conv(v, "b", x)))), variables, X, folded=["bn"]
    )
    assert set(result.report.norms[0].into) == {"a", "b"}


@pytest.mark.parametrize("operation", [jnp.add, jnp.subtract, lambda a, b: b - a])
def test_a_shift_moves_on_through_a_sum_but_a_scale_does_not(operation):
    variables = make(bn=3, a=(3, 3, 3, 2))

    def apply(v, x):
        return conv(v, "a", operation(norm(v, "bn", relu(x)), jnp.tanh(x)))

    result = check_fold(apply, variables, X, kept=["bn"])
    assert "does not have its scale" in result.report.norms[0].reason
    variables["params"]["bn"]["scale"] = np.sqrt(variables["batch_stats"]["bn"]["var"] + 1e-3)
    check_fold(apply, variables, X, folded=["bn"], direction="forward")


def test_one_bn_on_both_sides_of_a_sum():
    check_forward(lambda x: x + x[:, ::-1])
    check_forward(lambda x: x - x[:, ::-1])


def test_a_sum_with_a_broadcast_value():
    variables = make(a=(3, 3, 3, 4), b=(3, 4), c=(3, 1), bn=4)

    def gate(v, x):
        return relu(norm(v, "bn", conv(v, "a", x) + dense(v, "b", x.mean((1, 2)))[:, None, None, :]))

    def over_channels(v, x):
        return relu(norm(v, "bn", conv(v, "a", x) + dense(v, "c", x.mean((1, 2)))[:, None, None, :]))

    check_fold(gate, variables, X, folded=["bn"], direction="backward")
    check_fold(over_channels, variables, X, kept=["bn"])


def test_a_gate_lets_a_pure_scale_through():
    """Squeeze and excite: (x·s)·g = (x·g)·s; a shift would be gated too."""
    variables = make(a=(3, 3, 3, 4), bn=4, b=(3, 3, 4, 2))
    del variables["params"]["bn"]["bias"]

    def before(v, x):
        return conv(v, "b", norm(v, "bn", relu(conv(v, "a", x))) * jax.nn.sigmoid(x.mean(-1, keepdims=True)))

    def after(v, x):
        return relu(norm(v, "bn", conv(v, "a", x) * jax.nn.sigmoid(x.mean(-1, keepdims=True))))

    for apply in (before, after):
        result = check_fold(apply, variables, X, kept=["bn"])
        assert "a product of two values" in result.report.norms[0].reason
    variables["batch_stats"]["bn"]["mean"] = np.zeros(4)
    for apply in (before, after):
        check_fold(apply, variables, X, folded=["bn"])


def test_a_quotient_of_two_dynamic_values():
    variables = make(a=(3, 3, 3, 4), bn=4, b=(3, 3, 4, 2))
    del variables["params"]["bn"]["bias"]
    variables["batch_stats"]["bn"]["mean"] = np.zeros(4)

    def numerator(v, x):
        return conv(v, "b", norm(v, "bn", relu(conv(v, "a", x))) / (1 + x.mean(-1, keepdims=True) ** 2))

    def denominator(v, x):
        return conv(v, "b", x.mean(-1, keepdims=True) / norm(v, "bn", jnp.exp(conv(v, "a", x))))

    check_fold(numerator, variables, X, folded=["bn"])
    variables["params"]["bn"]["scale"] = np.array([1.0, -2.0, 0.5, 3.0])
    check_fold(denominator, variables, X, folded=["bn"])


def test_a_positive_scale_passes_a_leaky_relu():
    def apply(v, x):
        return conv(v, "b", jax.nn.leaky_relu(norm(v, "bn", jnp.tanh(x)[..., :1])))

    variables = make(bn=1, b=(3, 3, 1, 2))
    variables["params"]["bn"] = {"scale": np.array([0.7])}
    variables["batch_stats"]["bn"]["mean"] = np.zeros(1)
    check_fold(apply, variables, X, folded=["bn"], direction="forward")
    variables["params"]["bn"] = {"scale": np.array([-0.7])}
    result = check_fold(apply, variables, X, kept=["bn"])
    assert "after it, a LeakyReLU stands in the way" in result.report.norms[0].reason


def test_a_choice_between_values():
    mask = np.random.default_rng(0).random((5, 4, 1)) > 0.5
    variables = make(a=(3, 3, 3, 4), b=(3, 3, 3, 4), bn=4, c=(3, 3, 4, 2))

    def of_two(v, x):
        return relu(norm(v, "bn", jnp.where(mask, conv(v, "a", x), conv(v, "b", x))))

    def of_one_bn(v, x):
        y = norm(v, "bn", relu(conv(v, "a", x)))
        return conv(v, "c", jnp.where(mask, y, y[:, ::-1]))

    check_fold(of_two, variables, X, folded=["bn"], direction="backward")
    check_fold(of_one_bn, variables, X, folded=["bn"], direction="forward")


def test_a_choice_between_two_bn_is_kept():
    """Each case has its own scale, and the choice's readers could undo only one."""
    mask = np.random.default_rng(0).random((5, 4, 1)) > 0.5
    variables = make(bn1=3, bn2=3, c=(3, 3, 3, 2))

    def apply(v, x):
        return conv(v, "c", jnp.where(mask, norm(v, "bn1", relu(x)), norm(v, "bn2", relu(x))))

    result = check_fold(apply, variables, X, kept=["bn1", "bn2"])
    assert "replaced by another value in places" in result.report.norms[0].reason


def test_a_choice_of_a_constant_is_kept():
    mask = np.random.default_rng(0).random((6, 4, 1)) > 0.5
    check_backward(lambda x: jnp.where(mask, x, 0.0), reason="replaced by a constant")
    check_forward(lambda x: jnp.where(mask, x, 0.0), reason="replaced by another value")
