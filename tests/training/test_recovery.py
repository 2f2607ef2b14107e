"""Laws of the recovery: a run continues as long as its option says, and no longer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.training.progress import RunProgress
from bncli.training.recovery import MAX_ROLLBACKS, MAX_SKIPPED_IN_A_ROW, diverged, next_action

STEPS = st.sets(st.integers(1, 40), max_size=40).map(lambda steps: tuple(sorted(steps)))


@given(skipped=STEPS, rollbacks=st.integers(0, MAX_ROLLBACKS))
def test_a_run_that_is_to_stop_ends(skipped, rollbacks):
    assert next_action("stop", RunProgress(skipped=skipped, rollbacks=rollbacks), step=41) == "end"


@given(skipped=STEPS)
def test_a_step_is_skipped_unless_all_of_the_last_were(skipped):
    last = set(range(41 - MAX_SKIPPED_IN_A_ROW, 41))
    action = next_action("skip", RunProgress(skipped=skipped), step=41)
    assert action == ("end" if last <= set(skipped) else "skip")


@pytest.mark.parametrize("rollbacks", range(MAX_ROLLBACKS + 2))
def test_a_run_goes_back_so_often_and_then_ends(rollbacks):
    action = next_action("rollback", RunProgress(rollbacks=rollbacks), step=41)
    assert action == ("rollback" if rollbacks < MAX_ROLLBACKS else "end")


def test_the_error_names_the_rate_and_the_ways_out():
    error = diverged("step 3 (epoch 1): the loss is not finite", saved="Nothing is saved.", learning_rate=0.5)
    assert error.message == "step 3 (epoch 1): the loss is not finite: the training has diverged. Nothing is saved."
    for part in ("(it was 0.5)", "--on-nan skip or rollback"):
        assert part in error.remedy
