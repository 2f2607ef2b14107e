"""What is made of the outcomes: before training, an error or a warning; for ``bncli doctor``, all of them."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from bncli.errors import RuntimeCheckError
from bncli.process import jaxlib
from bncli.selftest import remembered as memory
from bncli.selftest.apart import run_apart
from bncli.selftest.checks import FULL, QUICK, Outcome, run_check


def check_before_training(*, allow_bad_jaxlib: bool = False) -> tuple[str, ...]:
    """Runs the quick form, unless it is remembered to have passed; about 0.3 s.

    Args:
        allow_bad_jaxlib: whether to go on with a jaxlib that is known to be bad or fails.

    Returns:
        Warnings, where one is gone on with.

    Raises:
        RuntimeCheckError: a check failed; a jaxlib that is known to be bad is refused by ``configure``.
    """
    fault = jaxlib.known_fault()
    if fault is not None:
        return (fault,)  # allowed, or this process would not be configured
    key = memory.current_key()
    if memory.has_passed(key):
        return ()
    outcomes = [run_check(check) for check in QUICK]
    failed = failures(outcomes)
    if not failed:
        memory.remember(key, outcomes)
        return ()
    message = f"jaxlib {key['jaxlib']} computes wrong numbers here: {'; '.join(failed)}"
    if allow_bad_jaxlib:
        return (message,)
    raise RuntimeCheckError(message, remedy=jaxlib.OTHER_JAX)


def failures(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The checks that failed, each with its figure."""
    return tuple(f"{outcome.name}: {outcome.finding}" for outcome in outcomes if not outcome.passed)


def examine() -> tuple[Outcome, ...]:
    """The outcomes of the full form, which takes about 10 s.

    On a CPU in a process of its own, which a bad jaxlib may end. A TPU takes no second process.
    """
    if jax.default_backend() == "cpu":
        return run_apart(FULL)
    return tuple(run_check(check) for check in FULL if not check.only_cpu)
