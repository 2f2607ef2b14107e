"""Two walks that meet at one value, and the two sides of a chain; the walks themselves are in test_fold.py."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from bncli.folding.affine import Affine
from bncli.folding.search.propagate import chain_backward, chain_forward
from folding.oracle import check_fold, conv, inputs, make, norm, relu

X = inputs(2, 5, 4, 3)
CHANNELS, MASK = np.array([[1.5, -2.0, 0.5]]), np.array([[2.0], [0.5]])


def test_readers_that_ask_for_different_scales_keep_a_bn():
    variables = make(a=(3, 3, 3, 4), bn=8)

    def apply(v, x):
        y = conv(v, "a", x)
        return relu(norm(v, "bn", jnp.concatenate([y, y], axis=-1)))

    result = check_fold(apply, variables, X, kept=["bn"])
    assert "the readers of the output of a (a concatenation) need different scales" in result.report.norms[0].reason


def test_readers_that_ask_for_one_scale_fold_it():
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        y = conv(v, "a", x)
        return relu(norm(v, "bn", jnp.concatenate([y, y[:, ::-1]], axis=1)))

    check_fold(apply, variables, X, folded=["bn"], direction="backward")


def test_two_bn_do_not_share_the_convolution_they_both_read():
    """One of them could go up and be undone in front of the other, dividing by its scale: that is not done."""
    variables = make(a=(3, 3, 3, 4), bn1=4, bn2=4, b=(1, 1, 4, 2))

    def apply(v, x):
        y = conv(v, "a", x)
        return relu(norm(v, "bn1", y)), conv(v, "b", norm(v, "bn2", y))

    check_fold(apply, variables, X, folded=["bn2"], kept=["bn1"])


def apply_to(affine, x):
    return x * affine.scale + affine.shift


def test_a_chain_and_what_passes_it_are_together_what_they_were():
    """Along the chain's own axes, along others, and in front of a mask that is zero somewhere."""
    x = np.random.default_rng(0).normal(size=(2, 3))
    wanted = Affine(CHANNELS, CHANNELS + 1)
    for own in (Affine(CHANNELS, -CHANNELS), Affine(MASK, MASK + 2), Affine(MASK * [[1], [0]], MASK)):
        kept, passed = chain_backward(own, wanted)
        np.testing.assert_allclose(apply_to(kept, apply_to(passed, x)), apply_to(wanted, apply_to(own, x)), rtol=1e-12)
        kept, passed = chain_forward(own, wanted)
        np.testing.assert_allclose(apply_to(passed, apply_to(kept, x)), apply_to(own, apply_to(wanted, x)), rtol=1e-12)
