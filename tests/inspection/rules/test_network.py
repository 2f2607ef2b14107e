"""A layer's ε beside that of its network: the effect of the difference, whichever of the two is larger."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.planting import layer

from bncli.inspection.findings import find
from bncli.inspection.rules.network import epsilon_effect

EPSILONS = st.floats(1e-6, 1.0)


@given(own=EPSILONS, usual=EPSILONS, var=st.floats(0.0, 10.0))
def test_the_effect_is_the_relative_change_of_the_gain(own, usual, var):
    norm = layer(epsilon=own, var=np.full(20, var))
    gain, others = 1 / np.sqrt(var + own), 1 / np.sqrt(var + usual)
    assert epsilon_effect(norm, usual) == pytest.approx(abs(others - gain) / gain, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("own", "usual"), [(1.0, 1e-5), (1e-5, 1.0)])
def test_an_epsilon_matters_in_both_directions(own, usual):
    network = [*(layer(f"{number}", epsilon=usual) for number in range(2)), layer("odd", epsilon=own)]
    (finding,) = [finding for finding in find(network) if finding.code == "epsilon-differs"]
    assert (finding.layer, finding.severity) == ("odd", "warning")


def test_broken_variances_do_not_count():
    norm = layer(epsilon=1e-5, var={0: np.nan, 1: -1.0, 2: np.inf})
    assert 0 < epsilon_effect(norm, 1e-3) < 0.1
