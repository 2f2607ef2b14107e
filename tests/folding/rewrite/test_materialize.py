"""Names, shapes and dtypes of the new arrays."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.folding import fold
from folding.nets import BatchNorm, UNet, trained
from folding.oracle import check_backward, check_fold, check_forward, conv, inputs, make, norm, relu

X = inputs(2, 8, 8, 3).astype(np.float32)


class Kept(nn.Module):
    """One BN that folds, one that stays."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(BatchNorm(name="stays")(nn.relu(nn.Conv(4, (3, 3), use_bias=False)(x))))
        return nn.Dense(5)(nn.relu(BatchNorm(name="goes")(nn.Conv(4, (3, 3), use_bias=False)(x))))


def test_a_new_bias_lies_beside_its_kernel_and_a_kept_bn_is_one_multiply_add():
    model = Kept()
    variables = trained(model, X)
    folded = fold(model.apply, variables, X, verify=False)
    shapes = jax.tree_util.tree_map(jnp.shape, folded.variables)
    assert shapes == {
        "params": {
            "Conv_0": {"kernel": (3, 3, 3, 4)},
            "Conv_1": {"bias": (4,), "kernel": (3, 3, 4, 4)},
            "Dense_0": {"bias": (5,), "kernel": (4, 5)},
            "stays": {"scale": (4,), "shift": (4,)},
        }
    }


def test_arrays_that_no_fold_touches_are_the_same_objects():
    model = Kept()
    variables = trained(model, X)
    folded = fold(model.apply, variables, X, verify=False)
    for layer, name in (("Conv_0", "kernel"), ("Dense_0", "kernel"), ("Dense_0", "bias")):
        assert folded.variables["params"][layer][name] is variables["params"][layer][name]


def test_a_kernel_goes_back_through_flips_and_transposes():
    """A ConvTranspose with transpose_kernel=True flips and swaps its kernel: the new one is filed in the old layout."""
    model = UNet(transpose_kernel=True)
    variables = trained(model, X)
    folded = fold(model.apply, variables, X, verify=False)
    for layer in ("ConvTranspose_0", "ConvTranspose_1"):
        assert folded.variables["params"][layer]["kernel"].shape == variables["params"][layer]["kernel"].shape
        assert folded.variables["params"][layer]["bias"].shape == variables["params"][layer]["bias"].shape


def test_a_kernel_in_another_layout_is_filed_in_that_layout():
    """OIHW, brought to HWIO for the convolution: no transposition of it is its own inverse."""
    variables = make(a=(4, 3, 2, 5), bn=4)

    def apply(v, x):
        kernel = v["params"]["a"]["kernel"].transpose(2, 3, 1, 0)
        return relu(norm(v, "bn", conv({"params": {"a": {"kernel": kernel}}}, "a", x)))

    result = check_fold(apply, variables, inputs(2, 5, 6, 3), folded=["bn"])
    assert result.variables["params"]["a"]["kernel"].shape == (4, 3, 2, 5)


def test_a_computed_kernel_is_filed_under_the_variable_it_came_from():
    """Weight standardization: the product is stored, the variable behind it is not needed any more."""
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        kernel = v["params"]["a"]["kernel"]
        kernel = (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))
        return relu(norm(v, "bn", conv({"params": {"a": {"kernel": kernel}}}, "a", x)))

    result = check_fold(apply, variables, inputs(2, 5, 4, 3), folded=["bn"])
    assert sorted(result.variables["params"]["a"]) == ["bias", "kernel"]


def test_a_kernel_that_is_a_constant_gets_a_name():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4))
    variables = make(bn=4)
    result = check_fold(
        lambda v, x: relu(norm(v, "bn", conv({"params": {"a": {"kernel": kernel}}}, "a", x))),
        variables,
        inputs(2, 5, 4, 3),
        folded=["bn"],
    )
    assert list(result.variables["params"]) == ["conv_general_dilated_0"]


def test_products_are_rounded_once():
    """In float16 the kernel is the float64 product, rounded, and not a product of rounded numbers."""
    variables = make(a=(1, 1, 2, 3), bn=3)
    half = jax.tree_util.tree_map(lambda a: a.astype(np.float16), variables)
    half["params"]["bn"]["scale"] = np.array([1.001, 0.3337, -2.003], np.float16)

    def apply(v, x):
        return relu(norm(v, "bn", conv(v, "a", x)))

    folded = fold(apply, half, np.zeros((1, 4, 4, 2), np.float16))
    exact = jax.tree_util.tree_map(lambda a: a.astype(np.float64), half)
    epsilon = np.float64(np.float16(1e-3))
    gain = exact["params"]["bn"]["scale"] / np.sqrt(exact["batch_stats"]["bn"]["var"] + epsilon)
    kernel = exact["params"]["a"]["kernel"] * gain
    np.testing.assert_array_equal(folded.variables["params"]["a"]["kernel"], kernel.astype(np.float16))


