"""Laws of calling any module: its mode is found, padding changes nothing, an example's logits are its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.breadth import broad
from support.networks import network_of, random_images, random_variables

from bncli.errors import ModelError
from bncli.frameworks.linen import TRAIN_ARGUMENTS, BatchNormSettings, as_network
from bncli.models.resnet import BottleneckBlock, ResNet

SHAPE = (8, 8, 1)
KEY = jax.random.key(0)


def body(x, *, train):
    """What the modules below have in common."""
    x = nn.Dense(3)(x.reshape(len(x), -1))
    x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
    return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return body(x, train=not deterministic)


class IsTraining(nn.Module):
    @nn.compact
    def __call__(self, x, *, is_training):
        return body(x, train=is_training)


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return body(x, train=train)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, training=False):
        return body(x, train=training)


class UseRunningAverage(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average):
        return body(x, train=not use_running_average)


class NoMode(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


class OtherArgument(nn.Module):
    @nn.compact
    def __call__(self, x, is_eval):
        return nn.Dense(3)(x.reshape(len(x), -1))


class Norms(nn.Module):
    """Two BN layers, one of them in a block, called against the order of their names."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8, epsilon=1e-2, name="z")(x)
        x = Block(name="a")(x, train)
        return x.mean(axis=(1, 2))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train, epsilon=1e-4, name="norm")(x)


MODES = {
    "deterministic": Deterministic,
    "is_training": IsTraining,
    "train": Train,
    "training": Training,
    "use_running_average": UseRunningAverage,
}


def test_every_spelling_of_the_mode_is_tried_below():
    assert MODES.keys() == TRAIN_ARGUMENTS.keys()


@pytest.mark.sample(2)
@pytest.mark.parametrize("argument", MODES)
def test_the_mode_is_found_by_its_name(argument):
    network = as_network(MODES[argument]())
    assert network.train_argument == argument
    variables = network.init(KEY, SHAPE)
    images = random_images(6, SHAPE)
    train, after = network.train_logits(variables, images, mask=None, dropout_key=KEY)
    stats = variables["batch_stats"]["BatchNorm_0"]
    assert (after["BatchNorm_0"]["mean"] != stats["mean"]).all()  # train mode moves the statistics
    np.testing.assert_array_equal(network.logits(variables, images), network.logits(variables, images))
    np.testing.assert_allclose(network.logits(variables, images)[:1], network.logits(variables, images[:1]), rtol=1e-5)
    other, _ = network.train_logits(variables, images, mask=None, dropout_key=jax.random.key(1))
    assert (train != other).any()  # dropout is on in train mode


def test_a_module_without_a_mode_is_called_without_one():
    network = as_network(NoMode())
    assert network.train_argument is None
    variables = network.init(KEY, SHAPE)
    images = random_images(2, SHAPE)
    train, stats = network.train_logits(variables, images, mask=None, dropout_key=KEY)
    np.testing.assert_array_equal(train, network.logits(variables, images))
    assert stats == {}


def small_resnet():
    """One stage of each kind of block edge: with and without a projection."""
    return as_network(
        ResNet(
            num_classes=3,
            stage_sizes=(1, 1),
            features=2,
            block=BottleneckBlock,
            small_images=True,
            norm=nn.BatchNorm,
            dropout=0.0,
            kernel_init=nn.initializers.he_normal(),
        )
    )


PADDED = {
    "cnn": lambda: network_of(SHAPE, name="cnn", args={"features": [3]}, dropout=0.0),
    "cnn-post": lambda: network_of(SHAPE, name="cnn", args={"features": [3]}, dropout=0.0, bn_placement="post"),
    "custom": lambda: as_network(Norms()),
    "mlp": lambda: network_of(SHAPE, name="mlp", args={"features": [4]}),
    "resnet": small_resnet,
}


