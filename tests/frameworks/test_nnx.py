"""NNX modules: one call folds them, measures them and gives them back without BN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bncli
from bncli.errors import FoldError, UsageError
from frameworks.oracle import IMAGES as X
from frameworks.oracle import bits, check, numbers, same

nnx = pytest.importorskip("flax.nnx", reason="NNX of Flax 0.12.0 does not import beside JAX 0.10", exc_type=ImportError)


class ResBlock(nnx.Module):
    def __init__(self, width, rngs):
        self.conv1 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(x + self.bn2(self.conv2(y)))


class ResNet(nnx.Module):
    """As bonsai writes one: blocks in a list, a stem, a head with dropout."""

    def __init__(self, rngs):
        self.stem = nnx.Sequential(
            nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.relu
        )
        self.layers = nnx.List([ResBlock(4, rngs), ResBlock(4, rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.fc(self.dropout(x.mean((1, 2))))


class MobileNet(nnx.Module):
    def __init__(self, rngs):
        self.expand = nnx.Conv(3, 6, (1, 1), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(6, rngs=rngs)
        self.depthwise = nnx.Conv(6, 6, (3, 3), strides=2, feature_group_count=6, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(6, use_scale=False, rngs=rngs)
        self.project = nnx.Conv(6, 3, (1, 1), rngs=rngs)
        self.bn3 = nnx.BatchNorm(3, use_bias=False, rngs=rngs)
        self.fc = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu6(self.bn1(self.expand(x)))
        x = jax.nn.relu6(self.bn2(self.depthwise(x)))
        return self.fc(self.bn3(self.project(x)).mean((1, 2)))


class PreActivation(nnx.Module):
    """BN in front of each ReLU: the first reads a sum that the shortcut reads too."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bn1 = nnx.BatchNorm(4, rngs=rngs)
        self.conv1 = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.bn2 = nnx.BatchNorm(4, rngs=rngs)
        self.conv2 = nnx.Conv(4, 4, (3, 3), rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        y = self.conv1(nnx.relu(self.bn1(x)))
        return x + self.conv2(nnx.relu(self.bn2(y)))


def made(cls):
    """A module in eval mode with the numbers of a trained one."""
    module = cls(nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for _, norm in nnx.iter_modules(module):
        if isinstance(norm, nnx.BatchNorm):
            for name in ("mean", "var", "scale", "bias"):
                variable = getattr(norm, name)
                if variable is not None:
                    variable.set_value(jnp.asarray(numbers(variable.get_value().shape, name, rng)))
    module.eval()
    return module


RESNET_NORMS = ["stem/layers/1", "layers/0/bn1", "layers/0/bn2", "layers/1/bn1", "layers/1/bn2"]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("cls", "folded", "kept"),
    [(ResNet, RESNET_NORMS, []), (MobileNet, ["bn1", "bn2", "bn3"], []), (PreActivation, ["bn2"], ["bn1"])],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_call_folds_a_module_and_gives_it_back_without_bn(cls, folded, kept):
    module = made(cls)
    result = check(module, module, X, folded=folded, kept=kept)
    without = result.module
    same(module(X), without(X))
    assert sum(isinstance(inner, nnx.BatchNorm) for _, inner in nnx.iter_modules(without)) == len(kept)
    same(module(X), result(X))


@pytest.mark.parametrize("mode", ["norm", "dropout"])
def test_train_mode_is_named_and_never_folded(mode):
    module = made(ResNet)
    if mode == "norm":
        module.layers[1].bn2.use_running_average = False
    else:
        module.dropout.deterministic = False
    with pytest.raises(
        FoldError, match="layers/1/bn2 updates" if mode == "norm" else "dropout.* draws random"
    ) as error:
        bncli.fold(module, X)
    assert "model.eval()" in error.value.remedy


def test_rows_go_by_the_names_of_the_user_and_patterns_take_them():
    report = bncli.fold(made(ResNet), X, exclude=["layers/*/bn1"], verify=False).report
    assert [row.name for row in report.norms if row.status == "kept"] == ["layers/0/bn1", "layers/1/bn1"]


def test_several_inputs_are_a_tuple():
    class Two(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = ResBlock(3, rngs), nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x, y):
            return {"sum": self.a(x) + y, "norm": self.b(y)}

    module = made(Two)
    outputs = bncli.fold(module, (X, X + 1))((X, X + 1))
    expected = module(X, X + 1)
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        same(array, outputs[name])


def test_a_folded_array_without_a_place_in_the_module_is_named():
    """BN → a convolution that pads with zeros needs a bias that differs at the borders."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.bn = nnx.BatchNorm(3, rngs=rngs)
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)

        def __call__(self, x):
            return self.conv(self.bn(x))

    module = made(Net)
    result = check(module, module, X, folded=["bn"], exports=False)
    with pytest.raises(FoldError, match="conv/bias varies by position"):
        _ = result.module


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [((), {}, "needs example"), ((X, 1), {}, "takes fewer arguments"), ((X,), {"state": 1}, "takes no state")],
)
def test_a_wrong_call_is_answered_with_the_right_one(arguments, keywords, message):
    with pytest.raises(UsageError, match=f"of an NNX module {message}") as error:
        bncli.fold(made(PreActivation), *arguments, **keywords)
    assert error.value.remedy == "call bncli.fold(network, example)"


def test_each_call_leaves_the_module_and_its_mode_as_they_are():
    """Over its whole state: arrays, counters of random numbers, and the flags of its layers."""
    module = ResNet(nnx.Rngs(0))
    module.train()

    def whole():
        graphdef, state = nnx.split(module)
        return graphdef, bits(state)

    before = whole()
    bncli.inspect_stats(module)
    bncli.recalibrate(module, [X, -X])
    report = bncli.inspect_stats(module, data=[X, -X])
    with pytest.raises(FoldError, match="train mode"):
        bncli.fold(module, X)
    assert whole() == before
    module.eval()
    before = whole()
    bncli.fold(module, X).module  # noqa: B018 - it is made at the first access
    assert whole() == before
    assert [layer.name for layer in report.data.layers] == RESNET_NORMS
    assert report.data.num_examples == 2 * len(X)
    assert all(abs(layer.drift.worst_std_ratio - 1) > 0.01 for layer in report.data.layers)
    assert np.isnan(report.data.running.accuracy)


def test_data_for_a_network_are_batches(tmp_path):
    module = made(MobileNet)
    for data in ("digits", True, 3):
        with pytest.raises(UsageError, match="cannot run a network on"):
            bncli.inspect_stats(module, data=data)
    with pytest.raises(UsageError, match="read only once"):
        bncli.inspect_stats(module, data=iter([X]))
    with pytest.raises(UsageError, match="describe the network of a file"):
        bncli.inspect_stats(module, input_shape=(8, 8, 3))
    with pytest.raises(UsageError, match="cannot be run on data"):
        bncli.inspect_stats({"batch_stats": {"bn": {"mean": np.zeros(3), "var": np.ones(3)}}}, data=[X])
