"""One fold, any batch size, and whatever JAX does to functions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.breadth import broad

from bncli.errors import FoldError
from bncli.folding import fold
from bncli.folding.rewrite.program import MultiplyAdd, Term
from folding.nets import Classic, ResNet, trained
from folding.oracle import conv, make, norm, relu

X = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=broad([Classic(), Classic(post=True), ResNet((1, 1))], lambda net: net != Classic()),
    ids=["pre", "post", "resnet"],
)
def network(request):
    variables = trained(request.param, X)
    return (
        request.param,
        variables,
        fold(request.param.apply, variables, jax.ShapeDtypeStruct((2, *X.shape[1:]), X.dtype), verify=False),
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_batch_size(network, size):
    model, variables, folded = network
    np.testing.assert_allclose(folded(X[:size]), model.apply(variables, X[:size]), rtol=1e-4, atol=1e-4)


def test_a_multiply_add_is_computed_in_the_widest_type_and_rounded_once():
    x = jnp.asarray([256.0], jnp.bfloat16)
    arrays = {("scale",): jnp.asarray([1.001], jnp.float32), ("shift",): jnp.asarray([0.75], jnp.float32)}
    add = MultiplyAdd(Term(("scale",), (1,)), Term(("shift",), (1,)))
    assert add(x, arrays, jnp.float32) == np.float32(256.0) * np.float32(1.001) + np.float32(0.75)
    assert add(x, arrays, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.sample(1)
def test_a_symbolic_batch_size(network):
    model, variables, folded = network
    (batch,) = jax.export.symbolic_shape("b")
    shapes = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), folded.variables)
    exported = jax.export.export(jax.jit(folded.apply))(shapes, jax.ShapeDtypeStruct((batch, *X.shape[1:]), X.dtype))
    for size in (1, 3):
        y = exported.call(folded.variables, X[:size])
        np.testing.assert_allclose(y, model.apply(variables, X[:size]), rtol=1e-4, atol=1e-4)


def test_apply_is_a_pure_function_of_its_variables(network):
    _, _, folded = network
    zeros = jax.tree_util.tree_map(jnp.zeros_like, folded.variables)
    assert not np.any(jax.jit(folded.apply)(zeros, X))
    on_host = jax.tree_util.tree_map(np.asarray, folded.variables)
    np.testing.assert_allclose(folded.apply(on_host, X), folded(X), rtol=1e-4, atol=1e-5)


@pytest.mark.sample(1)
def test_it_can_be_mapped_and_differentiated(network):
    model, variables, folded = network
    mapped = jax.vmap(lambda x: folded.apply(folded.variables, x[None])[0])(X)
    np.testing.assert_allclose(mapped, folded(X), rtol=1e-4, atol=1e-4)

    def loss(apply, variables):
        return jax.grad(lambda x: apply(variables, x)[:, 0].sum())(X)

    expected = loss(model.apply, variables)
    np.testing.assert_allclose(
        loss(folded.apply, folded.variables), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("shape", [(2, 24, 20, 3), (2, 16, 8, 3)])
def test_another_image_size_is_refused(network, shape):
    """A mean over H·W, once folded, is a number: at another size it would be silently wrong."""
    _, _, folded = network
    with pytest.raises(FoldError, match="may compute other numbers"):
        folded(np.zeros(shape, np.float32))


def test_a_number_that_depends_on_the_batch_size_is_refused():
    variables = make(a=(3, 3, 3, 4), bn=4)
    variables = jax.tree_util.tree_map(lambda array: array.astype(np.float32), variables)

    def apply(v, x):
        return relu(norm(v, "bn", conv(v, "a", x) / x.shape[0]))

    folded = fold(apply, variables, X)
    np.testing.assert_allclose(folded(X), apply(variables, X), rtol=1e-4, atol=1e-4)
    with pytest.raises(FoldError, match="other operations"):
        folded(X[:1])


def test_a_network_that_does_other_things_at_another_batch_size_is_refused():
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x))
            return jnp.sin(x) if x.shape[0] == 1 else x

    model = Odd()
    folded = fold(model.apply, trained(model, X), X, verify=False)
    folded(X[:2])
    with pytest.raises(FoldError, match="other operations"):
        folded(X[:1])


def test_a_network_with_a_fixed_batch_size_folds_for_that():
    class Fixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True)(nn.relu(nn.Conv(4, (3, 3))(x)))
            return nn.Dense(5)(x.reshape(3, 16 * 16 * 4))

    model = Fixed()
    variables = trained(model, X)
    folded = fold(model.apply, variables, X, verify=False)
    assert folded.report.kept == 0
    np.testing.assert_allclose(folded(X), model.apply(variables, X), rtol=1e-4, atol=1e-4)
