"""The table of primitives: every parameter is accounted for, every function of a record says the same as JAX."""

from __future__ import annotations

import functools
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import SingleDeviceSharding

import bncli.folding.primitives as table
from bncli.folding.primitives import PRIMITIVES, RECORDS, primitive_of
from bncli.folding.primitives.primitive import IGNORABLE, Primitive
from bncli.folding.trace.graph import trace
from folding.oracle import check_backward, check_fold, check_forward, conv, inputs, make, norm, relu

SHAPE = (2, 6, 4, 3)
X = np.random.default_rng(0).uniform(0.5, 2.0, size=SHAPE).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype(np.float32)
NUMBERS = ("NHWC", "HWIO", "NHWC")

# Programs that together use every primitive of the table, and every parameter at a value that does something.
CORPUS = {
    "abs": jnp.abs,
    "argmax": lambda x: x.argmax(1),
    "broadcast": lambda x: lax.broadcast_in_dim(x[..., :1], (2, 5, 6, 4, 3), (0, 2, 3, 4)),
    "calls": lambda x: jax.checkpoint(jax.nn.relu)(x) + jax.jit(jnp.cos)(x) + closed(x) + with_own_gradient(x),
    "casts": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "choices": lambda x: lax.clamp(0.6, jnp.where(x > 1, x, 2 * x), 1.5) + jnp.where(x <= 1, x, -x),
    "comparisons": lambda x: ((x >= 1) & (x < 1.5)).astype(x.dtype),
    "conv": lambda x: lax.conv_general_dilated(
        x, KERNEL, (2, 1), ((1, 2), (0, 1)), (1, 2), (2, 1), NUMBERS, precision="highest"
    ),
    "conv groups": lambda x: lax.conv_general_dilated(
        x, KERNEL[:, :, :1, :3], (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=3
    ),
    "copies": lambda x: checkpoint_name(lax.stop_gradient(jnp.array(x, copy=True)), "kept"),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "dot": lambda x: lax.dot_general(
        x, KERNEL[0], (((3,), (1,)), ((), ())), precision="highest", preferred_element_type=jnp.float32
    ),
    "dot batch": lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x),
    "functions": lambda x: jnp.exp(x) + jnp.expm1(x) + jnp.log(x) + jnp.log1p(x) + jnp.tanh(x) + jax.nn.sigmoid(x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False) + lax.erf(x),
    "gradient": jax.grad(lambda x: (x * x + x).sum()),
    "indexing beyond the end": lambda x: jnp.take(x, np.array([0, 9]), axis=1, mode="fill"),
    "joins": lambda x: jnp.concatenate([x, 2 * x], 1),
    "loops": lambda x: (
        lax.fori_loop(0, 3, lambda i, c: c + 1, x) + lax.while_loop(lambda c: c.sum() < 1, lambda c: c + 1, x)
    ),
    "branch": lambda x: lax.cond(x.sum() > 0, jnp.negative, jnp.positive, x),
    "indexing": lambda x: x[jnp.array([1, 0])] + lax.dynamic_slice(x, (0, jnp.argmax(x) * 0, 0, 0), (2, 1, 4, 3)),
    "numbers": lambda x: -((x + 1.0 - 2.0 * x) / 3.0) + jnp.maximum(x, 1.0) - jnp.minimum(x, 1.0),
    "optimization": lambda x: lax.optimization_barrier((x, x))[0],
    "pad": lambda x: lax.pad(x, np.float32(0.5), ((0, 0, 0), (1, 2, 1), (-1, 0, 0), (0, 0, 0))),
    "pools": lambda x: (
        pool(x, -jnp.inf, lax.max)
        + pool(x, jnp.inf, lax.min)
        + pool(x, 0.0, lax.add, base_dilation=(1, 2, 1, 1))[:, :3]
    ),
    "powers": lambda x: lax.integer_pow(x, 3) + x**2.5 + lax.square(x) + jnp.sqrt(x) + lax.rsqrt(x),
    "precision": lambda x: lax.reduce_precision(x, 8, 7),
    "reductions": lambda x: x.sum((1, 2)) + x.max((1, 2)) + x.min((1, 2)),
    "reshape": lambda x: x.reshape(2, 12, 6),
    "reshape in another order": lambda x: lax.reshape(x, (3, 12, 4), dimensions=(3, 0, 1, 2)),
    "rev": lambda x: lax.rev(x, (1, 3)),
    "scan": lambda x: lax.scan(lambda c, y: (c + y, y), x[0], x)[0],
    "sharding": lambda x: lax.with_sharding_constraint(x, SingleDeviceSharding(jax.devices()[0])),
    "slice": lambda x: lax.slice(x, (0, 1, 0, 1), (2, 6, 4, 3), (1, 2, 3, 1)),
    "split": lambda x: jnp.split(x, (1, 3), 1)[1],
    "squeeze": lambda x: jnp.squeeze(x[:, :1], 1),
    "tile": lambda x: jnp.tile(x, (1, 2, 1, 3)),
    "transpose": lambda x: jnp.transpose(x, (3, 0, 2, 1)),
}
# Records without a program: other names that only other versions of JAX give to the same operations.
OLDER_NAMES = {"checkpoint", "closed_call", "core_call", "copy_p", "custom_vjp_call_jaxpr", "pjit"}


