"""The state of a trace that says if XLA will pass convolutions to oneDNN, as it does for a program that asks for it.

Some forms of a convolution are fast in oneDNN and slow in XLA's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_asked_for = ContextVar("_is_asked_for", default=False)


@contextmanager
def onednn(*, asked_for: bool) -> Iterator[None]:
    """While inside, operations are traced for a program that asks for oneDNN, or does not."""
    token = _is_asked_for.set(asked_for)
    try:
        yield
    finally:
        _is_asked_for.reset(token)


def is_onednn_asked_for() -> bool:
    """True while operations are traced for a program that asks for oneDNN."""
    return _is_asked_for.get()
