"""Laws of the training convolution: values and gradients are those of ``lax.conv_general_dilated``."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.ops import convolution, train_conv_general_dilated


def layers(**settings):
    return nn.Conv(**settings), nn.Conv(conv_general_dilated=train_conv_general_dilated, **settings)


def outcome(layer, variables, x, weights):
    """(output, gradients of a weighted sum of it for params and input)."""

    def loss(variables, x):
        y = layer.apply(variables, x)
        return jnp.sum(y * weights), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)
    return y, gradients


def assert_like_flax(x_shape, **settings):
    """In float32 the two forms agree, and the training form is as near to the float64 result as Flax's own."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=x_shape).astype(np.float32)
    flax, ours = layers(**settings)
    variables = flax.init(jax.random.key(0), x)
    weights = draw.normal(size=flax.apply(variables, x).shape).astype(np.float32)
    mine, theirs = outcome(ours, variables, x, weights), outcome(flax, variables, x, weights)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables, x, weights))
        exact = outcome(layers(**settings, param_dtype=jnp.float64)[0], *wide)
    for got, flax_got, reference in zip(*map(jax.tree.leaves, (mine, theirs, exact)), strict=True):
        assert got.shape == reference.shape
        assert got.dtype == flax_got.dtype
        tolerance = 1e-5 * max(1.0, float(np.abs(reference).max()))
        np.testing.assert_allclose(got, reference, rtol=0, atol=tolerance)
        np.testing.assert_allclose(got, flax_got, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("padding", "strides"), [("SAME", 1), ("VALID", 2), (((2, 1), (0, 3)), 1)])
def test_like_flax(padding, strides):
    assert_like_flax((4, 9, 6, 3), features=5, kernel_size=(3, 3), padding=padding, strides=strides)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": (3, 3), "kernel_dilation": 2, "input_dilation": 2, "padding": ((1, 1), (1, 1))},
        {"kernel_size": (3, 3), "feature_group_count": 2, "use_bias": False},
        {"kernel_size": (3,)},
        {"kernel_size": (2, 3), "padding": "CIRCULAR"},
    ],
    ids=str,
)
def test_every_setting_of_nn_conv(settings):
    spatial = (7,) if settings["kernel_size"] == (3,) else (7, 6)
    assert_like_flax((2, *spatial, 4), features=6, **settings)


@pytest.mark.broad
@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(st.just("SAME"), st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2)),
)
def test_an_image_smaller_than_the_kernel(size, kernel, strides, padding):
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(2, *size, 3)), jnp.float32)
    w = jnp.asarray(draw.normal(size=(*kernel, 3, 2)), jnp.float32)
    arguments = {"window_strides": strides, "padding": padding, "dimension_numbers": convolution._NHWC}
    expected = jax.lax.conv_general_dilated(x, w, **arguments)
    np.testing.assert_allclose(train_conv_general_dilated(x, w, **arguments), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [((6, 7), 3, 1, "SAME"), ((7, 6), 5, 2, "SAME"), ((6, 9), 3, 2, ((1, 1), (1, 1))), ((2, 3), 5, 1, "SAME")],
)
def test_depthwise(size, kernel, strides, padding):
    settings = {"features": 4, "kernel_size": (kernel, kernel), "strides": strides, "padding": padding}
    assert_like_flax((3, *size, 4), feature_group_count=4, **settings)


def test_an_image_smaller_than_the_kernel_is_one_product():
    x, w = jnp.ones((2, 2, 2, 3)), jnp.ones((3, 3, 3, 4))
    jaxpr = str(
        jax.make_jaxpr(lambda x, w: train_conv_general_dilated(x, w, (1, 1), "SAME", None, None, convolution._NHWC))(
            x, w
        )
    )
    assert "dot_general" in jaxpr
    assert "conv_general_dilated" not in jaxpr


@pytest.mark.parametrize("batch", [16, 7])
def test_the_weight_gradient_in_parts_is_the_gradient(batch, monkeypatch):
    monkeypatch.setattr(convolution, "_MIN_PART_BYTES", 1)
    shape = (batch, 8, 8, 3)
    parts = {16: 8, 7: 1}[batch]
    assert convolution._num_parts(jnp.zeros(shape), jnp.zeros((batch, 8, 8, 5)), is_reversed=False) == parts
    assert_like_flax(shape, features=5, kernel_size=(3, 3))


def test_small_arrays_are_not_parted():
    def parts(shape, **how):
        return convolution._num_parts(jnp.zeros(shape), jnp.zeros(shape), **how)

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
    monkeypatch.setattr(convolution, "_MIN_REVERSED_BYTES", 1)
    monkeypatch.setattr(convolution, "_MIN_REVERSED_PART_BYTES", 1)
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

options = flags.step_compiler_options(precision="float32", image_shape=(16, 16, 160))
layer = nn.Conv(160, (3, 3), use_bias=False, conv_general_dilated=train_conv_general_dilated)
x = jnp.ones((2, 16, 16, 160))
variables = layer.init(jax.random.key(0), x)
gradient = jax.jit(jax.grad(lambda variables, x: jnp.square(layer.apply(variables, x)).sum()))
text = flags.compile_step(gradient, (variables, x), options).as_text()
print(len(options), text.count("__onednn$convolution"), text.count(" convolution("))
"""


def test_xla_does_not_hand_large_weight_gradients_to_onednn():
    """What the reversed kernel is for; XLA is free to change its mind, and this says so."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    num_options, by_onednn, by_xla = map(int, done.stdout.split())
    if not num_options:
        pytest.skip("not with this jaxlib on this machine")
    assert (by_onednn, by_xla) == (1, 1)  # the convolution and its weight gradient
