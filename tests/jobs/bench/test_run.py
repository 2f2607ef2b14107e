"""The result of a comparison is consistent."""

import numpy as np
import pytest

from bncli.jobs.bench import ColdStart, Rounds, bench, open_network
from bncli.jobs.bench.run import _fastest

SIZES = (1, 3)


@pytest.fixture(scope="module")
def result(kinds, target):
    told = []
    cold = [ColdStart(number + 1.0, 1.0, (1.0, 1.0), None, None) for number in range(3)]
    networks = [open_network(path) for path in kinds.values()]
    result = bench(networks, target, SIZES, rounds=5, cold=cold, progress=lambda *event: told.append(event))
    assert told == [(f"batch {size}", done, 5) for size in SIZES for done in range(6)]
    return result


def test_each_network_is_timed_at_each_batch_size(result, kinds, trained):
    assert [network.checkpoint for network in result.networks] == list(kinds.values())
    assert [network.kind for network in result.networks] == list(kinds)
    assert [network.cold.start for network in result.networks] == [1, 2, 3]
    assert len({network.step for network in result.networks}) == 1
    for network in result.networks:
        assert tuple(batch.batch_size for batch in network.batches) == SIZES
        for batch in network.batches:
            assert (batch.rounds, batch.calls_per_round >= 1) == (5, True)
            assert 0 < batch.milliseconds.p10 <= batch.milliseconds.median <= batch.milliseconds.p90
            assert 0 < batch.ratio.p10 <= batch.ratio.median <= batch.ratio.p90
            assert batch.images_per_second == pytest.approx(batch.batch_size / batch.milliseconds.median * 1e3)


def test_the_others_are_compared_with_the_first_network(result):
    for batch in result.networks[0].batches:
        assert (batch.ratio.p10, batch.ratio.median, batch.ratio.p90) == (1, 1, 1)


def test_the_load_of_other_programs_is_reported(result):
    assert tuple(entry.batch_size for entry in result.disturbances) == SIZES
    assert all(entry.other_cores is None or entry.other_cores >= 0 for entry in result.disturbances)


def test_hardware_and_versions_are_reported(result):
    assert result.hardware.cores >= 1
    assert result.hardware.cpu
    assert len(result.hardware.devices) >= 1
    assert {"python", "jax", "jaxlib", "onnxruntime"} <= result.versions.keys()


def test_a_single_network_has_no_ranking(trained, target):
    result = bench([open_network(trained.out)], target, (2,), rounds=5)
    assert result.fastest == ()
    assert result.networks[0].cold is None
    assert "onnxruntime" not in result.versions


@pytest.mark.parametrize(
    ("milliseconds", "networks", "speedup"),
    [
        ([[4.0, 4.0], [2.0, 2.0]], (1,), 2.0),
        ([[2.0, 2.0], [2.0, 2.0]], (0, 1), None),
        ([[6.0, 6.0], [2.0, 2.0], [3.0, 3.0]], (1,), 1.5),
        ([[2.0, 2.0], [6.0, 6.0], [2.0, 2.0]], (0, 2), 3.0),
    ],
)
def test_the_fastest_is_ahead_of_the_next_that_is_slower(milliseconds, networks, speedup):
    found = _fastest(8, Rounds((1,) * len(milliseconds), np.array(milliseconds)))
    assert (found.batch_size, found.networks, found.speedup) == (8, networks, speedup)
