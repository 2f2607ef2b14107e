"""A lowered network runs at any batch size, on each platform's program, with its variables given or inside."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.folding.export.stablehlo import PLATFORMS, lower, with_variables

VARIABLES = {"params": {"kernel": jnp.arange(6.0).reshape(3, 2), "bias": jnp.ones(2)}}
(BATCH,) = jax.export.symbolic_shape("b")
IMAGES = jax.ShapeDtypeStruct((BATCH, 3), jnp.float32)


def apply(variables, x):
    return jnp.tanh(x @ variables["params"]["kernel"] + variables["params"]["bias"])


@pytest.mark.parametrize("batch_size", [1, 5])
def test_both_forms_compute_the_same_after_serialising(batch_size):
    forward = lower(apply, VARIABLES, IMAGES)
    alone = with_variables(forward, VARIABLES)
    x = np.random.default_rng(0).normal(size=(batch_size, 3)).astype(np.float32)
    for program, arguments in ((forward, (VARIABLES, x)), (alone, (x,))):
        read = jax.export.deserialize(bytearray(program.serialize()))
        assert read.platforms == PLATFORMS
        np.testing.assert_allclose(read.call(*arguments), apply(VARIABLES, x), rtol=1e-6)
