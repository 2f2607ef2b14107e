"""Short compile times: the networks of the suite run for milliseconds and would compile for seconds."""

import os
from pathlib import Path
from typing import Any

import jax
from jax._src import compiler as untyped_compiler

# The last JAX for Python 3.11 cannot keep CPU programs on disk; its older code generator takes half of the time.
KEEPS_PROGRAMS = jax.__version_info__ >= (0, 12)
OLDER_GENERATOR = {"xla_cpu_use_fusion_emitters": False}
OLDER_FLAG = "--xla_cpu_use_fusion_emitters=false"
compiler: Any = untyped_compiler
_as_users = compiler.get_compile_options


def share_programs(directory: Path) -> None:
    """Keep compiled programs in ``directory``, for all processes of this session."""
    if not KEEPS_PROGRAMS:
        return
    shortest = 0.05  # seconds: less is compiled sooner than read
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(shortest)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)


def optimise(wanted: bool) -> None:
    """Compile from now on as users do, or with as little work as possible; processes that start from now on too."""
    jax.config.update("jax_disable_most_optimizations", not wanted)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not wanted))
    if not KEEPS_PROGRAMS:
        compiler.get_compile_options = _as_users if wanted else _by_older_generator


def _by_older_generator(*args: object, env_options_overrides: dict[str, object] | None, **kwargs: object) -> object:
    return _as_users(*args, env_options_overrides=OLDER_GENERATOR | (env_options_overrides or {}), **kwargs)


def children() -> dict[str, str]:
    """The environment of processes that compile with as little work as possible."""
    flags = {} if KEEPS_PROGRAMS else {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {OLDER_FLAG}".strip()}
    return {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **flags}
