"""Networks as Haiku publishes them fold with one call, with statistics that come from their own inputs."""

from __future__ import annotations

import haiku as hk
import jax
import numpy as np
import pytest

import bncli
from frameworks.oracle import check_exports, same

pytestmark = pytest.mark.slow
IMAGES = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
# network -> its BN layers
HAIKU = {"ResNet18": 20, "ResNet50": 53}


@pytest.mark.parametrize("name", HAIKU)
def test_networks_of_haiku(name):
    transformed = hk.transform_with_state(lambda x, is_training: getattr(hk.nets, name)(10)(x, is_training))
    params, state = transformed.init(jax.random.key(0), IMAGES, True)
    state = bncli.recalibrate(transformed, params, state, [IMAGES])
    folded = bncli.fold(transformed, params, state, IMAGES)
    call = jax.jit(lambda x: transformed.apply(params, state, None, x, False)[0])
    assert [row.status for row in folded.report.norms] == ["folded"] * HAIKU[name]
    assert folded.report.verification.status == "proved"
    same(call(IMAGES), folded(IMAGES))
    check_exports(folded, call, IMAGES)
