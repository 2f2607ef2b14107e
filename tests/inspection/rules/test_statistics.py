"""The numbers behind the findings on running averages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bncli.inspection.rules.statistics import replica_spread

REPLICAS = hnp.arrays(np.float64, (3, 2, 4), elements=st.floats(0.01, 100))


def test_replicas_are_apart_in_standard_deviations_of_their_mean_variance():
    """Means 0 and 3, variances 1 and 7: 3/√4 standard deviations; the standard deviations are √7 apart."""
    replicas = np.array([[[0.0], [1.0]], [[3.0], [7.0]]])
    distance, ratio = replica_spread(replicas, 0.0)
    assert distance == pytest.approx(1.5)
    assert ratio == pytest.approx(np.sqrt(7))
    with_epsilon, _ = replica_spread(replicas, 5.0)
    assert with_epsilon == pytest.approx(1.0)


@given(REPLICAS)
def test_the_spread_does_not_depend_on_the_order_or_the_unit(replicas):
    distance, ratio = replica_spread(replicas, 0.0)
    for others in (replicas[::-1], replicas * np.array([2.0, 4.0])[:, None]):
        np.testing.assert_allclose(replica_spread(others, 0.0), (distance, ratio), rtol=1e-9)
    assert (ratio >= 1).all()
    assert np.all(replica_spread(replicas[:1], 0.0)[0] == 0)
