"""Laws of the hyperparameters: given to a program as arguments, they are the numbers that it would hold itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.breadth import broad

from bncli.checkpoint import sha256_tree
from bncli.config.settings import ModelConfig
from bncli.models import build_network, with_given_numbers
from bncli.training.hyperparameters import seed_key, stream_key
from bncli.training.state import DROPOUT_STREAM

SHAPE = (8, 8, 1)
NETS = {
    "mlp": {"args": {"features": [4]}},
    "cnn": {"args": {"features": [4]}},
    "cnn in ghost batches": {"args": {"features": [4]}, "norm": "ghost:4"},
    "cnn with group normalization": {"args": {"features": [4]}, "norm": "group"},
    "convnet": {"args": {"features": [4]}},
    "resnet20": {"args": {"features": 4}},
}


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_keys_made_on_the_host_are_those_of_jax(seed):
    key = jax.random.key(seed)
    np.testing.assert_array_equal(seed_key(seed), jax.random.key_data(key))
    expected = jax.random.key_data(jax.random.fold_in(key, DROPOUT_STREAM))
    np.testing.assert_array_equal(stream_key(seed, DROPOUT_STREAM), expected)


def test_another_implementation_of_keys_is_respected():
    with jax.default_prng_impl("rbg"):
        expected = jax.random.key_data(jax.random.fold_in(jax.random.key(5), DROPOUT_STREAM))
        np.testing.assert_array_equal(stream_key(5, DROPOUT_STREAM), expected)


def in_train_mode(network, variables):
    key, images = jax.random.key(1), jax.random.normal(jax.random.key(2), (8, *SHAPE))
    mask = jnp.arange(8) < 7
    return network.train_logits(variables, images, mask=mask, dropout_key=key)


@pytest.mark.parametrize("name", broad(NETS, by_default=lambda name: name == "mlp"))
def test_given_numbers_are_the_networks_own(name):
    config = ModelConfig(name=name.split()[0], bn_momentum=0.73, dropout=0.3, **NETS[name])
    network = build_network(config, num_classes=3, image_shape=SHAPE)
    given, layers = with_given_numbers(network, name=config.name)
    variables = network.init(jax.random.key(0), SHAPE)
    own = jax.jit(lambda variables: in_train_mode(network, variables))(variables)

    @jax.jit
    def with_arguments(variables, layers):
        return in_train_mode(type(given)(given.module, given.train_argument, given=layers), variables)

    assert sha256_tree(with_arguments(variables, layers)) == sha256_tree(own)


def test_networks_that_differ_in_given_numbers_are_equal_then():
    def made(**changes):
        config = ModelConfig(name="cnn", **{"dropout": 0.2} | changes)
        return with_given_numbers(build_network(config, num_classes=3, image_shape=SHAPE), name="cnn")[0]

    assert made() == made(dropout=0.5, bn_momentum=0.5)
    assert hash(made()) == hash(made(bn_momentum=0.1))
    assert made() != made(dropout=0.0)  # a program that draws no random numbers
    assert made() != made(bn_epsilon=1e-3)
    assert made(dropout=0.5) != build_network(ModelConfig(name="cnn", dropout=0.5), num_classes=3, image_shape=SHAPE)
