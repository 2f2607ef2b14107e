"""Networks that must not be folded."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.errors import FoldError
from bncli.folding import fold, verify
from folding.nets import Classic, trained
from folding.oracle import check_fold, conv, inputs, make, norm, relu

X = inputs(2, 8, 8, 3).astype(np.float32)


@pytest.mark.parametrize(
    ("statistic", "value", "message"),
    [
        ("mean", np.nan, "BatchNorm_3: 1 of 6 numbers in its 'mean' statistics are not finite"),
        ("var", np.inf, "BatchNorm_3: 1 of 6 numbers in its 'var' statistics are not finite"),
        ("var", -0.25, "BatchNorm_3: its running variance is negative (-0.25)"),
    ],
)
def test_bad_statistics_are_refused_by_name(statistic, value, message):
    model = Classic()
    variables = trained(model, X)
    stats = variables["batch_stats"]["BatchNorm_3"]
    stats[statistic] = stats[statistic].at[2].set(value)
    with pytest.raises(FoldError) as error:
        fold(model.apply, variables, X)
    assert error.value.message == message
    assert error.value.remedy


@pytest.mark.parametrize("variance", [65504.0, 1e5, 1e30])
def test_a_large_variance_of_a_float16_network_is_read_in_its_own_precision(variance):
    """float16 ends at 65504: the statistics are float32, and γ/√(σ²+ε) is computed in float64."""

    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), dtype=jnp.float16, param_dtype=jnp.float16)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True, dtype=jnp.float16)(x))
            return nn.Dense(5, dtype=jnp.float16)(x.mean((1, 2)))

    model = Half()
    variables = trained(model, X)
    stats = variables["batch_stats"]["BatchNorm_0"]
    assert stats["var"].dtype == jnp.float32
    stats["var"] = stats["var"].at[0].set(variance)
    kernel = np.asarray(variables["params"]["Conv_0"]["kernel"][..., 0], np.float64)
    gain = np.float64(variables["params"]["BatchNorm_0"]["scale"][0]) / np.sqrt(np.float64(np.float32(variance)) + 1e-5)
    result = fold(model.apply, variables, X)
    assert verify(lambda x: model.apply(variables, x), result, [X]).passed
    np.testing.assert_array_equal(
        result.variables["params"]["Conv_0"]["kernel"][..., 0], (kernel * gain).astype(np.float16)
    )


def test_a_float16_variance_that_has_become_infinite_is_refused_by_name():
    model = Classic()
    variables = trained(model, X)
    stats = variables["batch_stats"]["BatchNorm_2"]
    stats["var"] = stats["var"].at[1].set(1e5).astype(jnp.float16)
    with pytest.raises(FoldError, match=r"^BatchNorm_2: 1 of 6 numbers in its 'var' statistics are not finite"):
        fold(model.apply, variables, X)


class TrainMode(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.relu(nn.BatchNorm(use_running_average=False, name="first")(nn.Conv(4, (3, 3))(x)))
        return nn.BatchNorm(use_running_average=not train, name="second")(nn.Conv(4, (3, 3))(x))


@pytest.mark.parametrize("returned", ["outputs", "outputs and statistics"])
@pytest.mark.parametrize("use_scale", [True, False])
def test_train_mode_is_refused_by_name(returned, use_scale):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False, use_scale=use_scale, use_bias=use_scale)(
                nn.Conv(4, (3, 3))(x)
            )

    model = Net()
    variables = trained(model, X)

    def apply(v, x):
        outputs, updates = model.apply(v, x, mutable=["batch_stats"])
        return (outputs, updates) if "statistics" in returned else outputs

    with pytest.raises(FoldError, match=r"^BatchNorm_0 normalises with the statistics of the batch"):
        fold(apply, variables, X)


def test_one_layer_in_train_mode_is_enough():
    model = TrainMode()
    variables = trained(model, X)

    def apply(v, x):
        return model.apply(v, x, train=False, mutable=["batch_stats"])[0]

    with pytest.raises(FoldError, match=r"^first normalises"):
        fold(apply, variables, X)


def test_a_layer_that_the_network_does_not_use_is_no_concern():
    variables = make(a=(3, 3, 3, 4), bn=4, unused=5)
    check_fold(lambda v, x: relu(norm(v, "bn", conv(v, "a", x))), variables, X, folded=["bn"])


def test_a_network_of_one_example_is_not_in_train_mode():
    variables = make(a=(3, 3, 3, 4), bn=4)
    check_fold(lambda v, x: relu(norm(v, "bn", conv(v, "a", x[:1]))), variables, X, folded=["bn"])


def test_an_overflow_in_the_target_dtype_is_refused_by_name():
    variables = make(a=(3, 3, 3, 4), bn=4)
    variables["params"]["bn"]["scale"] = np.full(4, 1e4)
    half = {
        "params": {
            "a": {"kernel": (variables["params"]["a"]["kernel"] * 100).astype(np.float16)},
            "bn": {name: array.astype(np.float32) for name, array in variables["params"]["bn"].items()},
        },
        "batch_stats": {"bn": {"mean": np.zeros(4, np.float32), "var": np.full(4, 1e-4, np.float32)}},
    }

    def apply(v, x):
        y = conv(v, "a", x.astype(jnp.float16))
        return relu(norm(v, "bn", y.astype(jnp.float32)))

    with pytest.raises(FoldError, match=r"^a: its folded kernel does not fit into float16"):
        fold(apply, half, X)
