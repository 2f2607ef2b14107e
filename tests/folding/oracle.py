"""The one oracle of these tests, and the few layers they are written in."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bncli.folding import Folded, NothingToFoldWarning, fold
from bncli.folding.trace.graph import leaf_path, trace
from folding.reference import evaluate

EPSILON = 1e-3
# In float64 nothing but rounding separates the two networks.
EXACT = 1e-9
# These networks run once: half the time to compile, twice the time to run.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def check_fold(
    apply_fn,
    variables,
    x,
    *,
    folded=None,
    kept=(),
    direction=None,
    tolerance=EXACT,
    batches=(3,),
    again=True,
    compiled=True,
) -> Folded:
    """Fold in float64, compare with the original at several batch sizes, and check what must hold of every fold.

    Args:
        folded: the names that must be folded (None: whatever the report says).
        kept: the names that must be kept (None: likewise).
        direction: the direction that every folded BN must have taken.
        batches: further batch sizes to run at; empty for a network with a fixed one.
        again: whether to check that folding the folded network does nothing.
        compiled: whether to run both by XLA, or else by NumPy, which need not compile them first.
    """
    with jax.enable_x64(True):
        variables = in_float64(variables)
        x = jnp.asarray(x, jnp.float64)
        has_norms = bool(jax.tree.leaves(variables.get("batch_stats")))
        with nullcontext() if has_norms else pytest.warns(NothingToFoldWarning):
            result = fold(apply_fn, variables, x, verify=False)
        rows = {row.name: row for row in result.report.norms}
        if folded is not None:
            assert [name for name, row in rows.items() if row.status == "folded"] == list(folded), rows
        if kept is not None:
            assert [name for name, row in rows.items() if row.status == "kept"] == list(kept), rows
        if direction is not None:
            assert {row.direction for row in rows.values() if row.status == "folded"} == {direction}, rows

        def both(x):
            return apply_fn(variables, x), result.apply(result.variables, x)

        run = jax.jit(both, compiler_options=QUICK_COMPILE) if compiled else partial(evaluate, both)
        for size in batches:
            assert_same(*run(resized(x, size)), tolerance)
        check_report(result)
        if again:
            check_idempotent(result, x)
    return result


def check_report(result: Folded) -> None:
    """A BN has variables left exactly if the report says so, and nothing went into a BN that is gone."""
    rows = result.report.norms
    gone = {row.name for row in rows if row.status == "folded"}
    modules = {"/".join(path[1:-1]) for path, _ in flattened(result.variables)}
    for row in rows:
        assert row.name in modules or row.status == "folded", row
        assert row.name not in modules or row.status == "kept" or row.left, row
        assert (row.status == "kept") == (row.reason is not None) == (row.direction is None), row
        assert not gone.intersection(row.into), row
    if not result.report.kept:
        assert "batch_stats" not in result.variables


def flattened(variables):
    """Each array with its path as plain names."""
    return [(leaf_path(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]]


def check_idempotent(result: Folded, x) -> None:
    """Folding what has been folded changes neither its text nor its variables."""
    if "batch_stats" in result.variables:
        return
    twice = fold(result.apply, result.variables, x, verify=False)
    assert twice.report.norms == ()
    text = trace(result.apply, result.variables, x).text()
    assert trace(twice.apply, twice.variables, x).text() == text
    assert jax.tree_util.tree_all(jax.tree_util.tree_map(lambda a, b: a is b, twice.variables, result.variables))


def assert_same(expected, actual, tolerance) -> None:
    """Equal up to the tolerance, relative to the largest magnitude of each output."""
    assert jax.tree_util.tree_structure(expected) == jax.tree_util.tree_structure(actual)
    for a, b in zip(jax.tree_util.tree_leaves(expected), jax.tree_util.tree_leaves(actual), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * max(1.0, np.abs(a).max(initial=0.0)))


def resized(x, size: int):
    """Other examples, as many as asked for."""
    return jnp.asarray(np.random.default_rng(size).normal(size=(size, *x.shape[1:])), x.dtype)


def in_float64(variables):
    return jax.tree_util.tree_map(lambda array: jnp.asarray(array, jnp.float64), variables)


def inputs(*shape: int, seed: int = 0):
    """Examples of that shape."""
    return np.random.default_rng(seed).normal(size=shape)


def make(seed: int = 0, *, bias: bool = False, **layers):
    """Variables by layer name: a tuple is the shape of a kernel, a number is the width of a BN.

    The BN layers have what training leaves behind and more: negative, zero and tiny scales, a variance of zero.
    """
    rng = np.random.default_rng(seed)
    variables = {"params": {}, "batch_stats": {}}
    for name, shape in layers.items():
        if isinstance(shape, tuple):
            variables["params"][name] = {"kernel": rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))}
            if bias:
                variables["params"][name]["bias"] = rng.normal(size=shape[-1])
        else:
            variables["params"][name], variables["batch_stats"][name] = make_norm(rng, shape)
    return variables


def make_norm(rng, width: int):
    """Scale and bias, mean and variance of one BN, every kind of number among them."""
    scale = rng.normal(size=width)
    scale[: min(width, 3)] = [-1.5, 0.0, 1e-20][: min(width, 3)]
    scale = rng.permutation(scale)
    var = rng.uniform(0.1, 2.0, size=width)
    var[rng.integers(width)] = 0.0
    return {"scale": scale, "bias": rng.normal(size=width)}, {"mean": rng.normal(size=width), "var": var}


def norm(variables, name: str, x, axis: int = -1):
    """Inference BN along any axis."""
    params, stats = variables["params"].get(name, {}), variables["batch_stats"][name]
    shape = [1] * x.ndim
    shape[axis] = -1
    gain = lax.rsqrt(stats["var"].reshape(shape) + EPSILON)
    if "scale" in params:
        gain = gain * params["scale"].reshape(shape)
    y = (x - stats["mean"].reshape(shape)) * gain
    return y + params["bias"].reshape(shape) if "bias" in params else y


def conv(variables, name: str, x, *, strides=None, padding="SAME", numbers=None, **options):
    """A convolution, NHWC and HWIO (NWC, NDHWC likewise) unless told otherwise."""
    kernel = variables["params"][name]["kernel"]
    spatial = "DHW"[-(x.ndim - 2) :]
    numbers = numbers or (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    strides = strides or (1,) * (x.ndim - 2)
    y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **options)
    return y + variables["params"][name]["bias"] if "bias" in variables["params"][name] else y


def dense(variables, name: str, x):
    """x·W, and a bias if it has one."""
    y = x @ variables["params"][name]["kernel"]
    return y + variables["params"][name]["bias"] if "bias" in variables["params"][name] else y


def check_backward(function, shape=(2, 6, 4, 3), *, kernel=(3, 3, 3, 4), reason=None, into=("a",), axis=-1) -> Folded:
    """conv -> function -> BN -> ReLU folds into the convolution, or is kept for the reason."""

    def before(v, x):
        return function(conv(v, "a", x))

    width = shape_after(lambda x: before(in_float64(make(a=kernel)), x), shape)[axis]
    variables = make(a=kernel, bn=width)
    return _checked(lambda v, x: relu(norm(v, "bn", before(v, x), axis)), variables, shape, "backward", reason, into)


def check_forward(function, shape=(2, 6, 4, 3), *, reason=None, axis=-1) -> Folded:
    """ReLU -> BN -> function -> conv (or dense) folds into that, or is kept for the reason."""
    out = shape_after(function, shape)
    window = (2,) * (len(out) - 2)
    variables = make(bn=shape[axis], a=(*window, out[-1], 5))

    def apply(v, x):
        y = function(norm(v, "bn", relu(x), axis))
        return dense(v, "a", y) if y.ndim == 2 else conv(v, "a", y)

    return _checked(apply, variables, shape, "forward", reason, ("a",))


def shape_after(function, shape):
    """The shape of function(x)."""
    with jax.enable_x64(True):
        return jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.float64)).shape


def _checked(apply, variables, shape, direction, reason, into) -> Folded:
    if reason is None:
        result = check_fold(apply, variables, inputs(*shape), folded=["bn"], direction=direction)
        assert result.report.norms[0].into == into
        return result
    result = check_fold(apply, variables, inputs(*shape), kept=["bn"])
    assert reason in result.report.norms[0].reason, result.report.norms[0].reason
    return result


def relu(x):
    return jnp.maximum(x, 0.0)
