"""The body of a scan is a network of its own: BN in it folds, in each iteration with the numbers of that iteration."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from support.breadth import broad

from bncli.errors import FoldError
from bncli.folding import fold
from bncli.folding.trace.bodies import find_bodies
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import trace
from folding.oracle import check_fold, conv, dense, inputs, make, norm, relu

X = inputs(2, 4, 6, 3)
RANDOM = {"deadline": None, "database": None}


def stacked(*layers):
    """The variables of several layers as rows."""
    return jax.tree_util.tree_map(lambda *arrays: np.stack(arrays), *layers)


def layers(length=3, **shapes):
    """Variables with a row for each iteration, each with other special numbers in its BN."""
    return stacked(*(make(seed, **shapes) for seed in range(length)))


def repeated(block, **options):
    """The block as the body of a scan over its variables."""
    return lambda v, x: lax.scan(lambda y, row: (block(row, y), None), x, v, **options)[0]


def loops(result, x) -> list[str]:
    """The operations of the folded network."""
    with jax.enable_x64(True):
        return [node.name for node in trace(result.apply, result.variables, x).live()]


BACKWARD = {"a": (3, 3, 3, 3), "bn": 3}
BLOCKS = {
    "conv, BN": (lambda v, y: relu(norm(v, "bn", conv(v, "a", y))), BACKWARD),
    "BN, conv": (lambda v, y: relu(conv(v, "a", norm(v, "bn", relu(y)))), BACKWARD),
    "BN, conv without padding, pad": (
        lambda v, y: jnp.pad(conv(v, "a", norm(v, "bn", relu(y)), padding="VALID"), ((0, 0), (1, 1), (1, 1), (0, 0))),
        BACKWARD,
    ),
    "conv, max-pool, BN: a sign in some iterations": (
        lambda v, y: relu(norm(v, "bn", nn.max_pool(conv(v, "a", y), (2, 2), padding="SAME"))),
        BACKWARD,
    ),
    "residual": (
        lambda v, y: relu(y + norm(v, "bn2", conv(v, "b", relu(norm(v, "bn", conv(v, "a", y)))))),
        {"a": (3, 3, 3, 4), "bn": 4, "b": (1, 1, 4, 3), "bn2": 3},
    ),
    "dense": (lambda v, y: jnp.tanh(norm(v, "bn", dense(v, "a", y))), {"a": (3, 3), "bn": 3}),
    "kernel turned": (
        lambda v, y: relu(norm(v, "bn", y @ v["params"]["a"]["kernel"].T)),
        {"a": (3, 3), "bn": 3},
    ),
    "BN, BN": (
        lambda v, y: relu(norm(v, "bn2", norm(v, "bn", conv(v, "a", y)))),
        {"a": (3, 3, 3, 3), "bn": 3, "bn2": 3},
    ),
}


@pytest.mark.parametrize("reverse", broad([False, True], lambda reverse: not reverse))
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_folds_in_each_iteration(name, reverse):
    block, shapes = BLOCKS[name]
    norms = [layer for layer in shapes if layer.startswith("bn")]
    result = check_fold(repeated(block, reverse=reverse), layers(**shapes), X, folded=norms)
    assert loops(result, X).count("scan") == 1
    assert "batch_stats" not in result.variables
    assert result.variables["params"]["a"]["kernel"].shape == (3, *shapes["a"])


def test_a_kept_bn_is_one_multiply_add_with_a_row_for_each_iteration():
    """Pre-activation: the first BN stands behind the loop's carry and in front of a ReLU."""

    def block(v, y):
        y = conv(v, "a", relu(norm(v, "bn", y)))
        return y + conv(v, "b", relu(norm(v, "bn2", y)))

    variables = layers(a=(3, 3, 3, 3), bn=3, b=(1, 1, 3, 3), bn2=3)
    result = check_fold(repeated(block), variables, X, kept=["bn", "bn2"])
    reasons = {row.name: row.reason for row in result.report.norms}
    assert reasons["bn"] == "before it, there is only the loop's input; after it, a ReLU stands in the way"
    assert {name: array.shape for name, array in result.variables["params"]["bn"].items()} == {
        "scale": (3, 3),
        "shift": (3, 3),
    }


