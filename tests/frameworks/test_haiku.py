"""Functions transformed by Haiku: one call folds them, with one row for each BN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bncli
from bncli.errors import FoldError
from frameworks.oracle import IMAGES as X
from frameworks.oracle import check, numbers

hk = pytest.importorskip("haiku", reason="Haiku is not installed")


def norm(x, is_training, **names):
    return hk.BatchNorm(True, True, 0.9, **names)(x, is_training)


def resnet(x, is_training):
    x = jax.nn.relu(norm(hk.Conv2D(4, 3, with_bias=False)(x), is_training))
    for number in range(2):
        y = jax.nn.relu(norm(hk.Conv2D(4, 3, name=f"block{number}_a")(x), is_training, name=f"bn{number}_a"))
        x = jax.nn.relu(x + norm(hk.Conv2D(4, 3, name=f"block{number}_b")(y), is_training, name=f"bn{number}_b"))
    return hk.Linear(3)(x.mean((1, 2)))


class Separable(hk.Module):
    """Nested modules, whose names have slashes and tildes in them."""

    def __call__(self, x, *, train):
        x = jax.nn.relu6(norm(hk.Conv2D(6, 1)(x), train))
        x = jax.nn.relu6(norm(hk.DepthwiseConv2D(1, 3, 2)(x), train))
        return norm(hk.Conv2D(3, 1)(x), train)


def mobilenet(x, train):
    return hk.Linear(3)(Separable(name="separable")(x, train=train).mean((1, 2)))


def preactivation(x, mode):
    """Its argument has a name of its own."""
    x = hk.Conv2D(4, 3)(x)
    y = hk.Conv2D(4, 3)(jax.nn.relu(norm(x, mode)))
    return x + hk.Conv2D(4, 3)(jax.nn.relu(norm(y, mode)))


def made(function, *mode):
    """The transformed function with params and state of a trained one."""
    transformed = hk.transform_with_state(function)
    params, state = transformed.init(jax.random.key(0), X, *mode)
    rng = np.random.default_rng(1)
    for name, arrays in state.items():
        kind = "var" if name.endswith("var_ema") else "mean"
        arrays["average"] = jnp.asarray(numbers(arrays["average"].shape, kind, rng))
    return transformed, params, state


MOBILENET = ["separable/batch_norm", "separable/batch_norm_1", "separable/batch_norm_2"]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("function", "mode", "folded", "kept"),
    [
        (resnet, (True,), ["batch_norm", "bn0_a", "bn0_b", "bn1_a", "bn1_b"], []),
        pytest.param(mobilenet, (True,), MOBILENET, [], marks=pytest.mark.broad),
        (preactivation, (True,), ["batch_norm_1"], ["batch_norm"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_call_folds_a_function(function, mode, folded, kept):
    transformed, params, state = made(function, *mode)

    def call(x):
        return transformed.apply(params, state, None, x, *(not value for value in mode))[0]

    check(transformed, call, X, arrays=(params, state), folded=folded, kept=kept)


def test_a_function_without_a_key_is_folded_as_well():
    transformed, params, state = made(resnet, True)
    report = bncli.fold(hk.without_apply_rng(transformed), params, state, X, include=["bn0_*"]).report
    assert [row.name for row in report.norms if row.status == "folded"] == ["bn0_a", "bn0_b"]


def test_train_mode_is_named_and_never_folded():
    transformed, params, state = made(lambda x: norm(hk.Conv2D(4, 3)(x), True))
    with pytest.raises(FoldError, match="batch_norm updates its state: the function is called in train mode") as error:
        bncli.fold(transformed, params, state, X)
    assert "is_training=False" in error.value.remedy


def test_a_function_that_takes_no_such_input_says_so():
    transformed, params, state = made(resnet, True)
    with pytest.raises(FoldError, match="the function cannot be called with the example"):
        bncli.fold(transformed, params, state, X[0, 0])
