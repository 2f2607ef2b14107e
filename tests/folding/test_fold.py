"""The cases that must be right, each through the oracle; first those that other folders get wrong."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bncli.errors import FoldError
from bncli.folding import fold
from bncli.folding.rewrite.unroll import unrolled
from bncli.folding.trace.graph import trace
from folding.nets import trained
from folding.oracle import check_fold, conv, dense, inputs, make, norm, relu

X = inputs(2, 7, 6, 3)


# --- known defects elsewhere ---------------------------------------------------------------------------------------


def test_the_shift_goes_through_the_unscaled_kernel():
    """Σ W·t, not Σ W·s·t (nnabla)."""
    variables = make(a=(3, 3, 3, 5), bn=5, b=(3, 3, 5, 4))
    check_fold(
        lambda v, x: conv(v, "b", norm(v, "bn", relu(conv(v, "a", x))), padding="VALID"),
        variables,
        X,
        folded=["bn"],
        direction="forward",
    )


def test_a_shift_is_not_carried_across_a_zero_pad():
    """BN, then zeros, then a convolution (slimonnx)."""
    variables = make(a=(3, 3, 3, 5), bn=5, b=(3, 3, 5, 4))

    def apply(v, x):
        x = norm(v, "bn", relu(conv(v, "a", x)))
        return conv(v, "b", jnp.pad(x, ((0, 0), (1, 2), (2, 0), (0, 0))), padding="VALID")

    check_fold(apply, variables, X, folded=["bn"], direction="forward")


def test_a_kernel_used_twice_gets_two_variables():
    """One kernel, two BN: each use has its own product (torch.fx is silently wrong, pytorch#104593)."""
    variables = make(a=(3, 3, 3, 3), bn1=3, bn2=3)

    def apply(v, x):
        x = relu(norm(v, "bn1", conv(v, "a", x)))
        return relu(norm(v, "bn2", conv(v, "a", x)))

    result = check_fold(apply, variables, X, folded=["bn1", "bn2"], direction="backward")
    assert sorted(result.variables["params"]["a"]) == ["bias", "bias_1", "kernel", "kernel_1"]


def test_a_kernel_used_with_and_without_bn_keeps_the_original_too():
    variables = make(a=(3, 3, 3, 3), bn=3)
    result = check_fold(lambda v, x: conv(v, "a", relu(norm(v, "bn", conv(v, "a", x)))), variables, X, folded=["bn"])
    np.testing.assert_array_equal(result.variables["params"]["a"]["kernel"], variables["params"]["a"]["kernel"])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["HWIO", "HWOI"])
def test_a_transposed_convolution_is_scaled_on_its_own_output_axis(groups, layout):
    """Both kernel layouts, grouped too (torch scales the wrong axis when grouped)."""
    shape = (3, 3, 4 // groups, 6) if layout == "HWIO" else (3, 3, 6, 4 // groups)
    variables = make(a=shape, bn=6)

    def apply(v, x):
        y = conv(
            v,
            "a",
            x,
            numbers=("NHWC", layout, "NHWC"),
            padding=((2, 1), (1, 2)),
            lhs_dilation=(2, 2),
            feature_group_count=groups,
        )
        return relu(norm(v, "bn", y))

    check_fold(apply, variables, inputs(2, 5, 4, 4), folded=["bn"], direction="backward")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["HWIO", "HWOI"])