def test_a_scale_that_must_be_positive_in_each_iteration():
    """A BN is folded only if every iteration lets it: here the second one has a negative scale in front of a ReLU."""
    variables = layers(length=2, a=(3, 3, 3, 3), bn=3)
    scale = np.ones((2, 3))
    zero = np.zeros((2, 3))
    variables["params"]["bn"] = {"scale": scale, "bias": zero}
    variables["batch_stats"]["bn"]["mean"] = zero

    def block(v, y):
        return conv(v, "a", relu(norm(v, "bn", y)))

    check_fold(repeated(block), variables, X, folded=["bn"], direction="forward")
    scale[1, 1] = -1.0
    check_fold(repeated(block), variables, X, kept=["bn"])


def test_the_weights_of_a_recurrent_network_are_shared_by_all_steps():
    variables = make(a=(3, 5), bn=5, b=(5, 5))

    def apply(v, x):
        def step(h, xt):
            h = jnp.tanh(norm(v, "bn", dense(v, "a", xt)) + dense(v, "b", h))
            return h, h

        return lax.scan(step, jnp.zeros((len(x), 5), x.dtype), x.swapaxes(0, 1))[1]

    result = check_fold(apply, variables, inputs(2, 4, 3), folded=["bn"])
    assert result.variables["params"]["a"]["kernel"].shape == (3, 5)


def test_shared_weights_with_statistics_of_each_iteration_become_rows():
    variables = make(a=(3, 3, 3, 3)) | {}
    rows = layers(bn=3)

    def apply(v, x):
        def step(y, row):
            return relu(norm(row, "bn", conv(v, "a", y))), None

        own = {"params": {"bn": v["params"]["bn"]}, "batch_stats": v["batch_stats"]}
        return lax.scan(step, x, own)[0]

    variables = {"params": variables["params"] | rows["params"], "batch_stats": rows["batch_stats"]}
    result = check_fold(apply, variables, X, folded=["bn"])
    assert result.variables["params"]["a"]["kernel"].shape == (3, 3, 3, 3, 3)


def test_one_example_after_the_other():
    """`lax.map` over the batch has as many iterations as examples, with the same weights for each."""
    variables = make(a=(3, 3, 3, 3), bn=3)
    check_fold(
        lambda v, x: lax.map(lambda one: relu(norm(v, "bn", conv(v, "a", one[None])))[0], x),
        variables,
        X,
        folded=["bn"],
    )


def test_rows_as_many_as_examples_are_not_folded():
    """A row of variables for each example: at another batch size there would be other rows."""
    variables = layers(length=2, a=(3, 3), bn=3)

    def apply(v, x):
        return lax.scan(lambda _, row: (None, relu(norm(row[0], "bn", dense(row[0], "a", row[1])))), None, (v, x))[1]

    check_fold(apply, variables, inputs(2, 3), folded=["bn"], batches=())


def test_a_loop_in_a_loop():
    variables = stacked(*(layers(length=2, a=(3, 3), bn=3) for _ in range(3)))

    def block(v, y):
        return relu(norm(v, "bn", dense(v, "a", y)))

    def apply(v, x):
        return lax.scan(lambda y, rows: (repeated(block)(rows, y), None), x, v)[0]

    result = check_fold(apply, variables, X, folded=["bn"])
    assert result.variables["params"]["a"]["kernel"].shape == (3, 2, 3, 3)


def test_around_and_between_loops():
    """BN in front of the loop folds there; the loop's own folds inside."""
    rows = layers(a=(3, 3, 3, 3), bn=3)
    outer = make(7, stem=(3, 3, 3, 3), stem_bn=3)

    def apply(v, x):
        x = relu(norm(v, "stem_bn", conv(v, "stem", x)))
        own = {kind: {name: v[kind][name] for name in ("a", "bn") if name in v[kind]} for kind in v}
        return repeated(BLOCKS["conv, BN"][0])(own, x).mean((1, 2))

    variables = {kind: outer[kind] | rows[kind] for kind in rows}
    result = check_fold(apply, variables, X, folded=["stem_bn", "bn"])
    assert result.report.norms[1].into == ("a",)


def test_layers_are_chosen_by_name():
    block, shapes = BLOCKS["residual"]
    with jax.enable_x64(True):
        variables = layers(**shapes)
        x = jnp.asarray(X)
        result = fold(repeated(block), variables, x, exclude=["bn2"])
        assert [row.status for row in result.report.norms] == ["folded", "kept"]
        assert result.report.norms[1].reason == "it was not selected"
        np.testing.assert_allclose(result(x), repeated(block)(variables, x), rtol=1e-9, atol=1e-9)


