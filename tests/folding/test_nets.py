"""Whole networks: as many BN fold as can be argued to be foldable, and float32 logits stay where they were."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from support.breadth import broad

from bncli.folding import fold, verify
from folding.nets import NETS, BasicBlock, ResNet, X, trained

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
