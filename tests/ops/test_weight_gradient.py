"""Laws of the weight gradient in training: in parts, reversed or as a product, it is the gradient."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from bncli.ops import train_conv_general_dilated, weight_gradient
from bncli.ops.onednn import onednn
from tests.ops.like_flax import assert_like_flax, assert_like_float32


@pytest.mark.parametrize("batch", [16, 7])
def test_the_weight_gradient_in_parts_is_the_gradient(batch, monkeypatch):
    monkeypatch.setattr(weight_gradient, "_MIN_PART_BYTES", 1)
    shape = (batch, 8, 8, 3)
    parts = {16: 8, 7: 1}[batch]
    assert weight_gradient._num_parts(jnp.zeros(shape), jnp.zeros((batch, 8, 8, 5)), is_reversed=False) == parts
    assert_like_flax(shape, features=5, kernel_size=(3, 3))


def test_small_arrays_are_not_parted():
    def parts(shape, **how):
        return weight_gradient._num_parts(jnp.zeros(shape), jnp.zeros(shape), **how)

    assert parts((8, 4, 4, 2), is_reversed=False) == 1
    assert parts((128, 32, 32, 16), is_reversed=False) == 8
    assert parts((8, 4, 4, 256), is_reversed=True) == 1
    assert parts((128, 8, 8, 256), is_reversed=True) == 4
    assert parts((128, 32, 32, 64), is_reversed=True) == 16


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": (3, 3)},
        {"kernel_size": (3, 2), "padding": "VALID", "strides": (2, 1)},
        {"kernel_size": (3, 3), "padding": ((3, 0), (0, 4)), "strides": (1, 3)},
        {"kernel_size": (1, 2), "strides": 3},
        {"kernel_size": (3, 3), "kernel_dilation": 2},
        {"kernel_size": (3, 3), "feature_group_count": 2},
    ],
    ids=str,
)
def test_the_weight_gradient_of_a_reversed_kernel_is_the_gradient(settings, monkeypatch):
    monkeypatch.setattr(weight_gradient, "_MIN_REVERSED_BYTES", 1)
    monkeypatch.setattr(weight_gradient, "_MIN_REVERSED_PART_BYTES", 1)
    assert_like_flax((4, 9, 8, 4), features=6, **settings)


def test_the_weight_gradient_of_many_channels_is_the_gradient():
    assert_like_flax((4, 4, 4, 160), features=160, kernel_size=(3, 3))


@pytest.mark.parametrize("strides", [1, 2, (3, 1)])
@pytest.mark.parametrize("padding", ["SAME", ((0, 0), (1, 2))])
def test_the_weight_gradient_of_a_kernel_of_one_pixel(strides, padding):
    assert_like_flax((4, 8, 7, 3), features=5, kernel_size=(1, 1), strides=strides, padding=padding)


def test_of_a_kernel_of_one_pixel_the_weight_gradient_is_one_product():
    layer = nn.Conv(5, (1, 1), strides=2, use_bias=False, conv_general_dilated=train_conv_general_dilated)
    x = jnp.ones((2, 8, 8, 3))
    gradient = jax.grad(lambda variables: layer.apply(variables, x).sum())
    jaxpr = str(jax.make_jaxpr(gradient)(layer.init(jax.random.key(0), x)))
    assert jaxpr.count("dot_general") == 1


PROGRAM = """
from bncli.process import configure
from bncli.process import flags
configure.configure()
import flax.linen as nn, jax, jax.numpy as jnp
from bncli.ops import train_conv_general_dilated

shape = {shape}
options = flags.step_compiler_options(precision="float32", image_shape=(16, 16, shape[-1]))
layer = nn.Conv(shape[-1], (3, 3), use_bias=False, conv_general_dilated=train_conv_general_dilated)
x = jnp.ones(shape)
variables = layer.init(jax.random.key(0), x)
gradient = jax.jit(jax.grad(lambda variables, x: jnp.square(layer.apply(variables, x)).sum()))
text = flags.compile_step(gradient, (variables, x), options).as_text()
print(len(options), text.count("__onednn$convolution"), text.count(" convolution("))
"""


def convolutions(shape):
    """The convolutions in a layer's gradient, with the options that users get: (oneDNN's, XLA's)."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    program = PROGRAM.format(shape=shape)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    num_options, by_onednn, by_xla = map(int, done.stdout.split())
    if not num_options:
        pytest.skip("not with this jaxlib on this machine")
    return by_onednn, by_xla


def test_xla_does_not_hand_large_weight_gradients_to_onednn():
    """The reversed kernel is there for this. XLA may change its mind, and then this test fails."""
    assert convolutions((2, 16, 16, 160)) == (1, 1)  # the convolution and its weight gradient


def test_onednn_takes_more_parts_than_it_can_add():
    """Its calls take 32 additions at most; one more ended the process."""
    assert convolutions((1024, 8, 8, 256)) == (1 + 64, 0)


@pytest.mark.parametrize(
    ("shape", "dtype", "parts"),
    [
        ((256, 8, 8, 256), jnp.bfloat16, 8),
        ((256, 8, 8, 1), jnp.bfloat16, 1),
        ((96, 64, 64, 64), jnp.bfloat16, 2),
        ((20, 64, 64, 64), jnp.bfloat16, 1),
        ((77, 64, 64, 64), jnp.bfloat16, 1),
        ((128, 32, 32, 16), jnp.float32, 8),
        ((128, 4, 4, 512), jnp.float32, 4),
    ],
)
def test_parts_for_onednn(shape, dtype, parts):
    arrays = jax.ShapeDtypeStruct(shape, dtype)
    assert weight_gradient._num_parts_by_onednn(arrays, arrays) == parts


@pytest.mark.parametrize("batch", [16, 7])
def test_for_onednn_the_weight_gradient_in_parts_is_the_gradient(batch, monkeypatch):
    monkeypatch.setattr(weight_gradient, "_MAX_ONEDNN_PART_BYTES", 1)
    monkeypatch.setattr(weight_gradient, "_MIN_REGISTER_BYTES", 4)
    with onednn(asked_for=True):
        assert_like_float32((batch, 8, 8, 3), features=5, kernel_size=(3, 3), strides=2)
        assert_like_flax((batch, 8, 8, 64), features=5, kernel_size=(3, 3))
        assert_like_flax((batch, 5, 6, 64), features=5, kernel_size=(3, 2), padding=((2, 0), (-1, 1)), strides=(1, 3))


@pytest.mark.parametrize(
    ("shape", "dtype", "axes"),
    [
        ((4, 32, 32, 16), jnp.float32, 3),
        ((4, 33, 32, 16), jnp.float32, 2),  # XLA's own code is faster there
        ((4, 8, 8, 3), jnp.float32, 2),
        ((4, 9, 8, 3), jnp.bfloat16, 3),
    ],
)
def test_the_form_for_onednn_is_for_programs_that_ask_for_it(shape, dtype, axes):
    def forms(*, asked_for):
        layer = nn.Conv(5, (3, 3), dtype=dtype, use_bias=False, conv_general_dilated=train_conv_general_dilated)
        x = jnp.ones(shape, dtype)
        variables = layer.init(jax.random.key(0), x)
        with onednn(asked_for=asked_for):
            eqns = jax.make_jaxpr(jax.grad(lambda variables: layer.apply(variables, x).sum()))(variables).eqns
        return {len(eqn.params["window_strides"]) for eqn in eqns if eqn.primitive is jax.lax.conv_general_dilated_p}

    assert max(forms(asked_for=True)) == axes
    assert max(forms(asked_for=False)) == 2
