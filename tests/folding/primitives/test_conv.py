"""The map that a shift becomes at zero-padded borders; the identities themselves are in test_fold.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from folding.oracle import check_backward, check_fold, check_forward, conv, inputs, make, norm, relu


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (0, 1))])
def test_a_bias_is_a_vector_inside_and_a_map_at_borders(padding):
    variables = make(bn=3, a=(3, 3, 3, 4))
    result = check_fold(
        lambda v, x: conv(v, "a", norm(v, "bn", relu(x)), padding=padding), variables, inputs(2, 6, 5, 3)
    )
    bias = np.asarray(result.variables["params"]["a"]["bias"])
    if padding == "VALID":
        assert bias.shape == (4,)
        return
    assert bias.shape == ((1, 6, 5, 4) if padding == "SAME" else (1, 6, 4, 4))
    inside = bias[:, 2:-1, 1:-1] if padding != "SAME" else bias[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inside, np.broadcast_to(inside[:, :1, :1], inside.shape), rtol=1e-12)
    assert np.ptp(bias) > np.ptp(inside)


@pytest.mark.parametrize("mode", ["wrap", "reflect"])
def test_circular_and_reflected_padding_have_no_border(mode):
    """CIRCULAR and REFLECT pad first, then convolve VALID: the shift is a vector everywhere."""
    variables = make(bn=3, a=(3, 3, 3, 4))

    def apply(v, x):
        x = jnp.pad(norm(v, "bn", relu(x)), ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
        return conv(v, "a", x, padding="VALID")

    result = check_fold(apply, variables, inputs(2, 6, 5, 3), folded=["bn"], direction="forward")
    assert result.variables["params"]["a"]["bias"].shape == (4,)


def test_bn_moves_past_a_mask():
    mask = np.random.default_rng(0).normal(size=(6, 4, 1))
    check_backward(lambda x: x.transpose(0, 2, 1, 3).transpose(0, 2, 1, 3) * mask)
    check_forward(lambda x: x * mask)


def test_a_convolution_grouped_over_the_batch_is_kept():
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        return relu(norm(v, "bn", conv(v, "a", x, batch_group_count=2)))

    with jax.enable_x64(True):
        result = check_fold(apply, variables, inputs(2, 5, 4, 3), kept=["bn"], batches=(4,))
    assert "grouped over the batch" in result.report.norms[0].reason
