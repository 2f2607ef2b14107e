"""What a process of its own does to the checks: the same outcomes, and a crash or a hang costs one check only."""

import pytest

from bncli.selftest import apart
from bncli.selftest.checks import FULL

ROWS = (FULL[0], FULL[2])
# With more than one check before it, the process ends; with one, that check passes.
CHILD = """
import json, os, signal, sys, time
sys.path[:] = {path!r}
answers, *names = sys.argv[1:]
if len(names) > 1:
    END
with open(answers, "a") as file:
    for name in names:
        file.write(json.dumps({{"name": name, "difference": 0.0, "tolerance": 1.0}}) + "\\n")
"""


def test_checks_pass_in_a_process_of_their_own():
    outcomes = apart.run_apart(ROWS)
    assert [outcome.name for outcome in outcomes] == [check.name for check in ROWS]
    assert all(outcome.passed and outcome.place and outcome.seconds > 0 for outcome in outcomes)


@pytest.mark.parametrize(
    ("end", "error", "seconds"),
    [
        ("os.abort()", "the process crashed: SIGABRT", 60),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process crashed: SIGSEGV", 60),
        ("time.sleep(60)", "no answer within 1 s", 1),
        ("sys.exit('no room')", "the process ended with 1: no room", 60),
    ],
)
def test_a_check_that_ends_the_process_has_failed_and_the_next_is_run(monkeypatch, end, error, seconds):
    monkeypatch.setattr(apart, "_CODE", CHILD.replace("END", end))
    first, second = apart.run_apart(ROWS, seconds=seconds)
    assert not first.passed
    assert (first.name, first.error) == (ROWS[0].name, error)
    assert second.passed
    assert second.name == ROWS[1].name
