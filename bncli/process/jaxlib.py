"""Versions of jaxlib that are known to compute wrong numbers or to crash."""

from __future__ import annotations

import importlib.metadata

from bncli.errors import RuntimeCheckError

# Versions whose CPU backend is known to compute wrong numbers or to crash (jax#39103, jax#40412).
_BAD_ON_CPU = ("0.10.2", "0.11.0", "0.11.1", "0.11.2")
# The remedy for a jaxlib that is known to be bad, or fails the self-test.
OTHER_JAX = "pip install 'jax>=0.10.0,!=0.10.2,!=0.11.*'; bncli train --allow-bad-jaxlib trains anyway"


def refuse_bad_jaxlib(version: str, *, backend: str) -> None:
    """Raise RuntimeCheckError if this version of jaxlib is known to be faulty on this backend."""
    fault = _known_fault(version, backend)
    if fault is not None:
        raise RuntimeCheckError(fault, remedy=OTHER_JAX)


def known_fault() -> str | None:
    """The known fault of the installed jaxlib on this backend; None if there is none."""
    import jax

    return _known_fault(importlib.metadata.version("jaxlib"), jax.default_backend())


def _known_fault(version: str, backend: str) -> str | None:
    if backend != "cpu" or version not in _BAD_ON_CPU:
        return None
    return f"jaxlib {version} computes wrong numbers or crashes on CPU (jax#39103, jax#40412)"
