"""Programs shared within a process: what was traced and compiled once is not traced and compiled again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Program = TypeVar("Program")

# Programs that each builder keeps: enough for the variants that a study or a sweep compares.
MAX_KEPT = 16
# The settings of JAX that decide the numbers of a traced function.
_JAX_SETTINGS = (
    "jax_debug_nans",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)


def shared(build: Callable[[Key], Program]) -> Callable[[Key], Program]:
    """``build``, remembering the programs it made for recent keys and settings of JAX.

    The key must hold everything that the program depends on. A key that cannot be hashed, such as one with a user's
    module that has a list among its fields, gets a program of its own.
    """

    @lru_cache(maxsize=MAX_KEPT)
    def remembered(key: Key, jax_settings: tuple[object, ...]) -> Program:
        return build(key)

    @wraps(build)
    def get(key: Key) -> Program:
        try:
            hash(key)
        except TypeError:
            return build(key)
        return remembered(key, _jax_settings())

    return get


def _jax_settings() -> tuple[object, ...]:
    import jax

    return tuple(getattr(jax.config, name) for name in _JAX_SETTINGS)