def test_statistics_without_a_name_are_found_in_a_loop():
    """By structure: a variable under a square root with ε, another one subtracted."""
    rows = layers(a=(3, 3), bn=3)
    variables = [rows["params"]["a"]["kernel"], rows["batch_stats"]["bn"]["mean"], rows["batch_stats"]["bn"]["var"]]

    def apply(v, x):
        return lax.scan(lambda y, row: (jnp.tanh((y @ row[0] - row[1]) * lax.rsqrt(row[2] + 1e-3)), None), x, v)[0]

    result = fold(apply, variables, X.astype(np.float32))
    assert result.report.recognised == "by structure"
    assert [row.status for row in result.report.norms] == ["folded"]
    assert result.report.verification.status == "proved"


def test_statistics_of_the_batch_are_refused_inside_too():
    """Train mode: the running statistics are only updated, and nobody reads the updates."""

    def block(y, v):
        y = dense(v, "a", y)
        mean, (scale, bias) = y.mean(0), (v["params"]["bn"][name] for name in ("scale", "bias"))
        return (y - mean) * scale + bias, v["batch_stats"]["bn"]["mean"] * 0.9 + mean * 0.1

    with pytest.raises(FoldError, match="bn normalises with the statistics of the batch"):
        fold(lambda v, x: lax.scan(block, x, v)[0], layers(a=(3, 3), bn=3), inputs(4, 3).astype(np.float32))


class Block(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, _):
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(self.features, (3, 3))(x)))
        return nn.relu(x + nn.BatchNorm(use_running_average=True)(nn.Conv(self.features, (3, 3))(y))), None


@pytest.mark.parametrize("axis", [0, 1])
def test_nn_scan_with_stacked_variables_along_any_axis(axis):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": axis, "batch_stats": axis}
            return nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=2)(3)(x, None)[0]

    model, rng = Net(), np.random.default_rng(0)
    variables = model.init(jax.random.key(0), jnp.asarray(X, jnp.float32))
    variables = jax.tree_util.tree_map(lambda a: rng.uniform(0.5, 1.5, a.shape), variables)
    names = [f"ScanBlock_0/BatchNorm_{number}" for number in (0, 1)]
    result = check_fold(model.apply, variables, X, folded=names, tolerance=1e-5)
    expected = jax.tree_util.tree_map(np.shape, variables["params"]["ScanBlock_0"]["Conv_0"])
    kernel = result.variables["params"]["ScanBlock_0"]["Conv_0"]["kernel"]
    assert kernel.shape == expected["kernel"]


def test_the_body_reads_variables_and_not_the_rest():
    """The carry, and rows that come with the input, are inputs of the body."""

    def apply(v, x):
        return lax.scan(lambda y, row: (y * row[0] + row[1] + v["b"], y), jnp.zeros(3), (v["w"], x))[1]

    variables = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    graph = trace(apply, variables, jnp.ones((4, 3)))
    constants = Constants(graph, {(name,): array for name, array in variables.items()})
    ((_, body),) = find_bodies(graph, None, constants).items()
    assert sorted(body.leaves.values()) == [("b",), ("w",)]
    assert len(body.constants) == 4
    assert len(body.graph.inputs) == 2


@settings(max_examples=6, derandomize=True, **RANDOM)
@given(
    st.lists(st.sampled_from(["relu", "pool", "flip", "double", "tanh", "norm"]), min_size=1, max_size=4),
    st.integers(1, 3),
    st.booleans(),
)
def test_random_bodies_compute_the_same(steps, length, is_shared):
    """The folded loop computes what the loop computes, in whatever order its operations come."""

    def block(v, y):
        y = conv(v, "a", y)
        for number, step in enumerate(steps):
            y = {
                "relu": relu,
                "pool": lambda y: nn.max_pool(y, (2, 2), padding="SAME"),
                "flip": lambda y: y[:, ::-1],
                "double": lambda y: y * 2.0,
                "tanh": jnp.tanh,
                "norm": lambda y, n=number: norm(v, f"bn{n}", y),
            }[step](y)
        return norm(v, "last", y)

    shapes = {"a": (1, 1, 3, 3), "last": 3} | {f"bn{n}": 3 for n, step in enumerate(steps) if step == "norm"}
    if is_shared:
        variables = make(0, **shapes)

        def apply(v, x):
            return lax.fori_loop(0, length, lambda _, y: jnp.tanh(block(v, y)), x)

    else:
        variables, apply = layers(length, **shapes), repeated(lambda v, y: jnp.tanh(block(v, y)))
    check_fold(apply, variables, X, kept=None, again=False)