@pytest.mark.parametrize("factor", [None, 0.25])
def test_a_kernel_made_of_integers_is_filed_in_floats(factor):
    """A quantized kernel that is cast on use: its integers cannot hold the folded numbers."""
    variables = make(a=(3, 4), bn=4)
    kernel = np.random.default_rng(0).integers(-5, 5, size=(3, 4)).astype(np.int8)
    variables["params"]["a"] = {"kernel": kernel}

    def apply(v, x):
        kernel = v["params"]["a"]["kernel"].astype(x.dtype)
        return relu(norm(v, "bn", x @ (kernel if factor is None else kernel * factor)))

    x = inputs(5, 3).astype(np.float32)
    variables = jax.tree.map(lambda a: a if a.dtype == np.int8 else a.astype(np.float32), variables)
    folded = fold(apply, variables, x)
    assert [row.status for row in folded.report.norms] == ["folded"]
    np.testing.assert_allclose(folded(x), apply(variables, x), rtol=1e-4, atol=1e-4)
    assert {array.dtype for array in jax.tree.leaves(folded.variables)} == {np.dtype(np.float32)}


def in_dtypes(stored, read, rounded=None):
    """ReLU(BN(conv)) with a kernel stored in one dtype and read in another, if asked rounded to a third on the way."""
    variables = jax.tree.map(lambda a: jnp.asarray(np.abs(a) + 0.1, jnp.float32), make(a=(3, 3, 3, 4), bn=4))
    variables["params"]["a"] = {"kernel": variables["params"]["a"]["kernel"].astype(stored)}

    def apply(v, x):
        kernel = v["params"]["a"]["kernel"]
        kernel = kernel.astype(rounded or read).transpose(1, 0, 2, 3).astype(read)
        y = conv({"params": {"a": {"kernel": kernel}}}, "a", x.astype(read)).astype(jnp.float32)
        return relu(norm(v, "bn", y))

    return apply, variables


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float32"])
def test_a_kernel_that_is_read_in_float32_is_stored_in_it(stored):
    apply, variables = in_dtypes(stored, jnp.float32)
    folded = fold(apply, variables, X, verify=False)
    assert [row.status for row in folded.report.norms] == ["folded"]
    assert {array.dtype for array in jax.tree.leaves(folded.variables)} == {np.dtype(np.float32)}
    expected = apply(variables, X)
    np.testing.assert_allclose(folded(X), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("rounded", ["bfloat16", "float16", "float8_e4m3fn"])
def test_a_kernel_that_is_rounded_on_its_way_is_folded_as_it_is_read(rounded):
    apply, variables = in_dtypes("float32", jnp.float32, rounded)
    folded = fold(apply, variables, X, verify=False)
    expected = apply(variables, X)
    np.testing.assert_allclose(folded(X), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("stored", "read", "filed"),
    [("float32", "bfloat16", "float32"), ("bfloat16", "float16", "float16"), ("bfloat16", "bfloat16", "bfloat16")],
)
def test_a_kernel_is_stored_in_the_wider_of_its_dtype_and_the_one_it_is_read_in(stored, read, filed):
    apply, variables = in_dtypes(stored, read)
    folded = fold(apply, variables, X, verify=False)
    assert folded.variables["params"]["a"]["kernel"].dtype == filed
    expected = apply(variables, X)
    np.testing.assert_allclose(folded(X), expected, rtol=0, atol=2e-2 * np.abs(expected).max())


COARSE = {
    "float8": lambda x: x.astype(jnp.float8_e5m2).astype(x.dtype),
    "four digits": lambda x: jax.lax.reduce_precision(x, 8, 3),
    "a small range": lambda x: jax.lax.reduce_precision(x, 4, 23),
}


@pytest.mark.parametrize("name", COARSE)
def test_no_affine_crosses_a_coarse_rounding_of_the_data(name):
    """Scaled before it, the data would be rounded elsewhere, by percents."""
    for check in (check_backward, check_forward):
        check(COARSE[name], reason="a rounding to a narrow format such as float8 stands in the way")
