"""Laws of the training convolution: values and gradients are those of ``lax.conv_general_dilated``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.ops import convolution, train_conv_general_dilated
from bncli.ops.onednn import onednn
from tests.ops.like_flax import assert_like_flax, assert_like_float32


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


@pytest.mark.sample(2)
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1), (0, 3)), ((-1, 0), (1, -1))], ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (3, 3)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 4)])
def test_in_bfloat16(kernel, strides, padding):
    for asked_for in (True, False):
        with onednn(asked_for=asked_for):
            assert_like_float32((4, 8, 7, 3), features=5, kernel_size=kernel, strides=strides, padding=padding)


@pytest.mark.parametrize("padding", ["SAME", ((2, 1), (0, 3)), ((-1, 0), (1, -1))], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_like_flax_with_strides_for_onednn(kernel, padding):
    with onednn(asked_for=True):
        assert_like_flax((4, 9, 7, 3), features=5, kernel_size=kernel, strides=(2, 3), padding=padding)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_for_onednn_no_convolution_has_dilated_images(dtype):
    """XLA passes only such ones to oneDNN."""
    x, kernel = jnp.ones((4, 8, 8, 3), dtype), jnp.ones((3, 3, 3, 5), dtype)

    def gradients(x, kernel):
        y, vjp = jax.vjp(
            lambda x, k: train_conv_general_dilated(x, k, (2, 2), "SAME", None, None, convolution._NHWC), x, kernel
        )
        return vjp(y)

    with onednn(asked_for=True):
        eqns = jax.make_jaxpr(gradients)(x, kernel).eqns
    convs = [eqn for eqn in eqns if eqn.primitive is jax.lax.conv_general_dilated_p]
    assert len(convs) >= 3
    assert all(set(eqn.params["lhs_dilation"]) == {1} for eqn in convs)
