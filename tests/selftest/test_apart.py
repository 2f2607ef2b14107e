"""What a process of its own does to the checks: the same outcomes, and a crash or a hang costs one check only."""

import pytest

from bncli.selftest import apart
from bncli.selftest.checks import FULL

ROWS = (FULL[0], FULL[2])
# With more than one check before it, the process ends; with one, that check passes.
SERVE = """
import os, signal, sys, time
from bncli.process.child import Answer

def serve(names):
    if len(names) > 1:
        END
    for name in names:
        yield Answer({"name": name, "difference": 0.0, "tolerance": 1.0})
"""


def test_checks_pass_in_a_process_of_their_own():
    outcomes = apart.run_apart(ROWS)
    assert [outcome.name for outcome in outcomes] == [check.name for check in ROWS]
    assert all(outcome.passed and outcome.place and outcome.seconds > 0 for outcome in outcomes)


@pytest.mark.parametrize(
    ("end", "error", "seconds"),
    [
        ("os.abort()", "the process crashed: SIGABRT", 60),
        ("time.sleep(60)", "no answer within 3 s", 3),
        ("sys.exit('no room')", "the process ended with 1: no room", 60),
    ],
)
def test_a_check_that_ends_the_process_has_failed_and_the_next_is_run(monkeypatch, tmp_path, end, error, seconds):
    (tmp_path / "ending.py").write_text(SERVE.replace("END", end))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(apart, "_SERVE", "ending:serve")
    first, second = apart.run_apart(ROWS, seconds=seconds)
    assert not first.passed
    assert (first.name, first.error) == (ROWS[0].name, error)
    assert second.passed
    assert second.name == ROWS[1].name
