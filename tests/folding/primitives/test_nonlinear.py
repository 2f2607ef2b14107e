"""Nonlinearities let nothing through, with one exception."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from folding.oracle import check_backward, check_fold, check_forward, conv, inputs, make, norm, relu

REASONS = {
    "a ReLU stands in the way": relu,
    "a clip stands in the way": lambda x: jnp.minimum(x, 6.0),
    "a maximum of two values stands in the way": lambda x: jnp.maximum(x, x[:, ::-1]),
    "a running sum stands in the way": lambda x: jnp.cumsum(x, axis=1),
    "a sigmoid stands in the way": jax.nn.sigmoid,
    "a tanh stands in the way": jnp.tanh,
    "an absolute value stands in the way": jnp.abs,
    "it is compared with another value": lambda x: jnp.where(x > 1, x, x * 0.5),
    "it is converted to integers": lambda x: x.astype(jnp.int32).astype(x.dtype),
    "sin stands in the way, for which there is no fold rule": jnp.sin,
}


@pytest.mark.parametrize("reason", [r for r in REASONS if "compared" not in r])
def test_bn_behind_a_nonlinearity_is_kept_with_the_reason(reason):
    check_backward(REASONS[reason], reason=reason)


@pytest.mark.parametrize("reason", REASONS)
def test_bn_in_front_of_a_nonlinearity_is_kept_with_the_reason(reason):
    check_forward(REASONS[reason], reason=reason)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_positive_scale_passes_a_relu(side):
    variables = make(a=(3, 3, 3, 4), bn=4, b=(3, 3, 4, 2))
    variables["params"]["bn"] = {"scale": np.array([0.5, 1.0, 2.0, 1e-3])}
    variables["batch_stats"]["bn"]["mean"] = np.zeros(4)

    def apply(v, x):
        x = jnp.tanh(x)
        if side == "after":
            return jnp.tanh(norm(v, "bn", relu(conv(v, "a", x))))
        return conv(v, "b", relu(norm(v, "bn", jnp.concatenate([x, x[..., :1]], -1))))

    x = inputs(2, 5, 4, 3)
    check_fold(apply, variables, x, folded=["bn"], direction="backward" if side == "after" else "forward")
    variables["params"]["bn"]["scale"] = np.array([0.5, -1.0, 2.0, 1e-3])
    check_fold(apply, variables, x, kept=["bn"])
    variables["params"]["bn"] = {"scale": np.array([0.5, 1.0, 2.0, 1e-3]), "bias": np.array([0.5, 0.0, -1.0, 0.0])}
    check_fold(apply, variables, x, kept=["bn"])


def test_a_positive_scale_does_not_pass_a_clip():
    variables = make(bn=3, b=(3, 3, 3, 2))
    variables["params"]["bn"] = {"scale": np.array([0.5, 1.0, 2.0])}
    variables["batch_stats"]["bn"]["mean"] = np.zeros(3)

    def apply(v, x):
        return conv(v, "b", jnp.maximum(norm(v, "bn", jnp.tanh(x)), 0.1))

    result = check_fold(apply, variables, inputs(2, 5, 4, 3), kept=["bn"])
    assert "after it, a clip stands in the way" in result.report.norms[0].reason


def test_an_unlisted_operation_is_named():
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        return norm(v, "bn", jnp.sin(conv(v, "a", x)))

    result = check_fold(apply, variables, inputs(2, 5, 4, 3), kept=["bn"])
    assert "before it, sin stands in the way, for which there is no fold rule" in result.report.norms[0].reason
