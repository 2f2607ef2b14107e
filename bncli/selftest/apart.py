"""Checks in a process of their own: a jaxlib that crashes or hangs ends that process, and the check has failed.

The process answers with the outcome of each check as soon as it has it. If it ends before the last one, the check in
progress has failed, and another process continues with the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from bncli.config.json_types import JSON
from bncli.process.child import Answer, run_child
from bncli.process.configure import configure
from bncli.selftest.checks import FULL, Check, Outcome, run_check

# Of all checks together; they take 15 s.
SECONDS = 300.0
# Runs in the other process.
_SERVE = "bncli.selftest.apart:serve"


def run_apart(checks: Sequence[Check], *, seconds: float = SECONDS) -> tuple[Outcome, ...]:
    """The outcome of each check.

    Args:
        checks: rows of FULL, in the order in which to run them.
        seconds: time limit of one process.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(checks):
        rest = checks[len(outcomes) :]
        result = run_child(_SERVE, [check.name for check in rest], seconds=seconds)
        done = [Outcome(**answer.document) for answer in result.answers]
        outcomes += done
        if len(done) < len(rest):
            outcomes.append(Outcome(rest[len(done)].name, None, rest[len(done)].tolerance, error=str(result.end)))
    return tuple(outcomes)


def serve(names: JSON) -> Iterator[Answer]:
    """Run the checks with these names, in the other process."""
    configure(allow_bad_jaxlib=True)
    by_name = {check.name: check for check in FULL}
    for name in names:
        yield Answer(asdict(run_check(by_name[name])))
