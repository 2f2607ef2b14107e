"""The cache of compiled programs. They are code, so they are kept in a folder that only its owner can write to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bncli.process.cache import private_folder


def use_compile_cache() -> None:
    """Keep compiled programs in the user's cache; if it cannot be written to, compile every time."""
    import jax

    try:
        directory = private_folder("xla")
    except OSError:
        return  # a read-only home only costs compile time
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # All of them: the smallest take 10 ms of a processor to read and 50 ms to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@dataclass(frozen=True)
class CompileCache:
    """The place of compiled programs between runs.

    Attributes:
        directory: a path or, if the user has set one, a URL; None if programs are not kept.
        usable: True if it can be written to, as far as this machine can tell.
    """

    directory: str | None
    usable: bool


def compile_cache() -> CompileCache:
    """The compile cache of this process, after ``configure``."""
    import jax

    directory: str | None = jax.config.jax_compilation_cache_dir
    if directory is None or "://" in directory:
        return CompileCache(directory, usable=directory is not None)
    place = Path(directory).absolute()  # JAX creates it with the first program it keeps
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    return CompileCache(directory, usable=there.is_dir() and os.access(there, os.W_OK | os.X_OK))
