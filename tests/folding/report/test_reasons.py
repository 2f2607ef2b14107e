"""Reasons as a user reads them."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest

from bncli.folding import fold
from bncli.folding.primitives.stuck import Cause
from bncli.folding.report.names import ACTIVATIONS, listed
from bncli.folding.report.reasons import SENTENCES
from folding.nets import BatchNorm, Conv, DenseNet, PreActivationBlock, ResNet, trained

X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


class BetweenActivations(nn.Module):
    before: str
    after: str

    @nn.compact
    def __call__(self, x):
        x = getattr(nn, self.before)(Conv(4, (3, 3))(x))
        return nn.Dense(5)(getattr(nn, self.after)(BatchNorm()(x)).mean((1, 2)))


class PostActivationBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + BatchNorm()(nn.relu(Conv(4, (3, 3))(x)))


class PostActivation(nn.Module):
    """The first BN is also a block's shortcut; the others are added to one."""

    @nn.compact
    def __call__(self, x):
        x = BatchNorm()(nn.relu(Conv(4, (3, 3))(x)))
        return nn.Dense(5)(PostActivationBlock()(x).mean((1, 2)))


class Gate(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = BatchNorm()(nn.relu(Conv(4, (3, 3))(x)))
        return nn.Dense(5)((y * nn.sigmoid(nn.Dense(4)(x.mean((1, 2))))[:, None, None, :]).mean((1, 2)))


class Branch(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = BatchNorm()(nn.tanh(x))
        return Conv(4, (3, 3))(x).mean((1, 2)) + nn.Dense(4)(nn.sigmoid(x).mean((1, 2)))


class Last(nn.Module):
    @nn.compact
    def __call__(self, x):
        return BatchNorm()(nn.relu(Conv(4, (3, 3))(x)))


class First(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.relu(BatchNorm()(x)).mean((1, 2)))


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Conv(4, (3, 3))(x)
        return nn.relu(BatchNorm(name="one")(x)).mean((1, 2)) + nn.relu(BatchNorm(name="two")(x)).mean((1, 2))


# network, layer -> why it is kept
REASONS = [
    (
        ResNet((2, 1), PreActivationBlock, width=4),
        "PreActivationBlock_1/BatchNorm_0",
        "before it, its input, the output of PreActivationBlock_0, is also read by PreActivationBlock_1's shortcut;"
        " after it, a ReLU stands in the way (in PreActivationBlock_1)",
    ),
    (
        DenseNet(),
        "BatchNorm_0",
        "before it, its input, the output of Conv_0, is also read by a concatenation;"
        " after it, a ReLU stands in the way",
    ),
    (
        DenseNet(),
        "BatchNorm_5",
        "before it, its input, the output of an average pool, is also read by a concatenation;"
        " after it, a ReLU stands in the way",
    ),
    (
        PostActivation(),
        "BatchNorm_0",
        "before it, a ReLU stands in the way; after it, not all of its readers (PostActivationBlock_0/Conv_0 and"
        " PostActivationBlock_0's shortcut) can absorb it: it is added to the output of"
        " PostActivationBlock_0/BatchNorm_0, which does not have its scale",
    ),
    (
        PostActivation(),
        "PostActivationBlock_0/BatchNorm_0",
        "before it, a ReLU stands in the way (in PostActivationBlock_0); after it, it is added to"
        " PostActivationBlock_0's shortcut, which does not have its scale",
    ),
    (
        Branch(),
        "BatchNorm_0",
        "before it, a tanh stands in the way; after it, not all of its readers (Conv_0 and a sigmoid) can absorb it:"
        " a sigmoid stands in the way",
    ),
    (
        Gate(),
        "BatchNorm_0",
        "before it, a ReLU stands in the way; after it, a product of two values that depend on the input stands in"
        " the way (a gate, a GELU)",
    ),
    (
        Twice(),
        "one",
        "before it, its input, the output of Conv_0, is also read by two; after it, a ReLU stands in the way",
    ),
    (
        Last(),
        "BatchNorm_0",
        "before it, a ReLU stands in the way; after it, its output is an output of the network",
    ),
    (
        First(),
        "BatchNorm_0",
        "before it, there is only the network's input; after it, a ReLU stands in the way",
    ),
    (
        BetweenActivations("relu", "sigmoid"),
        "BatchNorm_0",
        "before it, a ReLU stands in the way; after it, a sigmoid stands in the way",
    ),
    (
        BetweenActivations("leaky_relu", "silu"),
        "BatchNorm_0",
        "before it, a LeakyReLU stands in the way; after it, a SiLU stands in the way",
    ),
    (
        BetweenActivations("elu", "relu6"),
        "BatchNorm_0",
        "before it, an ELU stands in the way; after it, a ReLU6 stands in the way",
    ),
]


@pytest.mark.parametrize(
    ("model", "name", "reason"), REASONS, ids=[f"{type(model).__name__}-{name}" for model, name, _ in REASONS]
)
def test_reasons(model, name, reason):
    rows = {row.name: row for row in fold(model.apply, trained(model, X), X, verify=False).report.norms}
    assert rows[name].reason == reason


def test_a_reason_with_many_names_shows_a_few():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcde")) == "a, b, c and 2 more"


def test_the_tables_are_sorted():
    assert list(ACTIVATIONS) == sorted(ACTIVATIONS)
    assert list(SENTENCES) == sorted(SENTENCES, key=lambda cause: cause.name)


def test_every_cause_has_a_sentence_of_its_own():
    assert set(SENTENCES) == set(Cause)
    assert len(set(SENTENCES.values())) == len(SENTENCES)