def test_bn_before_a_transposed_convolution_is_scaled_on_its_own_input_axis(groups, layout):
    """Group g reads input features g·C/G … (g+1)·C/G, and the zeros between its inputs are no inputs."""
    shape = (3, 3, 4 // groups, 6) if layout == "HWIO" else (3, 3, 6, 4 // groups)
    variables = make(bn=4, a=shape)

    def apply(v, x):
        return conv(
            v,
            "a",
            norm(v, "bn", relu(x)),
            numbers=("NHWC", layout, "NHWC"),
            padding=((2, 1), (1, 2)),
            lhs_dilation=(2, 2),
            feature_group_count=groups,
        )

    check_fold(apply, variables, inputs(2, 5, 4, 4), folded=["bn"], direction="forward")


def test_a_zero_scale_divides_nothing():
    """γ = 0 everywhere, in both directions (TVM)."""
    variables = make(a=(3, 3, 3, 4), bn=4, b=(3, 3, 4, 4), bn2=4, c=(3, 3, 4, 2))
    for name in ("bn", "bn2"):
        variables["params"][name]["scale"] = np.zeros(4)

    def apply(v, x):
        x = relu(norm(v, "bn", conv(v, "a", x)))
        return conv(v, "c", norm(v, "bn2", relu(conv(v, "b", x))))

    check_fold(apply, variables, X, folded=["bn", "bn2"])


@pytest.mark.parametrize("post", [False, True])
def test_an_existing_bias_is_scaled(post):
    """conv + b, then BN: the new bias is b·s + t (yolov3#807)."""
    variables = make(bias=True, a=(3, 3, 3, 4), bn=4, b=(3, 3, 4, 4))

    def apply(v, x):
        x = conv(v, "a", x)
        x = norm(v, "bn", relu(x)) if post else relu(norm(v, "bn", x))
        return conv(v, "b", x)

    result = check_fold(apply, variables, X, folded=["bn"])
    assert sorted(result.variables["params"]) == ["a", "b"]


# --- where the statistics come from --------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [("scale",), ("bias",), ("scale", "bias")])
def test_bn_without_scale_or_bias(missing):
    variables = make(a=(3, 3, 3, 4), bn=4)
    for name in missing:
        del variables["params"]["bn"][name]
    check_fold(lambda v, x: relu(norm(v, "bn", conv(v, "a", x))), variables, X, folded=["bn"])


def test_one_bn_used_twice_is_one_row():
    variables = make(a=(3, 3, 3, 4), b=(3, 3, 4, 4), bn=4)

    def apply(v, x):
        x = relu(norm(v, "bn", conv(v, "a", x)))
        return relu(norm(v, "bn", conv(v, "b", x)))

    result = check_fold(apply, variables, X, folded=["bn"])
    assert result.report.norms[0].into == ("a", "b")


def test_one_bn_used_twice_and_folded_once_is_kept():
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        return relu(norm(v, "bn", relu(norm(v, "bn", conv(v, "a", x)))))

    result = check_fold(apply, variables, X, folded=[], kept=["bn"])
    assert sorted(result.variables["params"]["bn"]) == ["scale", "shift"]


def test_two_bn_in_a_row_fold_together():
    variables = make(a=(3, 3, 3, 4), bn1=4, bn2=4)
    check_fold(lambda v, x: relu(norm(v, "bn2", norm(v, "bn1", conv(v, "a", x)))), variables, X, folded=["bn1", "bn2"])


def test_bn_on_the_input_goes_down():
    variables = make(bn=3, a=(3, 3, 3, 4))
    check_fold(lambda v, x: conv(v, "a", norm(v, "bn", x)), variables, X, folded=["bn"], direction="forward")


# --- every kind of convolution -------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "plain": ((2, 7, 6, 3), (3, 3, 3, 4), {}),
    "strided": ((2, 7, 6, 3), (3, 3, 3, 4), {"strides": (2, 3)}),
    "dilated": ((2, 7, 6, 3), (3, 2, 3, 4), {"rhs_dilation": (2, 3)}),
    "grouped": ((2, 7, 6, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
    "depthwise": ((2, 7, 6, 4), (3, 3, 1, 8), {"feature_group_count": 4}),
    "pointwise": ((2, 7, 6, 3), (1, 1, 3, 4), {}),
    "valid": ((2, 7, 6, 3), (3, 3, 3, 4), {"padding": "VALID"}),
    "lopsided": ((2, 7, 6, 3), (3, 3, 3, 4), {"padding": ((2, 0), (0, 3))}),
    "cropped": ((2, 7, 6, 3), (3, 3, 3, 4), {"padding": ((-1, 2), (1, -2))}),
    "transposed": ((2, 4, 5, 3), (3, 3, 3, 4), {"lhs_dilation": (2, 2), "padding": ((1, 2), (2, 1))}),
    "1-d": ((2, 9, 3), (4, 3, 5), {"strides": (2,)}),
    "causal": ((2, 9, 3), (4, 3, 5), {"padding": ((3, 0),)}),
    "3-d": ((2, 4, 5, 3, 2), (2, 3, 2, 2, 4), {}),
    "NCHW": ((2, 3, 7, 6), (4, 3, 3, 3), {"numbers": ("NCHW", "OIHW", "NCHW")}),
    "mixed layouts": ((2, 7, 3, 6), (4, 3, 3, 3), {"numbers": ("NHCW", "OHIW", "CWNH")}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_bn_after_any_convolution(case):
    shape, kernel, options = CONVOLUTIONS[case]
    numbers = options.get("numbers")
    axis = numbers[2].index("C") if numbers else -1
    variables = make(a=kernel, bn=kernel[numbers[1].index("O")] if numbers else kernel[-1])
    check_fold(
        lambda v, x: relu(norm(v, "bn", conv(v, "a", x, **options), axis)),
        variables,
        inputs(*shape),
        folded=["bn"],
        direction="backward",
    )


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_bn_before_any_convolution(case):
    shape, kernel, options = CONVOLUTIONS[case]
    axis = options["numbers"][0].index("C") if "numbers" in options else -1
    variables = make(bn=shape[axis], a=kernel)
    check_fold(
        lambda v, x: conv(v, "a", norm(v, "bn", relu(x), axis), **options),
        variables,
        inputs(*shape),
        folded=["bn"],
        direction="forward",
    )


def test_a_kernel_computed_from_the_input_is_no_kernel():
    variables = make(bn=4)

    def apply(v, x):
        kernel = jnp.broadcast_to(x.mean(), (3, 3, 3, 4))
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return relu(norm(v, "bn", y))

    result = check_fold(apply, variables, X, kept=["bn"])
    assert "kernel is computed from the input" in result.report.norms[0].reason


# --- dense layers --------------------------------------------------------------------------------------------------


def test_dense_then_bn():
    variables = make(bias=True, a=(5, 4), bn=4)
    check_fold(lambda v, x: relu(norm(v, "bn", dense(v, "a", x))), variables, inputs(3, 5), folded=["bn"])


def test_bn_then_dense():
    variables = make(bias=True, bn=5, a=(5, 4))
    check_fold(lambda v, x: dense(v, "a", norm(v, "bn", relu(x))), variables, inputs(3, 5), folded=["bn"])


def test_bn_then_flatten_then_dense():
    variables = make(bias=True, a=(3, 3, 3, 4), bn=4, b=(7 * 6 * 4, 5))

    def apply(v, x):
        x = norm(v, "bn", relu(conv(v, "a", x)))
        return dense(v, "b", x.reshape((x.shape[0], -1)))

    check_fold(apply, variables, X, folded=["bn"], direction="forward")


def test_flatten_then_bn_is_kept_unless_all_positions_of_a_channel_agree():
    variables = make(a=(3, 3, 3, 2), bn=7 * 6 * 2)
    result = check_fold(
        lambda v, x: relu(norm(v, "bn", conv(v, "a", x).reshape((x.shape[0], -1)))), variables, X, kept=["bn"]
    )
    assert "differs by position" in result.report.norms[0].reason


# --- the classic Keras order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["window", "reshape"])
def test_the_classic_keras_order_folds_completely(pool):
    variables = make(bias=True, a=(3, 3, 3, 6), bn1=6, b=(3, 3, 6, 6), bn2=6, c=(2 * 2 * 6, 5), bn3=5, d=(5, 4))

    def max_pool(x):
        if pool == "window":
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        batch, height, width, channels = x.shape
        return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))

    def apply(v, x):
        x = max_pool(norm(v, "bn1", relu(conv(v, "a", x))))
        x = max_pool(norm(v, "bn2", relu(conv(v, "b", x))))
        x = norm(v, "bn3", relu(dense(v, "c", x.reshape((x.shape[0], -1)))))
        return dense(v, "d", x)

    check_fold(apply, variables, inputs(2, 8, 8, 3), folded=["bn1", "bn2", "bn3"], direction="forward")


def test_conv_then_pool_then_bn_with_mixed_signs():
    variables = make(a=(3, 3, 3, 6), bn=6)

    def apply(v, x):
        x = lax.reduce_window(conv(v, "a", x), -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        return relu(norm(v, "bn", x))

    result = check_fold(apply, variables, X, folded=["bn"], direction="backward")
    assert set(np.unique(result.variables["params"]["bn"]["scale"])) == {-1.0, 1.0}


def test_a_sign_left_behind_a_pool_moves_on_into_the_next_convolution():
    variables = make(a=(3, 3, 3, 6), bn=6, b=(3, 3, 6, 4))

    def apply(v, x):
        x = lax.reduce_window(conv(v, "a", x), -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        return conv(v, "b", norm(v, "bn", x))

    result = check_fold(apply, variables, X, folded=["bn"])
    assert sorted(result.variables["params"]) == ["a", "b"]


# --- values with several readers -----------------------------------------------------------------------------------


def test_a_convolution_read_twice_is_not_scaled_in_place():
    variables = make(a=(3, 3, 3, 4), bn1=4, bn2=4)

    def apply(v, x):
        x = conv(v, "a", x)
        return relu(norm(v, "bn1", x)) + relu(norm(v, "bn2", x))

    result = check_fold(apply, variables, X, kept=["bn1", "bn2"])
    assert "its input, the output of a, is also read by bn2" in result.report.norms[0].reason


def test_a_convolution_that_is_also_an_output_is_not_scaled_in_place():
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        x = conv(v, "a", x)
        return x, relu(norm(v, "bn", x))

    result = check_fold(apply, variables, X, kept=["bn"])
    assert "also an output of the network" in result.report.norms[0].reason


def test_bn_folds_into_all_its_readers_or_none():
    variables = make(bn=3, a=(3, 3, 3, 4), b=(1, 1, 3, 4))

    def both(v, x):
        x = norm(v, "bn", relu(x))
        return conv(v, "a", x) + conv(v, "b", x)

    def one(v, x):
        x = norm(v, "bn", relu(x))
        return conv(v, "a", x)[..., :3] + relu(x)

    result = check_fold(both, variables, X, folded=["bn"], direction="forward")
    assert result.report.norms[0].into == ("a", "b")
    check_fold(one, variables, X, kept=["bn"])


def test_a_residual_block_folds_where_the_sum_is_not_in_the_way():
    variables = make(a=(3, 3, 3, 4), bn1=4, b=(3, 3, 4, 4), bn2=4, s=(1, 1, 3, 4), bn3=4)

    def apply(v, x):
        y = relu(norm(v, "bn1", conv(v, "a", x)))
        y = norm(v, "bn2", conv(v, "b", y))
        return relu(y + norm(v, "bn3", conv(v, "s", x)))

    check_fold(apply, variables, X, folded=["bn1", "bn2", "bn3"], direction="backward")


def test_bn_after_a_sum_folds_into_both_addends():
    variables = make(a=(3, 3, 3, 4), b=(1, 1, 3, 4), bn=4)
    check_fold(lambda v, x: relu(norm(v, "bn", conv(v, "a", x) - conv(v, "b", x))), variables, X, folded=["bn"])


def test_a_preactivation_block_keeps_its_first_bn_with_the_reason():
    variables = make(bn1=3, a=(3, 3, 3, 3), bn2=3, b=(3, 3, 3, 3))

    def apply(v, x):
        y = conv(v, "a", relu(norm(v, "bn1", x)))
        return x + conv(v, "b", relu(norm(v, "bn2", y)))

    result = check_fold(apply, variables, X, folded=["bn2"], kept=["bn1"])
    assert result.report.norms[0].reason == (
        "before it, there is only the network's input; after it, a ReLU stands in the way"
    )


def test_a_dense_block_folds_what_stands_behind_convolutions():
    variables = make(a=(3, 3, 3, 4), bn1=4, b=(3, 3, 7, 4), bn2=11, c=(1, 1, 11, 5))

    def apply(v, x):
        x = jnp.concatenate([x, relu(norm(v, "bn1", conv(v, "a", x)))], axis=-1)
        x = jnp.concatenate([x, conv(v, "b", x)], axis=-1)
        return conv(v, "c", norm(v, "bn2", relu(x)))

    check_fold(apply, variables, X, folded=["bn1", "bn2"])


# --- other ways of calling -----------------------------------------------------------------------------------------


def custom_vjp(function):
    """A function with a derivative of its own."""
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda *args: (function(*args), None), lambda _, g: (None, g))
    return wrapped


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, custom_vjp])
def test_calls_are_seen_through(wrap):
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        bn = wrap(lambda v, y: norm(v, "bn", y))
        return jax.jit(lambda y: jax.nn.relu6(bn(v, y)))(conv(v, "a", x))

    check_fold(apply, variables, X, folded=["bn"])


def test_a_loop_of_too_many_different_iterations_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr("bncli.folding.trace.bodies.MAX_ITERATIONS", 1)
    variables = make(a=(3, 3, 3, 3), bn=3)
    stacked = jax.tree_util.tree_map(lambda array: np.stack([array, array * 0.5]), variables)

    def apply(v, x):
        return lax.scan(lambda y, layer: (relu(norm(layer, "bn", conv(layer, "a", y))), None), x, v)[0]

    result = check_fold(apply, stacked, X, kept=["bn"])
    assert result.report.norms[0].reason == "it is inside a loop (scan), whose body is left as it is"
    assert sorted(result.variables["batch_stats"]["bn"]) == ["mean", "var"]


def test_a_loop_that_is_unrolled_folds_in_each_iteration():
    variables = make(a=(3, 3, 3, 3), bn=3)
    stacked = jax.tree_util.tree_map(lambda array: np.stack([array, array * 0.5]), variables)

    def apply(v, x):
        return lax.scan(lambda y, layer: (relu(norm(layer, "bn", conv(layer, "a", y))), None), x, v)[0]

    result = check_fold(unrolled(apply), stacked, X, folded=["bn"])
    assert "batch_stats" not in result.variables


CONTROL_FLOW = {
    "it is inside a branch (cond), whose body is left as it is": (
        lambda v, x, block: lax.cond(x.sum() > 0, lambda y: block(v, y), lambda y: y, x)
    ),
    "it is inside a loop (while), whose body is left as it is": (
        lambda v, x, block: lax.while_loop(lambda y: y.max() > 1e3, lambda y: block(v, y), x)
    ),
}


@pytest.mark.parametrize("reason", CONTROL_FLOW)
def test_bn_inside_control_flow_is_kept_and_those_around_it_fold(reason):
    variables = make(a=(3, 3, 3, 3), bn=3, b=(3, 3, 3, 3), around=3)

    def apply(v, x):
        x = relu(norm(v, "around", conv(v, "b", x)))
        return CONTROL_FLOW[reason](v, x, lambda v, y: relu(norm(v, "bn", conv(v, "a", y))))

    result = check_fold(apply, variables, X, folded=["around"], kept=["bn"])
    assert {row.name: row.reason for row in result.report.norms}["bn"] == reason


@pytest.mark.parametrize(("operation", "reason"), [("cond", "a branch (cond) reads it"), ("while", "a loop (while)")])
def test_bn_in_front_of_control_flow_is_kept(operation, reason):
    variables = make(a=(3, 3, 3, 3), bn=3)

    def apply(v, x):
        y = norm(v, "bn", relu(conv(v, "a", x)))
        if operation == "cond":
            return lax.cond(x.sum() > 0, jnp.sin, jnp.cos, y)
        return lax.while_loop(lambda y: y.max() > 1e3, jnp.sin, y)

    result = check_fold(apply, variables, X, kept=["bn"])
    assert reason in result.report.norms[0].reason


def test_modules_under_remat_and_under_scan_fold():
    """Flax's own spellings: `nn.remat` is seen through, the body of `nn.scan` is folded in each iteration."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            x = nn.BatchNorm(use_running_average=True)(nn.Conv(3, (3, 3))(x))
            return nn.relu(x), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x, _ = nn.remat(Block)(name="first")(x)
            axes = {"params": 0, "batch_stats": 0}
            x, _ = nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=2)(name="rest")(x, None)
            return x

    model = Net()
    variables = model.init(jax.random.key(0), jnp.asarray(X, jnp.float32))
    result = check_fold(model.apply, variables, X, folded=["first/BatchNorm_0", "rest/BatchNorm_0"], tolerance=1e-5)
    assert [row.into for row in result.report.norms] == [("first/Conv_0",), ("rest/Conv_0",)]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("axis", [-1, 1])
def test_flax_layers_of_any_rank_and_axis(rank, axis):
    """`nn.Conv` in one, two and three dimensions, and `nn.BatchNorm(axis=1)` between transposes."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (4, 5):
                x = nn.Conv(width, (3,) * rank)(x)
                x = x if axis == -1 else jnp.moveaxis(x, -1, 1)
                x = nn.relu(nn.BatchNorm(use_running_average=True, axis=axis)(x))
                x = x if axis == -1 else jnp.moveaxis(x, 1, -1)
            return nn.Dense(3)(x.reshape((x.shape[0], -1)))

    x = inputs(2, *(5, 4, 3)[:rank], 2).astype(np.float32)
    model = Net()
    check_fold(model.apply, trained(model, x), x, folded=["BatchNorm_0", "BatchNorm_1"], direction="backward")


def test_nothing_to_fold_gives_the_identical_graph():
    variables = make(bias=True, a=(3, 3, 3, 4), b=(3, 3, 4, 4))

    def apply(v, x):
        return relu(conv(v, "b", relu(conv(v, "a", x)))) * 0.5

    result = check_fold(apply, variables, X, folded=[])
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct(X.shape, jnp.float64)
        assert trace(result.apply, result.variables, x).text() == trace(apply, variables, x).text()


def test_include_and_exclude_select_by_name():
    variables = make(a=(3, 3, 3, 4), bn1=4, b=(3, 3, 4, 4), bn2=4)

    def apply(v, x):
        return relu(norm(v, "bn2", conv(v, "b", relu(norm(v, "bn1", conv(v, "a", x))))))

    def folded(**selection):
        return [
            row.name
            for row in fold(apply, variables, X, verify=False, **selection).report.norms
            if row.status == "folded"
        ]

    with jax.enable_x64(True):
        assert folded() == ["bn1", "bn2"]
        assert folded(include=["*1"]) == ["bn1"]
        assert folded(exclude=["bn1"]) == ["bn2"]


def test_a_numpy_float64_example_is_what_jax_makes_of_it():
    variables = jax.tree_util.tree_map(lambda array: array.astype(np.float32), make(a=(3, 3, 3, 4), bn=4))

    def apply(v, x):
        return norm(v, "bn", conv(v, "a", x))

    folded = fold(apply, variables, X)
    expected = apply(variables, jnp.asarray(X))
    np.testing.assert_allclose(folded(X), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(folded.apply(folded.variables, jnp.asarray(X)), expected, rtol=1e-4, atol=1e-4)


def test_another_dtype_than_the_examples_is_refused():
    variables = make(a=(3, 3, 3, 4), bn=4)
    with jax.enable_x64(True):
        result = fold(lambda v, x: norm(v, "bn", conv(v, "a", x)), variables, jnp.asarray(X))
        with pytest.raises(FoldError, match=r"bfloat16\[2.* float64\[2"):
            result(jnp.asarray(X, jnp.bfloat16))


def test_a_weight_in_integers_is_not_scaled():
    """A product of floats and integers: JAX allows it, and the scale would be rounded to an integer."""
    variables = make(a=(3, 4), bn=4)
    kernel = np.random.default_rng(0).integers(-5, 5, size=(3, 4)).astype(np.int8)
    variables = jax.tree.map(lambda a: a.astype(np.float32), variables) | {"kernel": kernel}

    def apply(v, x):
        return relu(norm(v, "bn", lax.dot_general(x, v["kernel"], (((1,), (0,)), ((), ())))))

    x = inputs(5, 3).astype(np.float32)
    folded = fold(apply, variables, x)
    assert [row.status for row in folded.report.norms] == ["kept"]
    assert "before it, its weight is stored in integers" in folded.report.norms[0].reason
    np.testing.assert_allclose(folded(x), apply(variables, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [0.0, 0.1])
def test_a_bias_of_zeros_is_no_obstacle(number):
    """Between a convolution and a BN behind a pool or a reshape, and after a factor of one."""
    variables = make(a=(3, 3, 3, 4), bn=4, bias=True)
    variables["params"]["a"]["bias"] = np.full(4, number)

    def pooled(v, x):
        y = lax.reduce_window(conv(v, "a", x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return relu(norm(v, "bn", y))

    def reshaped(v, x):
        return relu(norm(v, "bn", conv(v, "a", x).reshape(x.shape[0], -1, 4) * (number + 1.0)))

    for apply in (pooled, reshaped):
        result = check_fold(apply, variables, inputs(2, 6, 4, 3), folded=["bn"], direction="backward")
        assert set(result.variables["params"]["a"]) == {"kernel", "bias"}


def fails_at_three(size: int) -> None:
    assert size % 2 == 0, "two views of each image"


@pytest.mark.parametrize("check", [fails_at_three, lambda size: [1.0, 1.0][size - 1]])
def test_a_network_may_refuse_another_batch_size_in_any_way(check):
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        check(x.shape[0])
        return relu(norm(v, "bn", conv(v, "a", x)))

    check_fold(apply, variables, inputs(2, 6, 4, 3), folded=["bn"], batches=(2,))


def test_a_symbolic_batch_beside_a_constant_as_long_as_the_batch():
    """An unrolled recurrent network starts from zeros, one row for each example."""
    variables = jax.tree.map(np.float32, make(a=(3, 4), b=(4, 4), bn=4))

    def apply(v, x):
        state = jnp.zeros((x.shape[0], 4), x.dtype)
        for step in range(2):
            state = jnp.tanh(norm(v, "bn", dense(v, "a", x[:, step])) + dense(v, "b", state))
        return state

    (size,) = jax.export.symbolic_shape("size")
    folded = fold(apply, variables, jax.ShapeDtypeStruct((size, 2, 3), np.float32))
    assert [row.status for row in folded.report.norms] == ["folded"]
    x = inputs(5, 2, 3).astype(np.float32)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), folded.variables)
    program = jax.export.export(jax.jit(folded.apply))(shapes, folded.example)
    np.testing.assert_allclose(program.call(folded.variables, x), apply(variables, x), rtol=1e-4, atol=1e-4)


def symbolic_image(channels=3) -> jax.ShapeDtypeStruct:
    """Images of any number and size."""
    return jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b, h, w"), channels), jnp.float32)


def test_any_image_size_where_the_network_only_divides_by_it():
    """A mean over H·W divides by a number that is a symbol: scales pass it, and a shift stays behind it."""
    variables = jax.tree_util.tree_map(
        lambda array: jnp.asarray(array, jnp.float32), make(a=(3, 3, 3, 4), bn=4, b=(1, 1, 4, 5), bn2=5)
    )

    def apply(v, x):
        y = conv(v, "b", relu(norm(v, "bn", conv(v, "a", x))))
        return relu(norm(v, "bn2", y.mean((1, 2))))

    image = symbolic_image()
    folded = fold(apply, variables, image)
    assert [(row.status, row.into, row.left) for row in folded.report.norms] == [
        ("folded", ("a",), None),
        ("folded", ("b",), "a shift"),
    ]
    shapes = jax.eval_shape(lambda: folded.variables)
    program = jax.export.export(jax.jit(folded.apply))(shapes, image)
    for size in ((1, 5, 3), (3, 2, 4)):
        x = jnp.asarray(inputs(*size, 3), jnp.float32)
        expected = np.asarray(apply(variables, x))
        np.testing.assert_allclose(program.call(folded.variables, x), expected, atol=1e-5 * np.abs(expected).max())


def test_a_bias_map_of_any_image_size_is_kept_with_the_reason():
    variables = jax.tree_util.tree_map(lambda array: jnp.asarray(array, jnp.float32), make(bn=3, a=(3, 3, 3, 4)))
    folded = fold(lambda v, x: conv(v, "a", norm(v, "bn", relu(x))), variables, symbolic_image())
    assert "its numbers would depend on a size that is a symbol" in folded.report.norms[0].reason
