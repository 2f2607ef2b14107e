"""Laws of gradient accumulation: K micro-batches are one batch K times as large, BN statistics included."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.breadth import broad
from support.tiny import MLP

from bncli.config.document import Preprocessing
from bncli.config.settings import ModelConfig, OptimizerConfig
from bncli.data import Augmentation, Preprocessor
from bncli.errors import ModelError, UsageError
from bncli.frameworks.linen import as_network
from bncli.models import build_network, with_local_statistics
from bncli.training.examples import DeviceSplit
from bncli.training.micro_batches import Accumulation
from bncli.training.segments import cut
from bncli.training.state import create_train_state
from bncli.training.step_settings import StepSettings
from bncli.training.steps import make_train_step

SHAPE = (8, 8, 1)
PREPROCESSING = Preprocessing(size=SHAPE[:2], channels=1, mean=(0.3,), std=(0.2,))


class Residual(nn.Module):
    """Two BN layers on one path and one on a shortcut; the last sees vectors, not images."""

    @nn.compact
    def __call__(self, x, *, train):
        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.8)(x)

        x = nn.relu(norm(nn.Conv(4, (3, 3), strides=2)(x)))
        x = nn.relu(norm(nn.Dense(4)(x)) + norm(nn.Dense(4)(x)))
        x = norm(nn.Dropout(0.5, deterministic=not train)(x.mean(axis=(1, 2))))
        return nn.Dense(3)(x)


def settings_of(network, accumulation=None):
    return StepSettings(
        network=network,
        optimizer=OptimizerConfig(learning_rate=0.05, schedule="constant", warmup_epochs=0),
        steps_per_epoch=10,
        schedule_epochs=1,
        preprocessor=Preprocessor(PREPROCESSING, "float32"),
        augmentation=Augmentation(max_shift=1),
        seed=0,
        accumulation=accumulation,
    )


@pytest.fixture(scope="module")
def split(dataset):
    return DeviceSplit(jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels))


def steps(settings, split, *, number=10, mask=None, size=16):
    """The state after some steps on batches."""
    step = jax.jit(make_train_step(settings))
    state = create_train_state(
        settings.network, settings.make_optimizer(), image_shape=SHAPE, seed_key=jax.random.key(0)
    )
    for i in range(number):
        indices = jnp.arange(4 * i, 4 * i + size, dtype=jnp.int32)
        state, _ = step(state, split, 0, indices, mask, settings.hyperparameters.at(i))
    return state


def largest_difference(one, other):
    """Relative to the largest number of the tree."""
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    largest = max(float(np.abs(a).max()) for a, _ in pairs)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max()) for a, b in pairs) / largest


@pytest.fixture(scope="module")
def at_once(split):
    """The state after ten steps on whole batches, whose last three examples are padding."""
    return steps(settings_of(as_network(Residual())), split, mask=jnp.arange(16) < 13)


@pytest.mark.parametrize("unrolled", broad([True, False], bool))
def test_micro_batches_are_one_large_batch(split, at_once, unrolled):
    network, whole = as_network(Residual()), at_once
    mask = jnp.arange(16) < 13
    accumulation = Accumulation(steps=4, bn="exact", num_devices=2, unrolled=unrolled)
    parts = steps(settings_of(network, accumulation), split, mask=mask)
    for one, other in ((whole.params, parts.params), (whole.batch_stats, parts.batch_stats)):
        assert largest_difference(one, other) < 1e-6
    assert int(whole.metrics.num_correct) == int(parts.metrics.num_correct)
    assert int(parts.step) == 10


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("name", ["cnn", "resnet20"])
def test_micro_batches_are_one_large_batch_in_the_networks_of_bncli(split, name):
    network = build_network(ModelConfig(name=name), num_classes=3, image_shape=SHAPE)
    # One step: where rounding moves a maximum of pooling from one pixel to another, later ones differ by more.
    whole = steps(settings_of(network), split, number=1)
    parts = steps(settings_of(network, Accumulation(steps=4, bn="exact")), split, number=1)
    for one, other in ((whole.params, parts.params), (whole.batch_stats, parts.batch_stats)):
        assert largest_difference(one, other) < 1e-6


@pytest.mark.sample(1)
@pytest.mark.parametrize(("bn", "is_same"), [(True, False), (False, True)])
def test_the_approximation_is_exact_without_bn_alone(split, bn, is_same):
    network = build_network(ModelConfig(**MLP, bn=bn), num_classes=3, image_shape=SHAPE)
    micro = Accumulation(steps=2, bn="micro", unrolled=False)
    whole, parts = (steps(settings_of(network, parts), split, number=2) for parts in (None, micro))
    assert (largest_difference(whole.params, parts.params) < 1e-6) is is_same


def test_a_micro_batch_of_padding_alone_changes_nothing(split):
    network = as_network(Residual())
    padded, alone = (Accumulation(steps=number, bn="micro", unrolled=False) for number in (4, 2))
    some = steps(settings_of(network, padded), split, number=2, mask=jnp.arange(16) < 8)
    only = steps(settings_of(network, alone), split, number=2, size=8)
    for one, other in ((some.params, only.params), (some.batch_stats, only.batch_stats)):
        assert largest_difference(one, other) < 1e-6


class Shared(nn.Module):
    """One BN layer, called twice."""

    @nn.compact
    def __call__(self, x, *, train):
        norm = nn.BatchNorm(use_running_average=not train)
        return nn.Dense(3)(norm(norm(x)).reshape(x.shape[0], -1))


class Rematerialized(nn.Module):
    """A BN layer inside ``nn.remat``."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.remat(nn.BatchNorm)(use_running_average=not train)(x)
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Own(nn.Module):
    """Statistics that no ``nn.BatchNorm`` keeps."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train)(x)
        self.variable("batch_stats", "seen", jnp.zeros, ()).value += 1
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("module", "reason"),
    [(Shared(), "is called twice"), (Rematerialized(), "is inside a loop"), (Own(), "keeps statistics")],
    ids=["shared", "remat", "own"],
)
def test_what_cannot_be_exact_is_refused_and_the_approximation_named(split, module, reason):
    settings = settings_of(as_network(module), Accumulation(steps=2, bn="exact"))
    with pytest.raises(ModelError, match=reason) as refused:
        steps(settings, split, number=1)
    assert "--accumulate-bn micro" in refused.value.remedy
    steps(replace(settings, accumulation=Accumulation(steps=2, bn="micro")), split, number=1)


def test_frozen_layers_keep_their_statistics(split):
    network = replace(as_network(Residual()), frozen=frozenset({"BatchNorm_0"}))
    state = steps(settings_of(network, Accumulation(steps=2, bn="exact")), split, number=1)
    assert not np.any(state.batch_stats["BatchNorm_0"]["mean"])
    assert np.any(state.batch_stats["BatchNorm_1"]["mean"])


def test_a_function_is_cut_at_each_statistic_that_needs_an_earlier_one():
    def function(params, statistics, fixed, micro):
        first, beside = micro * params, micro + 1
        moments = {"a": (first.sum(), (first**2).sum()), "c": (beside.sum(), (beside**2).sum())}
        second = first - statistics["a"][0]
        moments["b"] = second.sum(), (second**2).sum()
        return moments, (second * statistics["b"][1] * statistics["c"][0] + fixed).sum()

    x = jnp.arange(4.0)
    statistics = {name: (jnp.float32(2), jnp.float32(3)) for name in "abc"}
    parts = cut(function, jnp.float32(2), statistics, jnp.float32(1), x)
    assert parts.layers == (("a", "c"), ("b",), ())
    shared = [jnp.float32(2), *jax.tree.leaves(statistics), jnp.float32(1)]
    entering, found = [], {}
    for segment in parts.segments:
        entering, results = segment.run([shared[place] for place in segment.reads], [x], entering)
        found.update(zip(segment.places, results, strict=True))
    moments, result = function(jnp.float32(2), statistics, jnp.float32(1), x)
    expected = [*jax.tree.leaves(moments), result]
    assert [float(found[place]) for place in range(7)] == [float(value) for value in expected]


def test_local_statistics_are_those_of_each_device(split):
    """Two devices that share no statistics learn from two batches: as micro-batches do, in their loss and gradient."""
    network = build_network(ModelConfig(**MLP, dropout=0.0), num_classes=3, image_shape=SHAPE)
    local = steps(settings_of(with_local_statistics(network, 2, name="mlp")), split, number=1)
    micro = steps(settings_of(network, Accumulation(steps=2, bn="micro", unrolled=False)), split, number=1)
    assert largest_difference(local.params, micro.params) < 1e-6
    whole = steps(settings_of(network), split, number=1)
    assert largest_difference(local.params, whole.params) > 1e-4


def test_a_network_without_bn_has_no_local_statistics():
    network = build_network(ModelConfig(**MLP, bn=False), num_classes=3, image_shape=SHAPE)
    with pytest.raises(UsageError, match="--bn-sync local: mlp has no BN"):
        with_local_statistics(network, 2, name="mlp")