def pool(x, start, function, base_dilation=(1, 1, 1, 1)):
    padding = ((0, 0), (1, 0), (0, 1), (0, 0))
    return lax.reduce_window(x, start, function, (1, 2, 2, 1), (1, 2, 1, 1), padding, base_dilation, (1, 1, 2, 1))


@jax.custom_vjp
def with_own_gradient(x):
    return x * 2


with_own_gradient.defvjp(lambda x: (x * 2, None), lambda residual, g: (g * 2,))


@partial(jax.custom_jvp, nondiff_argnums=())
def closed(x):
    return x + 1


closed.defjvp(lambda primals, tangents: (primals[0] + 1, tangents[0]))


def equations(jaxpr):
    """Every equation of a jaxpr and of the jaxprs in its parameters."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def traced():
    """Every equation of the corpus."""
    return [eqn for function in CORPUS.values() for eqn in equations(jax.make_jaxpr(function)(X).jaxpr)]


@functools.cache
def operations(name):
    """(node, operands, result) of every operation of a program of the corpus that the folder sees, for X."""
    graph = trace(lambda v, x: CORPUS[name](v), X, np.float32(0))
    values = {**dict.fromkeys(graph.inputs, np.float32(0)), **dict.fromkeys(graph.leaves, X), **graph.constants}
    found = []
    for node in graph.nodes:
        operands = [values[value] for value in node.inputs]
        values.update(zip(node.outputs, node.bind(operands), strict=True))
        found.append((node, operands, values[node.outputs[0]]))
    return found


def test_the_corpus_has_every_primitive_of_the_table():
    assert set(PRIMITIVES) - {eqn.primitive.name for eqn in traced()} <= OLDER_NAMES


def test_every_parameter_of_every_primitive_in_the_table_is_accounted_for():
    """A parameter that a new JAX adds makes this fail, and the operation stuck, until its record names it."""
    for eqn in traced():
        record = primitive_of(eqn.primitive.name)
        if record.rules is record.affine is record.value is None:
            continue
        assert record.unknown_parameter(eqn.params) is None, eqn


def test_every_ignored_parameter_has_a_reason_and_is_ignored_somewhere():
    assert set().union(*(record.ignores for record in RECORDS)) == set(IGNORABLE)
    assert list(IGNORABLE) == sorted(IGNORABLE)


def test_no_name_has_two_records():
    assert sum(len(record.names) for record in RECORDS) == len(PRIMITIVES)


@pytest.mark.parametrize("name", CORPUS)
def test_a_value_is_that_of_jax(name):
    for node, operands, expected in operations(name):
        record = primitive_of(node.name)
        if record.value is None or not all(jnp.issubdtype(o.dtype, jnp.floating) for o in (*operands, expected)):
            continue
        value = record.value(record.seen(node.params), [np.asarray(o, np.float64) for o in operands])
        assert value.shape == expected.shape, node
        rtol = 1e-2 if "16" in str(expected.dtype) else 1e-5
        np.testing.assert_allclose(value, np.asarray(expected, np.float64), rtol=rtol, err_msg=str(node))


@pytest.mark.parametrize("name", CORPUS)
def test_an_inverse_undoes_what_jax_does(name):
    for node, operands, expected in operations(name):
        record = primitive_of(node.name)
        if record.inverse is None:
            continue
        array = record.inverse(record.seen(node.params), np.asarray(expected, np.float64), operands[0].shape)
        np.testing.assert_allclose(array, np.asarray(operands[0], np.float64), rtol=1e-2, err_msg=str(node))


# --- a parameter that nothing accounts for --------------------------------------------------------------------------


def without(monkeypatch, name: str, parameter: str) -> None:
    """A table in which no record has heard of the parameter."""
    record = PRIMITIVES[name]
    changed = replace(record, reads=record.reads - {parameter}, ignores=record.ignores - {parameter}, defaults={})
    monkeypatch.setattr(table, "PRIMITIVES", {**PRIMITIVES, name: changed})


def test_a_rule_with_an_unknown_parameter_is_not_asked(monkeypatch):
    without(monkeypatch, "reduce_window_sum", "base_dilation")
    check_backward(
        lambda x: pool(x, 0.0, lax.add),
        reason="before it, an average pool has the parameter 'base_dilation', for which there is no fold rule",
    )


def test_an_affine_with_an_unknown_parameter_is_no_chain(monkeypatch):
    without(monkeypatch, "mul", "out_dtype")
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        return relu(norm(v, "bn", conv(v, "a", x)))

    result = check_fold(apply, variables, inputs(2, 5, 4, 3), kept=["bn"])
    reason = "a product has the parameter 'out_dtype', for which there is no fold rule"
    assert result.report.norms[0].reason == reason


def test_an_inverse_with_an_unknown_parameter_is_not_used(monkeypatch):
    """The kernel is stored in the layout in which the convolution reads it; the fold itself is right."""
    without(monkeypatch, "reshape", "dimensions")
    variables = make(a=(4, 3, 3, 3), bn=4)
    result = check_fold(fortran, variables, inputs(2, 5, 4, 3), folded=["bn"])
    assert result.variables["params"]["a"]["kernel"].shape == (3, 3, 3, 4)


def test_a_value_with_an_unknown_parameter_is_computed_by_jax(monkeypatch):
    without(monkeypatch, "transpose", "permutation")
    variables = make(a=(4, 3, 3, 3), bn=4)

    def apply(v, x):
        kernel = v["params"]["a"]["kernel"].transpose(2, 3, 1, 0)
        return relu(norm(v, "bn", conv({"params": {"a": {"kernel": kernel}}}, "a", x)))

    check_fold(apply, variables, inputs(2, 5, 4, 3), folded=["bn"])


def test_a_parameter_at_its_default_is_accepted_and_at_no_other_value():
    record = Primitive(names=("new",), reads=frozenset({"axis"}), defaults={"mode": None})
    assert record.unknown_parameter({"axis": 3, "mode": None}) is None
    assert record.unknown_parameter({"axis": 3, "mode": "wrap"}) == "mode"
    assert record.unknown_parameter({"axis": 3, "order": None}) == "order"
    assert record.seen({"axis": 3, "mode": None}) == {"axis": 3}


# --- reshape with `dimensions`: a transpose inside a reshape --------------------------------------------------------


def fortran(v, x):
    """conv with a kernel that is stored in another order, BN, ReLU."""
    kernel = v["params"]["a"]["kernel"].reshape((3, 3, 3, 4), order="F")
    return relu(norm(v, "bn", conv({"params": {"a": {"kernel": kernel}}}, "a", x)))


def test_a_kernel_from_a_reshape_in_another_order_is_stored_in_its_own():
    result = check_fold(fortran, make(a=(4, 3, 3, 3), bn=4), inputs(2, 5, 4, 3), folded=["bn"])
    assert result.variables["params"]["a"]["kernel"].shape == (4, 3, 3, 3)


def test_an_affine_moves_through_a_reshape_in_another_order():
    def channels_first(x):
        return lax.reshape(x, (x.shape[0], x.shape[3] * x.shape[1] * x.shape[2]), dimensions=(0, 3, 1, 2))

    def positions_merged(x):
        return lax.reshape(x, (x.shape[0], x.shape[3], x.shape[1] * x.shape[2]), dimensions=(0, 3, 1, 2))

    check_forward(channels_first)
    check_backward(positions_merged, axis=1)


def test_channels_that_a_reshape_in_another_order_merges_with_the_batch_are_kept():
    check_forward(
        lambda x: lax.reshape(x, (x.shape[0] * x.shape[3], *x.shape[1:3], 1), dimensions=(3, 0, 1, 2)),
        reason="merges its channels with the batch",
    )


def test_an_ensemble_by_vmap_over_kernels_folds():
    """vmap of a convolution over its kernels makes such reshapes: the members become groups of channels."""
    members = [make(seed, a=(3, 3, 3, 4), bn=4) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *members)

    def apply(v, x):
        return jax.vmap(lambda v: relu(norm(v, "bn", conv(v, "a", x))))(v)

    check_fold(apply, stacked, inputs(2, 5, 4, 3), folded=["bn"])


# --- the documentation -----------------------------------------------------------------------------------------------


def test_the_diff_in_the_documentation_is_the_code():
    root = Path(__file__).parents[3]
    file, lines = root, 0
    for line in (root / "docs" / "_snippets" / "add_primitive.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("+++ b/"):
            file = root / line.removeprefix("+++ b/")
        elif line.startswith("+"):
            lines += 1
            assert line.removeprefix("+") in file.read_text(encoding="utf-8").splitlines(), line
    assert lines > 15
