"""Laws of padding small images beforehand: the same values, from another program, and nothing else is touched."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.ops import pad_small_images


def assert_same_values(function, *arguments):
    np.testing.assert_allclose(
        jax.jit(pad_small_images(function))(*arguments), jax.jit(function)(*arguments), rtol=1e-5, atol=1e-4
    )


def barriers(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text().count("optimization_barrier")


def conv_nhwc(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def random_arrays(*shapes):
    draw = np.random.default_rng(0)
    return [jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes]


@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(st.just("SAME"), st.tuples(*[st.tuples(st.integers(-1, 4), st.integers(-1, 4))] * 2)),
    groups=st.sampled_from([1, 2]),
    layout=st.sampled_from([("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NCHW", "HWIO", "NHWC")]),
)
def test_any_convolution_has_its_own_values(size, kernel, strides, dilation, padding, groups, layout):
    if not isinstance(padding, str):  # what a negative padding leaves must be an image
        padding = tuple(pair if n + sum(pair) > 0 else (0, 0) for n, pair in zip(size, padding, strict=True))
    shapes = {"N": 3, "H": size[0], "W": size[1], "C": 4}, {"H": kernel[0], "W": kernel[1], "I": 4 // groups, "O": 6}
    arrays = random_arrays(*[[sizes[letter] for letter in spec] for sizes, spec in zip(shapes, layout, strict=False)])

    def conv(images, kernel):
        options = {"rhs_dilation": dilation, "feature_group_count": groups, "dimension_numbers": layout}
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)

    assert_same_values(conv, *arrays)


def test_only_convolutions_of_small_images_are_changed():
    kernel, large, small = random_arrays((3, 3, 3, 3), (2, 3, 3, 3), (2, 3, 2, 3))

    def both(kernel, large, small):
        return conv_nhwc(large, kernel), conv_nhwc(small, kernel)

    assert barriers(both, kernel, large, small) == 0
    assert barriers(pad_small_images(both), kernel, large, small) == 1
    assert barriers(pad_small_images(conv_nhwc), large, kernel) == 0


class Everything(nn.Module):
    """What an interpreter could trip over: calls, literals, several outputs, closures, results that are arguments."""

    @nn.compact
    def __call__(self, x):
        images = x
        for _ in range(3):
            x = nn.max_pool(nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3))(x))), (2, 2), (2, 2))
        top, places = jax.lax.top_k(nn.silu(x).reshape(len(x), -1), 2)
        return {"top": top * 2.0 + 1.0, "places": places, "images": images, "one": jnp.ones(3)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_keeps_its_outputs_and_their_structure(dtype):
    (x,) = random_arrays((2, 8, 8, 3))
    x = x.astype(dtype)
    module = Everything()
    variables = module.init(jax.random.key(0), x)
    assert barriers(pad_small_images(module.apply), variables, x) == 1
    plain, padded = jax.jit(module.apply)(variables, x), jax.jit(pad_small_images(module.apply))(variables, x)
    assert jax.tree.structure(plain) == jax.tree.structure(padded)
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, padded)
    np.testing.assert_allclose(plain["top"], padded["top"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(plain["images"], padded["images"])


def test_any_batch_size_on_any_platform():
    """As the folded forward pass is written: with a free batch size, for all platforms; a CPU pads, others need not."""
    x, kernel = random_arrays((5, 2, 2, 3), (3, 3, 3, 4))
    (b,) = jax.export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((b, 2, 2, 3), jnp.float32), jax.ShapeDtypeStruct(kernel.shape, jnp.float32)
    on_both, on_gpu = (
        jax.export.export(jax.jit(pad_small_images(conv_nhwc)), platforms=platforms)(*shapes)
        for platforms in (("cpu", "cuda"), ("cuda",))
    )
    np.testing.assert_allclose(on_both.call(x, kernel), conv_nhwc(x, kernel), rtol=1e-5, atol=1e-5)
    assert "optimization_barrier" in on_both.mlir_module()
    assert "optimization_barrier" not in on_gpu.mlir_module()
