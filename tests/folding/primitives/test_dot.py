"""`dot_general` in all its positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from folding.oracle import check_backward, check_fold, check_forward, inputs, make, norm, relu

EINSUMS = {
    "channels": ((2, 5, 4, 3), (3, 6), "bhwc,cd->bhwd"),
    "heads": ((2, 5, 4), (4, 2, 3), "bnc,chd->bnhd"),
    "kernel first": ((2, 5, 4), (6, 4), "bnc,dc->bnd"),
    "per position": ((2, 5, 4), (5, 4, 3), "bnc,ncd->bnd"),
    "two contracted": ((2, 5, 4), (5, 4, 3), "bnc,ncd->bd"),
    "weight on the left": ((2, 5, 4), (4, 3), "bnc,cd->dbn"),
}


@pytest.mark.parametrize("case", EINSUMS)
def test_bn_after_a_matrix_product(case):
    shape, kernel, spec = EINSUMS[case]
    axis = spec.split(">")[1].index("d")
    variables = make(a=kernel, bn=kernel[spec.split(",")[1].split("-")[0].index("d")])

    def apply(v, x):
        return relu(norm(v, "bn", jnp.einsum(spec, x, v["params"]["a"]["kernel"]), axis))

    check_fold(apply, variables, inputs(*shape), folded=["bn"], direction="backward")


@pytest.mark.parametrize("case", EINSUMS)
def test_bn_before_a_matrix_product(case):
    shape, kernel, spec = EINSUMS[case]
    variables = make(bn=shape[-1], a=kernel)

    def apply(v, x):
        return jnp.einsum(spec, norm(v, "bn", relu(x)), v["params"]["a"]["kernel"])

    check_fold(apply, variables, inputs(*shape), folded=["bn"], direction="forward")


def test_resizing_lets_channels_through():
    """Bilinear upsampling is a product along space: rows of weights that sum to one keep a shift."""

    def upsample(x):
        return jax.image.resize(x, (x.shape[0], 9, 8, x.shape[3]), "bilinear")

    result = check_backward(upsample)
    assert "bn" not in result.variables["params"]
    check_forward(upsample)


def test_a_mixing_of_positions_leaves_the_shift_behind():
    mixing = np.random.default_rng(0).normal(size=(6, 5))
    result = check_backward(lambda x: jnp.einsum("bhwc,hk->bkwc", x, mixing))
    assert sorted(result.variables["params"]["bn"]) == ["shift"]
    check_forward(lambda x: jnp.einsum("bhwc,hk->bkwc", x, mixing))


def test_attention_is_kept():
    check_forward(lambda x: jnp.einsum("bhwc,bhvc->bhwv", x, x), reason="both factors of its matrix product")
