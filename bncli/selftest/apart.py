"""Checks in a process of their own: a jaxlib that crashes or hangs ends that process, and the check has failed.

The process appends the outcome of each check to a file as soon as it has it. Where it ends before the last one, the
check it was at has failed, and another process goes on behind it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bncli.process.configure import configure
from bncli.selftest.checks import FULL, Check, Outcome, run_check

# Of all checks together; they take 15 s.
SECONDS = 300.0
# The child finds modules where this process does: neither fewer (a checkout that is not installed) nor more.
_CODE = "import sys; sys.path[:] = {path!r}; from bncli.selftest.apart import main; main()"


def run_apart(checks: Sequence[Check], *, seconds: float = SECONDS) -> tuple[Outcome, ...]:
    """The outcome of each check, which must be rows of FULL.

    Args:
        checks: in the order in which they are run.
        seconds: that one process is given.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(checks):
        rest = checks[len(outcomes) :]
        done, end = _run_child([check.name for check in rest], seconds)
        outcomes += done
        if len(done) < len(rest):
            outcomes.append(Outcome(rest[len(done)].name, None, rest[len(done)].tolerance, error=end))
    return tuple(outcomes)


def _run_child(names: Sequence[str], seconds: float) -> tuple[list[Outcome], str]:
    """(The outcomes that the process came to, how it ended)."""
    with tempfile.TemporaryDirectory() as directory:
        answers = Path(directory) / "answers.jsonl"
        answers.touch()
        command = [sys.executable, "-P", "-c", _CODE.format(path=sys.path), str(answers), *names]
        try:
            child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
            end = _end(child)
        except subprocess.TimeoutExpired:
            end = f"no answer within {seconds:.0f} s"
        lines = answers.read_text(encoding="utf-8").splitlines()
        return [Outcome(**json.loads(line)) for line in lines], end


def _end(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode < 0:
        return f"the process crashed: {signal.Signals(-child.returncode).name}"
    lines = child.stderr.strip().splitlines() or ["no message"]
    return f"the process ended with {child.returncode}: {lines[-1]}"


def main() -> None:
    """What the process does: the checks named on its command line, into the file named there."""
    answers, *names = sys.argv[1:]
    configure(allow_bad_jaxlib=True)
    by_name = {check.name: check for check in FULL}
    with Path(answers).open("a", encoding="utf-8") as file:
        for name in names:
            file.write(json.dumps(asdict(run_check(by_name[name]))) + "\n")
            file.flush()
