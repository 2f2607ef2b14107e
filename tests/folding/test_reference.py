"""NumPy and XLA compute the same networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from folding.oracle import QUICK_COMPILE, assert_same, conv, in_float64, inputs, make
from folding.reference import OPERATIONS, evaluate
from folding.test_properties import networks


@pytest.mark.broad
@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_numpy_computes_what_xla_does(net):
    with jax.enable_x64(True):
        variables, x = in_float64(net.variables), jnp.asarray(inputs(*net.shapes[0]))

        def apply(x):
            return net.values(variables, x)[-1]

        assert_same(jax.jit(apply, compiler_options=QUICK_COMPILE)(x), evaluate(apply, x), 1e-12)


def test_a_transposed_grouped_convolution_in_another_layout():
    variables = make(a=(6, 3, 2, 2))
    options = {"numbers": ("NCHW", "OHWI", "NHWC"), "padding": ((2, -1), (1, 2)), "feature_group_count": 2}

    def apply(x):
        return conv(variables, "a", x, lhs_dilation=(2, 3), rhs_dilation=(1, 2), **options)

    with jax.enable_x64(True):
        x = jnp.asarray(inputs(2, 4, 5, 4))
        np.testing.assert_allclose(evaluate(apply, x), apply(x), rtol=1e-12, atol=1e-12)


def test_the_table_is_sorted():
    assert list(OPERATIONS) == sorted(OPERATIONS)
