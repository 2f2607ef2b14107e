"""Whole networks: as many BN fold as can be argued to be foldable, and float32 logits stay where they were."""

from __future__ import annotations

from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from support.breadth import broad

from bncli.folding import fold, verify
from folding.nets import NETS, BasicBlock, ResNet, X, trained
from folding.oracle import check_fold, conv, inputs, make, norm, relu

# Of these, smaller networks have the operations too.
LARGE = ("resnet50", "resnet18", "densenet", "classic", "inception")


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", broad(NETS, lambda name: name not in LARGE))
def test_a_network_folds_as_far_as_it_can(name):
    model, folded, kept = NETS[name]
    variables = trained(model, X)
    original = jax.jit(lambda x: model.apply(variables, x))
    result = fold(model.apply, variables, jax.ShapeDtypeStruct(X.shape, X.dtype), verify=False)
    assert (result.report.folded, result.report.kept) == (folded, kept), result.report
    assert "batch_stats" not in result.variables
    proof = verify(original, result, [X, X[:1]])
    assert proof.passed, proof
    assert proof.max_rel_error <= 1e-4
    assert proof.top1_agreement == 1.0
    assert proof.num_examples == 5


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "name", broad([name for name, (_, _, kept) in NETS.items() if not kept], lambda name: name not in LARGE)
)
def test_folded_variables_fit_the_same_network_without_bn(name):
    """Names and shapes are those of the original, so the numbers can be used wherever its kernels can."""
    model, _, _ = NETS[name]
    variables = trained(model, X)
    result = fold(model.apply, variables, jax.ShapeDtypeStruct(X.shape, X.dtype), verify=False)
    original = {path: leaf.shape for path, leaf in leaves(variables["params"]) if "BatchNorm" not in path}
    folded = {path: leaf.shape for path, leaf in leaves(result.variables["params"]) if "BatchNorm" not in path}
    assert set(original) <= set(folded)
    assert all(folded[path] == shape for path, shape in original.items() if path.endswith("['kernel']"))


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("post", broad([False, True], lambda post: not post))
def test_a_network_in_half_precision(dtype, post):
    """Kernels stay in their own dtype; the folded network is as near to the float32 one as the original is."""

    class Half(nn.Module):
        param_dtype: jnp.dtype = jnp.float32

        @nn.compact
        def __call__(self, x):
            for width in (8, 8):
                x = nn.Conv(width, (3, 3), dtype=dtype, param_dtype=self.param_dtype)(x)
                x = nn.relu(x) if post else x
                x = nn.BatchNorm(use_running_average=True, dtype=dtype)(x)
                x = x if post else nn.relu(x)
            return nn.Dense(10, dtype=dtype, param_dtype=self.param_dtype)(x.mean(axis=(1, 2)))

    for param_dtype in (jnp.float32, dtype):
        model = Half(param_dtype)
        variables = trained(model, X)
        result = fold(model.apply, variables, X)
        assert result.report.kept == 0
        assert result.variables["params"]["Conv_0"]["kernel"].dtype == param_dtype
        assert verify(lambda x, v=variables, m=model: m.apply(v, x), result, [X]).passed
        assert result(X).dtype == dtype


def test_the_time_to_fold_grows_with_the_depth_and_not_with_its_square():
    """By the work done, which no other process disturbs: visits of operations, 17 BN against 65."""
    small, large = (work(blocks) for blocks in (8, 32))
    assert large < 5 * small


def work(blocks: int) -> int:
    """The operations visited while a ResNet of so many blocks is folded."""
    from bncli.folding.rewrite.edits import EditedGraph

    count = 0
    op = EditedGraph.op

    def counted(self, index):
        nonlocal count
        count += 1
        return op(self, index)

    model = ResNet((blocks,), BasicBlock, width=2)
    x = X[:2, :8, :8]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EditedGraph, "op", counted)
        assert fold(model.apply, trained(model, x), x, verify=False).report.folded == 2 * blocks + 1
    return count


def leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


# --- images of odd sizes -------------------------------------------------------------------------------------------

WIDTHS = {"c1": (3, 3, 3, 4), "bn1": 4, "c2": (3, 3, 4, 4), "bn2": 4, "bn3": 8, "c3": (3, 3, 8, 4), "bn4": 4}


def doubled(x):
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def missing(x, like):
    """The rows and columns that x lacks, as zeros."""
    return jnp.pad(x, ((0, 0), (0, like.shape[1] - x.shape[1]), (0, like.shape[2] - x.shape[2]), (0, 0)))


FITTED = {  # halved -> as large as the other way of the U
    "cropped": lambda y, like: doubled(y)[:, : like.shape[1], : like.shape[2]],
    "padded": lambda y, like: missing(doubled(y[:, :-1, :-1]), like),
    "resized": lambda y, like: jax.image.resize(y, (*like.shape[:3], y.shape[3]), "bilinear"),
    "resized, nearest": lambda y, like: jax.image.resize(y, (*like.shape[:3], y.shape[3]), "nearest"),
}


SIZES = ((7, 5), (5, 6))


@pytest.mark.parametrize(("name", "size"), broad(product(FITTED, SIZES), lambda case: case == ("padded", (7, 5))))
def test_a_unet_of_an_odd_size(name, size):
    """Its two ways are joined with a BN behind them, which goes into a padded convolution."""

    def apply(v, x):
        across = relu(norm(v, "bn1", conv(v, "c1", x)))
        down = relu(norm(v, "bn2", conv(v, "c2", nn.max_pool(across, (2, 2), (2, 2), padding="SAME"))))
        both = norm(v, "bn3", jnp.concatenate([FITTED[name](down, across), across], axis=-1))
        return relu(norm(v, "bn4", conv(v, "c3", both)))

    check_fold(apply, make(**WIDTHS), inputs(2, *size, 3), folded=["bn1", "bn2", "bn3", "bn4"], again=False)


@pytest.mark.parametrize("height", broad([7, 6], lambda height: height == 7))
def test_nasnet_halves_an_image_along_two_ways(height):
    """Every other pixel, and every other one of the image moved by one pixel, with zeros at its end."""

    def apply(v, x):
        y = norm(v, "bn1", relu(conv(v, "c1", x)))
        moved = jnp.pad(y, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        ways = [conv(v, name, nn.avg_pool(part, (1, 1), (2, 2))) for name, part in (("p1", y), ("p2", moved))]
        return relu(norm(v, "bn3", jnp.concatenate(ways, axis=-1)))

    variables = make(c1=(3, 3, 3, 4), bn1=4, p1=(1, 1, 4, 4), p2=(1, 1, 4, 4), bn3=8)
    check_fold(apply, variables, inputs(2, height, 5, 3), folded=["bn1", "bn3"], again=False)
