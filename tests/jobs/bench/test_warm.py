"""Rounds under a fake clock that only the networks advance, so that every time is known."""

from collections import Counter

import numpy as np
import pytest

from bncli.jobs.bench import Rounds, time_rounds, warm

IMAGES = np.zeros((4, 2, 2, 1), np.float32)


class Machine:
    """A clock, and networks that each advance it by a fixed number of seconds per call."""

    def __init__(self):
        self.now = 0.0
        self.called = []

    def network(self, name, seconds):
        def call(images):
            assert images is IMAGES
            self.called.append(name)
            self.now += seconds

        return call


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(warm, "perf_counter", lambda: machine.now)
    return machine


@pytest.mark.parametrize(("seconds", "calls"), [(1e-5, 1000), (1e-3, 10), (0.003, 4), (0.0101, 1), (2.0, 1)])
def test_a_turn_is_as_many_calls_as_the_clock_needs_and_gives_the_time_of_one(machine, seconds, calls):
    rounds = time_rounds([machine.network("a", seconds)], IMAGES, rounds=5)
    assert rounds.calls[0] == pytest.approx(calls, abs=1)  # one more or less by the rounding of the sum
    assert rounds.milliseconds.shape == (1, 5)
    np.testing.assert_allclose(rounds.milliseconds, seconds * 1e3)
    untimed = int(rounds.calls[0] > 1)
    assert len(machine.called) == warm.GUESS_CALLS + 5 * (rounds.calls[0] + untimed)


def test_every_network_takes_its_turn_in_every_round_in_changing_order(machine):
    networks = {name: machine.network(name, 1.0) for name in "abc"}
    time_rounds(list(networks.values()), IMAGES, rounds=12)
    turns = [
        "".join(machine.called[start : start + 3]) for start in range(3 * warm.GUESS_CALLS, len(machine.called), 3)
    ]
    assert len(turns) == 12
    assert all(Counter(turn) == Counter("abc") for turn in turns)
    assert len(set(turns)) >= 4


def test_times_belong_to_their_networks(machine):
    rounds = time_rounds([machine.network("a", 0.5), machine.network("b", 0.25)], IMAGES, rounds=5)
    assert [rounds.time(network).median for network in (0, 1)] == pytest.approx([500, 250])
    assert rounds.speedup(1, over=0).median == pytest.approx(2)


def test_progress_is_told_every_round(machine):
    told = []
    time_rounds([machine.network("a", 1.0)], IMAGES, rounds=5, progress=told.append)
    assert told == [1, 2, 3, 4, 5]


def rounds_of(*milliseconds):
    return Rounds((1,) * len(milliseconds), np.array(milliseconds, float))


def test_the_spread_is_the_middle_of_the_rounds():
    spread = rounds_of(np.arange(101)).time(0)
    assert (spread.p10, spread.median, spread.p90) == (10, 50, 90)


def test_what_disturbs_both_alike_leaves_the_ratio_alone():
    disturbed = np.array([1.0, 3.0, 1.2, 9.0, 1.1])
    speedup = rounds_of(2 * disturbed, 1.6 * disturbed).speedup(1, over=0)
    assert (speedup.p10, speedup.median, speedup.p90) == pytest.approx((1.25, 1.25, 1.25))


ONE = np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.1, 0.9, 1.0])


@pytest.mark.parametrize(
    ("milliseconds", "fastest"),
    [
        ([ONE], (0,)),
        ([ONE, ONE], (0, 1)),
        ([ONE, ONE * 0.5], (1,)),
        ([ONE, ONE[::-1] * 0.98], (1, 0)),  # faster by the median, and not in nine rounds of ten
        ([ONE, ONE * 0.98], (1,)),  # by as little, but in every round
        ([ONE * 2, ONE, ONE[::-1]], (1, 2)),
        ([ONE * 3, ONE * 2, ONE], (2,)),
    ],
)
def test_a_network_is_the_fastest_only_beyond_the_noise(milliseconds, fastest):
    assert rounds_of(*milliseconds).fastest() == fastest
