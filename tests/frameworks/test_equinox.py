"""Equinox models: one call folds them, measures them and gives them back without BN."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import bncli
from bncli.errors import FoldError
from bncli.folding import NothingToFoldWarning
from frameworks.oracle import IMAGES, check, same

eqx = pytest.importorskip("equinox", reason="Equinox is not installed")

X = np.moveaxis(IMAGES, -1, 1)  # [B, C, H, W]


class ResNet(eqx.Module):
    """Blocks of convolutions in lists, each with a state that goes through them."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    blocks: list[eqx.nn.Sequential]
    dropout: eqx.nn.Dropout
    fc: eqx.nn.Linear

    def __init__(self, key, mode="batch"):
        keys = jax.random.split(key, 4)
        self.stem = conv(3, 4, keys[0])
        self.norm = norm(4, mode)
        layers = [[conv(4, 4, key), norm(4, mode), eqx.nn.Lambda(jax.nn.relu)] for key in keys[1:3]]
        self.blocks = [eqx.nn.Sequential(block) for block in layers]
        self.dropout = eqx.nn.Dropout(0.5)
        self.fc = eqx.nn.Linear(4, 3, key=keys[3])

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.stem(x), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            y, state = block(x, state)
            x = x + y
        return self.fc(self.dropout(x.mean((1, 2)), key=key)), state


class MobileNet(eqx.Module):
    layers: eqx.nn.Sequential

    def __init__(self, key, mode="batch"):
        keys = jax.random.split(key, 3)
        depthwise = eqx.nn.Conv2d(6, 6, 3, 2, 1, groups=6, use_bias=False, key=keys[1])
        project = eqx.nn.Conv2d(6, 3, 1, key=keys[2])
        relu6 = eqx.nn.Lambda(jax.nn.relu6)
        norms = [eqx.nn.BatchNorm(6, "batch", channelwise_affine=False, mode=mode), norm(6, mode), norm(3, mode)]
        self.layers = eqx.nn.Sequential(
            [eqx.nn.Conv2d(3, 6, 1, key=keys[0]), norms[0], relu6, depthwise, norms[1], relu6, project, norms[2]]
        )

    def __call__(self, x, state, *, key=None):
        x, state = self.layers(x, state)
        return x.mean((1, 2)), state


class PreActivation(eqx.Module):
    convs: tuple[eqx.nn.Conv2d, ...]
    norms: dict[str, eqx.nn.BatchNorm]

    def __init__(self, key, mode="batch"):
        keys = jax.random.split(key, 3)
        self.convs = (conv(3, 4, keys[0]), conv(4, 4, keys[1]), conv(4, 4, keys[2]))
        self.norms = {"first": norm(4, mode), "second": norm(4, mode)}

    def __call__(self, x, state, *, key=None):
        x = self.convs[0](x)
        y, state = self.norms["first"](x, state)
        y, state = self.norms["second"](self.convs[1](jax.nn.relu(y)), state)
        return x + self.convs[2](jax.nn.relu(y)), state


def conv(inputs, outputs, key):
    return eqx.nn.Conv2d(inputs, outputs, 3, padding=1, use_bias=False, key=key)


def norm(channels, mode):
    return eqx.nn.BatchNorm(channels, "batch", mode=mode, momentum=0.5)


def made(cls, mode="batch", updates=3):
    """A model in inference mode, and its state after some updates."""
    model, state = eqx.nn.make_with_state(cls)(jax.random.key(0), mode)
    training = eqx.nn.inference_mode(model)
    training = eqx.tree_at(lambda m: [n.inference for n in norms_of(m)], training, [False for _ in norms_of(model)])
    step = jax.vmap(training, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    for number in range(updates):
        _, state = step(X * (1 + number) + 1, state)
    return eqx.nn.inference_mode(model), state


def norms_of(model):
    leaves = jax.tree_util.tree_leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.BatchNorm))
    return [leaf for leaf in leaves if isinstance(leaf, eqx.nn.BatchNorm)]


def called(model, state):
    return lambda x: jax.vmap(lambda one: model(one, state)[0])(x)


RESNET = ["norm", "blocks/0/layers/1", "blocks/1/layers/1"]
MOBILENET = ["layers/layers/1", "layers/layers/4", "layers/layers/7"]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("cls", "mode", "folded", "kept"),
    [
        (ResNet, "batch", RESNET, []),
        pytest.param(MobileNet, "ema", MOBILENET, [], marks=pytest.mark.broad),
        (PreActivation, "batch", ["norms/second"], ["norms/first"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_call_folds_a_model_and_gives_it_back_without_bn(cls, mode, folded, kept):
    model, state = made(cls, mode)
    result = check(model, called(model, state), X, folded=folded, kept=kept, state=state)
    without = result.module
    assert not norms_of(without)
    same(called(model, state)(X), called(without, state)(X))


def test_train_mode_is_named_and_never_folded():
    model, state = made(ResNet)
    with pytest.raises(FoldError, match=r"norm \(BatchNorm\) is in train mode") as error:
        bncli.fold(eqx.nn.inference_mode(model, value=False), X, state=state)
    assert "eqx.nn.inference_mode(model)" in error.value.remedy


def test_a_model_with_bn_needs_its_state():
    model, _ = made(ResNet)
    with pytest.raises(FoldError, match="norm keeps its running statistics in a state") as error:
        bncli.fold(model, X)
    assert "state=state" in error.value.remedy


def test_statistics_that_were_never_updated_are_named():
    model, state = made(ResNet, updates=0)
    with pytest.raises(FoldError, match="norm has no running statistics yet"):
        bncli.fold(model, X, state=state)


def test_a_model_without_bn_has_no_state():
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    with pytest.warns(NothingToFoldWarning):
        folded = bncli.fold(model, X[:, :, 0, 0])
    same(jax.vmap(model)(X[:, :, 0, 0]), folded(X[:, :, 0, 0]))
