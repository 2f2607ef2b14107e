"""The use of the outcomes: an error or a warning before training, and the whole list for ``bncli doctor``."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from bncli.errors import RuntimeCheckError
from bncli.process import jaxlib
from bncli.selftest import remembered
from bncli.selftest.apart import run_apart
from bncli.selftest.checks import FULL, QUICK, Outcome, run_check
from bncli.selftest.collectives import COLLECTIVES


def check_before_training(*, allow_bad_jaxlib: bool = False) -> tuple[str, ...]:
    """Run the quick checks, unless they passed before; about 0.3 s.

    Args:
        allow_bad_jaxlib: continue with a jaxlib that is known to be bad or fails a check.

    Returns:
        Warnings about such a jaxlib.

    Raises:
        RuntimeCheckError: a check failed. (``configure`` refuses a jaxlib that is known to be bad.)
    """
    fault = jaxlib.known_fault()
    if fault is not None:
        return (fault,)  # the user allowed it, or ``configure`` would have refused it
    key = remembered.current_key()
    if remembered.has_passed(key):
        return ()
    outcomes = [run_check(check) for check in QUICK]
    failed = failures(outcomes)
    if not failed:
        remembered.remember(key, outcomes)
        return ()
    message = f"jaxlib {key['jaxlib']} computes wrong numbers here: {'; '.join(failed)}"
    if allow_bad_jaxlib:
        return (message,)
    raise RuntimeCheckError(message, remedy=jaxlib.OTHER_JAX)


def failures(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The failed checks, each with its difference or error."""
    return tuple(f"{outcome.name}: {outcome.finding}" for outcome in outcomes if not outcome.passed)


def examine_collectives() -> tuple[Outcome, ...]:
    """The outcomes of what all devices compute together; each process must call it."""
    return tuple(run_check(check) for check in COLLECTIVES)


def examine() -> tuple[Outcome, ...]:
    """The outcomes of the full checks, which take about 10 s.

    On a CPU they run in a process of their own, which a bad jaxlib may crash. A TPU admits no second process.
    """
    if jax.default_backend() == "cpu":
        return run_apart(FULL)
    return tuple(run_check(check) for check in FULL if not check.only_cpu)
