"""Indexing: an affine moves through it where its numbers are known beside each element."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from bncli.folding import fold
from folding.oracle import check_backward, check_fold, check_forward, conv, inputs, make, norm, relu

TABLE = np.array([2, 0, 1])
MOVES = {
    "channels turned": lambda x: x[..., TABLE],
    "clipped": lambda x: jnp.take(x, np.array([-1, 9, 1]), axis=1, mode="clip"),
    "columns and rows": lambda x: x[:, np.array([0, 2])[:, None], np.array([1, 3, 0])[None]],
    "filled with nan": lambda x: jnp.take(x, np.array([0, 3]), axis=1, mode="fill"),
    "rows": lambda x: x[:, np.array([3, 0, 0, 2])],
    "windows": lambda x: jax.vmap(lambda start: lax.dynamic_slice_in_dim(x, start, 2, 1))(jnp.array([1, 3]))[1],
}


@pytest.mark.parametrize("name", MOVES)
def test_an_affine_moves_through_an_indexing(name):
    if name != "channels turned":
        check_backward(MOVES[name])
    check_forward(MOVES[name])


def test_channels_that_a_table_turns_take_their_scale_along():
    check_backward(lambda x: x[..., np.array([2, 0, 1, 3])])


def test_channels_that_are_taken_twice_need_one_scale():
    check_backward(
        lambda x: x[..., np.array([0, 0, 1])], reason="it differs along an axis that a broadcast or a tiling"
    )
    check_forward(lambda x: x[..., np.array([0, 0, 1])])


def test_positions_computed_from_the_input():
    """Whole channels pass; a scale along the axis that is indexed does not."""

    def apply(v, x, axis):
        start = jnp.argmax(x[:, :2, 0, 0].sum(0))
        taken = jnp.take(norm(v, "bn", relu(x)), jnp.arange(3) + start, axis=axis, mode="clip")
        return relu(norm(v, "bn2", jnp.take(conv(v, "a", taken), jnp.arange(2) + start, axis=1, mode="clip")))

    variables = make(bn=3, a=(1, 1, 3, 5), bn2=5)
    check_fold(lambda v, x: apply(v, x, 1), variables, inputs(2, 6, 4, 3), folded=["bn", "bn2"])
    result = check_fold(lambda v, x: apply(v, x, 3), variables, inputs(2, 6, 4, 3), folded=["bn2"], kept=["bn"])
    assert "an axis that is indexed at positions computed from the input" in result.report.norms[0].reason


def test_a_number_in_the_place_of_an_element_is_in_the_way():
    def take(x):
        return jnp.take(x, np.array([0, 9]), axis=1, mode="fill", fill_value=7.0)

    check_backward(take, reason="an indexing (gather) stands in the way")
    check_forward(take, reason="an indexing (gather) stands in the way")


def test_a_bn_behind_an_embedding_goes_into_the_table():
    variables = make(a=(5, 3), bn=3)

    def apply(v, x):
        words = (jnp.abs(x) * 3).astype(jnp.int32) % 5
        return relu(norm(v, "bn", jnp.take(v["params"]["a"]["kernel"], words, axis=0)))

    result = check_fold(apply, variables, inputs(2, 4), folded=["bn"], direction="backward")
    assert result.report.norms[0].into == ("a",)
    assert result.variables["params"]["a"]["kernel"].shape == (5, 3)


def test_words_beyond_the_embedding_stay_nan():
    variables = jax.tree_util.tree_map(lambda a: jnp.asarray(a, jnp.float32), make(a=(5, 3), bn=3))

    def apply(v, x):
        return norm(v, "bn", jnp.take(v["params"]["a"]["kernel"], x.astype(jnp.int32), axis=0))

    x = jnp.array([[0.0, 9.0], [4.0, 2.0]])
    folded = fold(apply, variables, x)
    np.testing.assert_allclose(folded(x), apply(variables, x), rtol=1e-4, atol=1e-4)
    assert np.isnan(np.asarray(folded(x))).any()


CROPS = {
    "crop": lambda x: x[:, :-1, 1:],
    "every other": lambda x: x[:, ::2],
    "flip": lambda x: x[:, ::-1],
    "last row": lambda x: x[:, -1][:, None],
    "offset of a padding": lambda x: jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:],
}


@pytest.mark.parametrize("name", CROPS)
def test_a_slice_is_an_indexing_where_the_batch_size_is_a_symbol(name):
    """The network folds there as it does at a number, and into equal arrays."""
    (size,) = jax.export.symbolic_shape("b")
    variables = jax.tree_util.tree_map(
        lambda a: jnp.asarray(a, jnp.float32), make(a=(3, 3, 3, 4), bn=4, b=(1, 1, 4, 2), bn2=4)
    )

    def apply(v, x):
        y = relu(norm(v, "bn", CROPS[name](conv(v, "a", x))))
        return conv(v, "b", CROPS["crop"](norm(v, "bn2", y))) if y.shape[1] > 1 else y

    def folded(size):
        return fold(apply, variables, jax.ShapeDtypeStruct((size, 6, 4, 3), jnp.float32), verify=False)

    symbolic, concrete = folded(size), folded(2)
    assert symbolic.report == concrete.report
    assert symbolic.report.folded >= 1
    x = jnp.asarray(inputs(3, 6, 4, 3), jnp.float32)
    np.testing.assert_allclose(concrete(x), apply(variables, x), rtol=0, atol=1e-5 * np.abs(apply(variables, x)).max())
    for a, b in zip(*map(jax.tree_util.tree_leaves, (symbolic.variables, concrete.variables)), strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=8, derandomize=True, deadline=None, database=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_any_table(rows, columns):
    def function(x):
        return x[:, np.array(rows)][:, :, np.array(columns)][..., ::-1]

    def apply(v, x):
        y = norm(v, "bn", function(conv(v, "a", x)))
        return conv(v, "b", function(jnp.tile(norm(v, "bn2", relu(y)), (1, 6, 4, 1))))

    variables = make(a=(1, 1, 3, 4), bn=4, bn2=4, b=(1, 1, 4, 2))
    check_fold(apply, variables, inputs(2, 6, 4, 3), folded=["bn", "bn2"], again=False)


def test_an_embedding_of_flax_folds():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, words):
            return nn.relu(nn.BatchNorm(use_running_average=True)(nn.Embed(5, 3)(words)))

    words = jnp.array([[0, 1], [4, 2]])
    variables = Net().init(jax.random.key(0), words)
    result = fold(Net().apply, variables, words)
    assert [row.into for row in result.report.norms] == [("Embed_0",)]
    assert result.report.verification.status == "proved"
