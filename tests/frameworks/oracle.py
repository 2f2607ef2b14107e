"""The one oracle for the networks of every framework."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

import bncli
from bncli.folding import Folded
from bncli.folding.export import stablehlo
from bncli.folding.export.onnx import to_onnx

# Relative to the largest output, in float32.
TOLERANCE = 1e-5
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 8, 8, 3)).astype(np.float32)


def numbers(shape, name, rng):
    """Statistics, scales and biases such as training leaves behind, negative scales among them."""
    if name in ("var", "variance", "moving_variance", "average"):
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32)


def check(network, call, x, *, folded, kept=(), arrays=(), exports=True, **state) -> Folded:
    """Fold with the one call, and compare with the network itself at other batch sizes and in other formats.

    Args:
        call: x -> the outputs of the user's network in eval mode.
        folded: the names of the rows that must be folded, in order; `kept`: likewise.
        arrays: what the call of `bncli.fold` needs between the network and the example.
    """
    before = bits((network, arrays, state))
    result = bncli.fold(network, *arrays, x, **state)
    assert bits((network, arrays, state)) == before
    rows = result.report.norms
    assert [row.name for row in rows if row.status == "folded"] == list(folded), rows
    assert [row.name for row in rows if row.status == "kept"] == list(kept), rows
    assert result.report.verification.status == "proved"
    for size in (2, 3):
        same(call(x[:size]), result(x[:size]))
    if exports:
        check_exports(result, call, x)
    return result


def check_exports(result, call, x) -> None:
    """ONNX without a BatchNormalization in it, and StableHLO, both for any batch size."""
    (size,) = jax.export.symbolic_shape("b")
    example = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    model = to_onnx(result.apply, result.variables, example)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    same(call(x), session.run(None, {model.graph.input[0].name: np.asarray(x)})[0], tolerance=1e-4)
    program = stablehlo.lower(result.apply, result.variables, example)
    again = jax.export.deserialize(program.serialize())
    same(call(x), again.call(result.variables, jnp.asarray(x)))


def same(expected, actual, tolerance=TOLERANCE) -> None:
    """Equal up to the tolerance, relative to the largest magnitude."""
    expected, actual = np.asarray(expected), np.asarray(actual)
    assert expected.shape == actual.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def bits(tree) -> list[bytes]:
    """Every array of a user's object, to the bit."""
    leaves = jax.tree_util.tree_leaves(tree)
    models = [leaf for leaf in leaves if type(leaf).__module__.startswith("keras")]  # objects with lists of arrays
    leaves += [np.asarray(variable.value) for model in models for variable in model.variables]
    return [numbers_of(leaf).tobytes() for leaf in leaves if hasattr(leaf, "dtype")]


def numbers_of(leaf) -> np.ndarray:
    """The array; of a PRNG key, its bits."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
