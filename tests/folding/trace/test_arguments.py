"""Variables and inputs of every kind that JAX takes; a FoldError for every other."""

from __future__ import annotations

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.errors import FoldError
from bncli.folding import NothingToFoldWarning, fold
from bncli.folding.trace.arguments import concrete, described, is_batched, like_example
from folding.oracle import assert_same, conv, inputs, make, norm, relu

VARIABLES = jax.tree.map(np.float32, make(a=(3, 3, 3, 4), bn=4))
X = inputs(2, 5, 4, 3).astype(np.float32)
Pair = namedtuple("Pair", "left right")


def block(v, x):
    """ReLU(BN(conv))."""
    return relu(norm(v, "bn", conv(v, "a", x)))


def check(apply, variables, example, *others):
    """Fold with the example; compare with the original on it and on other inputs."""
    folded = fold(apply, variables, example)
    assert [(row.name, row.status) for row in folded.report.norms] == [("bn", "folded")]
    for x in (example, *others):
        assert_same(apply(variables, x), folded(x), 1e-5)
        assert_same(apply(variables, x), folded.apply(folded.variables, x), 1e-5)
    return folded


LEAVES = {
    "a Python float": 2.0,
    "a Python integer": 3,
    "a truth value": True,
    "a NumPy scalar": np.float32(0.5),
    "a NumPy float64": np.full((4,), 0.25),
    "a weak array": jnp.asarray(2.0),
    "float8": jnp.full((4,), 0.5, jnp.float8_e4m3fn),
    "integers": np.arange(4, dtype=np.int8),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", LEAVES)
def test_any_number_may_be_among_the_variables(name, dtype):
    """It gives way to the network's dtype where JAX says so: a Python float does, a float32 does not."""

    def apply(v, x):
        factor = v["extra"] if jnp.asarray(v["extra"]).dtype != jnp.float8_e4m3fn else v["extra"].astype(x.dtype)
        return block(v, x).astype(dtype) * factor

    folded = fold(apply, {**VARIABLES, "extra": LEAVES[name]}, X)
    expected = apply({**VARIABLES, "extra": LEAVES[name]}, X)
    assert folded(X).dtype == expected.dtype
    assert_same(np.asarray(expected, np.float32), np.asarray(folded(X), np.float32), 1e-2)


def test_a_random_key_may_be_among_the_variables():
    def apply(v, x):
        return block(v, x) + jax.random.normal(v["key"], (4,))

    folded = check(apply, {**VARIABLES, "key": jax.random.key(3)}, X)
    assert jnp.issubdtype(folded.variables["key"].dtype, jax.dtypes.prng_key)


def test_a_random_key_may_be_an_input():
    def apply(v, given):
        x, key = given
        return block(v, x) + jax.random.normal(key, (4,))

    check(apply, VARIABLES, (X, jax.random.key(3)), (X, jax.random.key(4)))


STRUCTURES = {
    "a tuple": (lambda a, b: (a, b), lambda x: (x[0], x[1])),
    "a list": (lambda a, b: [a, b], lambda x: (x[0], x[1])),
    "a dict": (lambda a, b: {"b": b, "a": a}, lambda x: (x["a"], x["b"])),
    "a named tuple": (Pair, lambda x: (x.left, x.right)),
    "nested": (lambda a, b: {"x": (a, None, {"y": b})}, lambda x: (x["x"][0], x["x"][2]["y"])),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_several_inputs_are_any_pytree_and_so_are_the_outputs(name):
    together, apart = STRUCTURES[name]

    def apply(v, x):
        first, second = apart(x)
        return {"sum": (block(v, first), None), "pair": Pair(block(v, second).mean((1, 2)), second)}

    check(
        apply,
        VARIABLES,
        together(X, X + 1),
        together(X[:1], X[:1] - 1),
        together(*inputs(2, 5, 5, 4, 3).astype(np.float32)),
    )


def test_inputs_of_different_rank_and_dtype_share_the_batch_axis():
    def apply(v, x):
        return block(v, x["image"]) * x["weight"][:, None, None, None] + x["shift"]

    def batch(size):
        return {"image": np.resize(X, (size, *X.shape[1:])), "weight": np.arange(size), "shift": np.float32(1)}

    check(apply, VARIABLES, batch(2), batch(1), batch(7))


def test_inputs_without_a_common_first_axis_fold_for_their_own_sizes():
    def apply(v, x):
        return block(v, x[0]) + x[1].sum()

    folded = check(apply, VARIABLES, (X, np.ones(7, np.float32)))
    with pytest.raises(
        FoldError, match=r"for an input \(float32\[1, 5, 4, 3\], float32\[7\]\) the network may compute"
    ):
        folded((X[:1], np.ones(7, np.float32)))


OTHERS = {
    "another structure": [X, X],
    "a missing input": (X,),
    "another dtype": (X, X.astype(np.int32)),
    "another size": (X, X[:, 1:]),
    "another rank": (X, X[0]),
    "another batch size for one": (X, X[:1]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_inputs_than_the_example_are_refused(name):
    folded = fold(lambda v, x: block(v, x[0]) + block(v, x[1]), VARIABLES, (X, X))
    with pytest.raises(FoldError, match="than for its example"):
        folded(OTHERS[name])


@pytest.mark.parametrize(
    "leaf", ["text", b"bytes", object(), np.array(["a"]), np.array([None]), np.array("2020", "M8[D]")]
)
def test_what_is_no_array_is_refused_by_name(leaf):
    with pytest.raises(FoldError, match=r"the variable extra/0 is an? .*, and JAX computes with arrays"):
        fold(block, {**VARIABLES, "extra": [leaf]}, X)
    with pytest.raises(FoldError, match=r"the input 1 is an? .*, and JAX computes with arrays"):
        fold(lambda v, x: block(v, x[0]), VARIABLES, (X, leaf))


def test_variables_without_numbers_are_refused():
    shapes = jax.eval_shape(lambda: VARIABLES)
    with pytest.raises(FoldError, match="batch_stats/bn/mean has no numbers: it is a ShapeDtypeStruct"):
        fold(block, shapes, X)
    with pytest.raises(FoldError, match=r"batch_stats/bn/mean has no numbers: it is a \w*Tracer"):
        jax.jit(lambda v: fold(block, v, X)(X))(VARIABLES)


def test_variables_may_be_one_array_or_lists():
    kernel = inputs(3, 4).astype(np.float32)
    with pytest.warns(NothingToFoldWarning):
        folded = fold(lambda v, x: x @ v, kernel, X)
    np.testing.assert_allclose(folded(X), X @ kernel, atol=1e-6)
    assert list(folded.variables) == ["variables"]
    with pytest.warns(NothingToFoldWarning):
        folded = fold(lambda v, x: x @ v[0]["w"] + v[1], [{"w": kernel}, 1.0], X)
    np.testing.assert_array_equal(folded.variables["0"]["w"], kernel)


def test_a_new_name_is_neither_inside_nor_around_another():
    """A bias is filed beside its kernel, where something else may have that name already."""
    params = {"kernel": VARIABLES["params"]["a"]["kernel"], "bias": {"of": np.float32(1)}}
    v = {**VARIABLES, "params": {**params, "bn": VARIABLES["params"]["bn"]}}

    def apply(v, x):
        y = conv({"params": {"a": {"kernel": v["params"]["kernel"]}}}, "a", x)
        return relu(norm(v, "bn", y)) * v["params"]["bias"]["of"]

    folded = check(apply, v, X)
    assert set(folded.variables["params"]) == {"kernel", "bias", "bias_1"}


def test_a_tree_of_modules_is_read_like_one_of_dicts():
    """A state object with other fields than arrays: an optimizer's step, a nested tuple, None."""
    v = {**VARIABLES, "step": 3, "opt_state": (np.float32(0), None, {"mu": VARIABLES["params"]})}
    folded = check(block, v, X)
    assert set(folded.variables) == {"params"}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([(2, 3)], True), ([(2, 3), (2,)], True), ([(2, 3), (3,)], False), ([(2,), ()], True), ([()], False), ([], False)],
)
def test_the_batch_axis_is_common_to_all_inputs_that_have_axes(shapes, expected):
    assert is_batched([jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]) == expected


def test_a_description_keeps_what_jax_needs_to_promote():
    tree = described({"a": 2.0, "b": np.float64(1), "c": jnp.asarray(1)}, "input")
    assert [(x.dtype.name, x.weak_type) for x in jax.tree.leaves(tree)] == [
        ("float32", True),
        ("float32", False),
        ("int32", True),
    ]
    assert like_example(described({"a": np.float32(2), "b": 1.0, "c": 1}, "input"), tree) == tree
    assert concrete({"a": 2.0})["a",].dtype == np.float32
