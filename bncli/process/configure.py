"""Set up the process for JAX: flags, heap, backend options and the compile cache."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import warnings

from bncli.config.choices import Precision
from bncli.process import distributed, heap
from bncli.process.compilations import compilations
from bncli.process.compile_cache import use_compile_cache
from bncli.process.flags import append_xla_flags
from bncli.process.jaxlib import refuse_bad_jaxlib
from bncli.process.memory import require_address_space

# Before 0.12 a cached CPU program is rejected on load with a machine-feature error.
_CACHE_WORKS_FROM = (0, 12)


def configure(precision: Precision = "float32", *, allow_bad_jaxlib: bool = False) -> None:
    """Set up the process for JAX, and join the other processes if it is one of several; call it before the first array.

    Args:
        precision: precision of the network that will run.
        allow_bad_jaxlib: continue with a jaxlib that is known to compute wrong numbers.

    Raises:
        RuntimeCheckError: the installed jaxlib is known to compute wrong numbers on this backend, or a limit on the
            address space leaves too little for JAX, or the other processes cannot be reached.
    """
    version = importlib.metadata.version("jaxlib")
    append_xla_flags(version, precision)
    if heap.is_glibc():
        heap.keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # without it, a machine that has no GPU gets a warning on stderr
    require_address_space()
    member = distributed.current()
    import jax

    compilations().listen()
    # Dispatching the next step while one runs allocates its memory before the running step frees its own, and gains
    # little on a CPU: without it, and with the memory in one place, ResNet-20 trains at 0.99× and the `cnn` at 1.00×
    # the speed.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_threefry_partitionable", True)  # the same random bits on any number of devices
    logging.getLogger("jax").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every save through absl
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(jax|flax|orbax|optax)\b.*")
    if member is not None:
        member.join()
    if not allow_bad_jaxlib:
        refuse_bad_jaxlib(version, backend=jax.default_backend())
    if _version_tuple(version) >= _CACHE_WORKS_FROM and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        use_compile_cache()
    if member is not None:
        member.watch()


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
