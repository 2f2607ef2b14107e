"""`bncli.fold` on a linen module, and on what is no network."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bncli
from bncli.errors import FoldError, UsageError
from frameworks.oracle import IMAGES as X
from frameworks.oracle import check, same


class Boxed(nn.Module):
    """Variables in the boxes of logical partitioning, and an argument for the mode."""

    @nn.compact
    def __call__(self, x, training):
        kernel_init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, None, None, "c"))
        x = nn.Conv(4, (3, 3), use_bias=False, kernel_init=kernel_init)(x)
        scale_init = nn.with_logical_partitioning(nn.initializers.normal(1), ("c",))
        return nn.relu(nn.BatchNorm(use_running_average=not training, scale_init=scale_init)(x))


def made():
    variables = Boxed().init(jax.random.key(0), X, training=True)
    stats = {"mean": jnp.arange(4.0), "var": jnp.arange(1.0, 5.0)}
    return {**variables, "batch_stats": {"BatchNorm_0": stats}}


def test_a_linen_module_is_called_in_eval_mode_with_unboxed_variables():
    variables = made()
    plain = nn.meta.unbox(variables)
    result = check(
        Boxed(), lambda x: Boxed().apply(plain, x, training=False), X, arrays=(variables,), folded=["BatchNorm_0"]
    )
    assert set(result.variables["params"]["Conv_0"]) == {"kernel", "bias"}
    with pytest.raises(FoldError, match="there is no module to give back"):
        _ = result.module


def test_arguments_may_go_by_name():
    named = bncli.fold(Boxed(), variables=made(), example=X)
    same(bncli.fold(Boxed(), made(), X)(X), named(X))


def test_a_linen_module_is_recalibrated_in_eval_mode():
    new = bncli.recalibrate(Boxed(), made(), [X[:1], X[1:]])
    kernel = nn.meta.unbox(new)["params"]["Conv_0"]["kernel"]
    inputs = np.asarray(nn.Conv(4, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, X), np.float64)
    np.testing.assert_allclose(new["batch_stats"]["BatchNorm_0"]["mean"], inputs.mean((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message", "remedy"),
    [
        (lambda: bncli.fold(Boxed(), X), "of a linen module needs example", "bncli.fold(network, variables, example)"),
        (
            lambda: bncli.fold(jnp.tanh, made()),
            "of a function needs example",
            "bncli.fold(apply_fn, variables, example)",
        ),
        (
            lambda: bncli.recalibrate(Boxed(), [X]),
            "of a linen module needs batches",
            "bncli.recalibrate(network, variables, batches)",
        ),
    ],
)
def test_a_missing_argument_is_answered_with_the_call(call, message, remedy):
    with pytest.raises(UsageError, match=message) as error:
        call()
    assert remedy in error.value.remedy
