"""Constants values: exact in float64, whatever the network's own precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bncli.folding.primitives import PRIMITIVES
from bncli.folding.trace.constants import Constants, narrows
from bncli.folding.trace.graph import trace

W = np.random.default_rng(0).uniform(0.5, 2.0, size=(3, 4)).astype(np.float32)

# an expression of a known array -> the same in NumPy's float64
EXPRESSIONS = {
    "abs": (jnp.abs, np.abs),
    "add": (lambda w: w + 0.1, lambda w: w + np.float32(0.1)),
    "broadcast_in_dim": (
        lambda w: jnp.broadcast_to(w[:, None], (3, 2, 4)),
        lambda w: np.broadcast_to(w[:, None], (3, 2, 4)),
    ),
    "concatenate": (lambda w: jnp.concatenate([w, w], 1), lambda w: np.concatenate([w, w], 1)),
    "convert_element_type": (
        lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
        lambda w: w.astype(jnp.bfloat16).astype(np.float64),
    ),
    "div": (lambda w: 1.0 / w, lambda w: 1.0 / w),
    "exp": (jnp.exp, np.exp),
    "integer_pow": (lambda w: w**3, lambda w: w**3),
    "log": (jnp.log, np.log),
    "max": (lambda w: jnp.maximum(w, 1.0), lambda w: np.maximum(w, 1.0)),
    "min": (lambda w: jnp.minimum(w, 1.0), lambda w: np.minimum(w, 1.0)),
    "mul": (lambda w: w * w, lambda w: w * w),
    "neg": (lambda w: -w, lambda w: -w),
    "pow": (lambda w: lax.pow(w, w), lambda w: w**w),
    "reduce_max": (lambda w: w.max(0), lambda w: w.max(0)),
    "reduce_min": (lambda w: w.min(0), lambda w: w.min(0)),
    "reduce_sum": (lambda w: w.sum(1), lambda w: w.sum(1)),
    "reshape": (lambda w: w.reshape(2, 6), lambda w: w.reshape(2, 6)),
    "rev": (lambda w: w[::-1], lambda w: w[::-1]),
    "rsqrt": (lambda w: lax.rsqrt(w), lambda w: 1 / np.sqrt(w)),
    "slice": (lambda w: w[1:, ::2], lambda w: w[1:, ::2]),
    "sqrt": (jnp.sqrt, np.sqrt),
    "square": (jnp.square, np.square),
    "squeeze": (lambda w: jnp.squeeze(w[:, :1], 1), lambda w: w[:, 0]),
    "stop_gradient": (lax.stop_gradient, lambda w: w),
    "sub": (lambda w: w - 0.1, lambda w: w - np.float32(0.1)),
    "tanh": (jnp.tanh, np.tanh),
    "tile": (lambda w: jnp.tile(w, (2, 3)), lambda w: np.tile(w, (2, 3))),
    "transpose": (lambda w: w.T, lambda w: w.T),
}


def evaluate(function, w, *, expect=None):
    """The network x·0 + f(w), and what is known of f(w)."""
    graph = trace(lambda v, x: (x, function(v["w"])), {"w": w}, np.float32(0))
    if expect is not None:
        assert expect in {node.name for node in graph.nodes}
    known = Constants(graph, {("w",): w})
    return known.array(graph.outputs[1]), known.provenance.get(graph.outputs[1])


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_table_computes_in_float64(name):
    mine, numpys = EXPRESSIONS[name]
    array, provenance = evaluate(mine, W, expect=name)
    assert array.dtype == np.float64
    np.testing.assert_allclose(array, numpys(W.astype(np.float64)), rtol=1e-14)
    assert provenance == {("w",)}


def test_every_entry_of_the_table_is_tested():
    with_a_value = {name for name, record in PRIMITIVES.items() if record.value is not None}
    assert with_a_value - set(EXPRESSIONS) <= {"add_any", "copy", "copy_p"}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_a_narrowing_cast_is_part_of_the_value(dtype):
    """Between two operations, and as the last one; the numbers are JAX's own."""
    for function in (lambda w: w.astype(dtype).astype(jnp.float32) * 3.0, lambda w: w.astype(dtype)):
        array, provenance = evaluate(function, W, expect="convert_element_type")
        np.testing.assert_array_equal(array, np.asarray(function(jnp.asarray(W)), np.float64))
        assert provenance == {("w",)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_a_widening_cast_keeps_the_exact_number(dtype):
    """The product before the cast is that of float64, not the one that the narrow type rounds."""
    narrow = W.astype(dtype)
    array, _ = evaluate(lambda w: (w * w).astype(jnp.float32), narrow, expect="convert_element_type")
    np.testing.assert_array_equal(array, narrow.astype(np.float64) ** 2)


WIDENING = [("float16", "float32"), ("bfloat16", "float32"), ("float8_e4m3fn", "bfloat16"), ("float32", "float32")]
NARROWING = [("float32", "float16"), ("float32", "bfloat16"), ("bfloat16", "float16"), ("float16", "bfloat16")]


@pytest.mark.parametrize(("source", "target"), [*WIDENING, *NARROWING])
def test_a_cast_narrows_if_it_loses_digits_or_range(source, target):
    assert narrows(jnp.dtype(source), jnp.dtype(target)) == ((source, target) in NARROWING)


def test_what_the_table_lacks_is_computed_by_jax():
    array, _ = evaluate(lambda w: jnp.sort(jnp.sin(w)), W)
    np.testing.assert_allclose(array, np.sort(np.sin(W)), rtol=1e-6)


def test_integers_divide_as_integers():
    array, _ = evaluate(lambda w: w // 2 + jnp.arange(3), np.array([3, 4, 5]))
    np.testing.assert_array_equal(array, [1, 3, 4])


def test_a_deep_expression_needs_no_deep_stack():
    def deep(w):
        for _ in range(3000):
            w = w + 1.0
        return w

    array, _ = evaluate(deep, np.float32(0.0))
    assert array == 3000


def test_random_bits_are_known_too():
    array, _ = evaluate(lambda w: jax.random.normal(jax.random.key(0), (2,)) + w, np.float32(0.0))
    np.testing.assert_allclose(array, jax.random.normal(jax.random.key(0), (2,)), rtol=1e-6)