def outcome_of(network, images, num_real, mask):
    """A function of the variables: (logits of the real examples, batch_stats, gradient of their mean loss)."""
    labels = jnp.arange(num_real) % network.module.num_classes if hasattr(network.module, "num_classes") else None

    def loss_fn(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, batch_stats = network.train_logits(variables, images, mask=mask, dropout_key=KEY)
        logits = logits[:num_real]
        loss = (
            logits.mean() if labels is None else optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        )
        return loss, (logits, batch_stats)

    def outcome(variables):
        grads, (logits, stats) = jax.grad(loss_fn, has_aux=True)(variables["params"], variables["batch_stats"])
        return logits, stats, grads

    return outcome


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", broad(PADDED, lambda name: name != "resnet"))
def test_padding_changes_neither_logits_nor_statistics_nor_gradients(name):
    network = PADDED[name]()
    variables = random_variables(network, SHAPE)
    real = random_images(6, SHAPE)
    mask = jnp.arange(8) < 6
    alone = jax.jit(outcome_of(network, real, 6, None))(variables)
    padding = 100 * random_images(2, SHAPE, seed=1)
    padded = jax.jit(outcome_of(network, np.concatenate([real, padding]), 6, mask))(variables)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale), alone, padded)
    unmasked, _ = network.train_logits(variables, np.concatenate([real, padding]), mask=None, dropout_key=KEY)
    assert not np.allclose(unmasked[:6], alone[0], rtol=1e-3)  # the mask is what does it


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", PADDED)
def test_an_example_has_its_own_logits_whatever_the_batch(name):
    network = PADDED[name]()
    variables = random_variables(network, SHAPE)
    images = random_images(5, SHAPE)
    logits = network.logits(variables, images)
    atol = 1e-5 * float(jnp.abs(logits).max())
    np.testing.assert_allclose(network.logits(variables, images[::-1])[::-1], logits, rtol=1e-4, atol=atol)
    np.testing.assert_allclose(network.logits(variables, images[2:3])[0], logits[2], rtol=1e-4, atol=atol)


def test_batch_statistics_are_train_mode_without_dropout():
    with_dropout, without = (
        network_of(SHAPE, name="mlp", args={"features": [4, 4]}, dropout=dropout) for dropout in (0.5, 0.0)
    )
    variables = random_variables(without, SHAPE)
    images = random_images(6, SHAPE)
    mask = jnp.arange(6) < 5
    expected, _ = without.train_logits(variables, images, mask=mask, dropout_key=KEY)
    np.testing.assert_allclose(
        with_dropout.logits_by_batch_stats(variables, images, mask=mask), expected, rtol=1e-5, atol=1e-5
    )
    random, _ = with_dropout.train_logits(variables, images, mask=mask, dropout_key=KEY)
    assert not np.allclose(random, expected)


def test_batch_statistics_read_no_running_statistics():
    network = network_of(SHAPE, name="mlp", args={"features": [4]})
    variables = random_variables(network, SHAPE)
    poisoned = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf * np.nan, variables["batch_stats"])}
    images = random_images(6, SHAPE)
    assert np.isnan(network.logits(poisoned, images)).all()
    np.testing.assert_array_equal(
        network.logits_by_batch_stats(poisoned, images, mask=None),
        network.logits_by_batch_stats(variables, images, mask=None),
    )


def test_batch_norms_come_in_the_order_of_the_call_with_what_no_checkpoint_stores():
    network = as_network(Norms())
    norms = network.batch_norms(network.init(KEY, SHAPE), SHAPE)
    assert list(norms.items()) == [
        ("z", BatchNormSettings(epsilon=1e-2, momentum=0.8)),
        ("a/norm", BatchNormSettings(epsilon=1e-4, momentum=0.99)),
    ]


def test_initial_variables_depend_on_the_key_alone():
    network = network_of(SHAPE, name="mlp", args={"features": [4]})
    first, again, other = (network.init(jax.random.key(seed), SHAPE) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["params"]["Dense_0"]["kernel"] != other["params"]["Dense_0"]["kernel"]).any()


def test_a_module_that_cannot_take_the_images_is_refused_with_their_shape():
    network = as_network(OtherArgument())
    with pytest.raises(
        ModelError, match=r"\w+ cannot be applied to images \[B, H, W, C\] = \(2, 8, 8, 1\): "
    ) as caught:
        network.init(KEY, SHAPE)
    assert "model(x, train=bool)" in caught.value.remedy
