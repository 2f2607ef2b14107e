"""The process before JAX starts: XLA flags, compile cache, and the mesh every step runs on.

``configure`` must run before anything touches a JAX backend: XLA reads its flags once. Importing this module
imports no JAX.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncli import heap
from bncli.choices import Precision
from bncli.errors import RuntimeCheckError, UsageError

if TYPE_CHECKING:
    import jax

BATCH_AXIS = "batch"

# XLA aborts the process on a flag it does not know, so a flag is only given to versions it was tried on.
_TRIED_VERSIONS = ("0.10.1", "0.12.0", "0.12.0.1")
# Precision -> which operations XLA hands to its YNN kernels on a CPU. Reductions alone: 420 → 540 images/s for the
# 6-conv net on 2 cores. None in bfloat16: with reductions, and by its own default, jaxlib 0.12.0.1 returned NaN and
# infinite logits for a trained bfloat16 `cnn`.
_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNN_FUSIONS = {"bfloat16": "", "float32": "LIBRARY_FUSION_TYPE_REDUCE"}
# jaxlib is built with oneDNN, whose convolutions take half to four fifths of the time of XLA's own on AVX-512 (32→32
# channels at 32×32: forward 14.5 → 11.4 ms, input gradient 23.4 → 11.9 ms). Versions it was tried on, and images from
# how many pixels on: below there is little to win, and a program that calls oneDNN cannot be kept in the compile cache.
_ONEDNN_FLAG = "xla_cpu_experimental_onednn_custom_call"
_ONEDNN_TRIED = ("0.12.0", "0.12.0.1")
_ONEDNN_MIN_PIXELS = 256
_DETERMINISTIC_FLAG = "xla_gpu_deterministic_ops"
# A step with less temporary memory costs little wherever it lies.
_MIN_PLACED_BYTES = 1 << 25
# Versions whose CPU backend is known to compute wrong numbers or to crash (jax#39103, jax#40412).
_BAD_ON_CPU = ("0.10.2", "0.11.0", "0.11.1", "0.11.2")
# The remedy for a jaxlib that is known to be bad, or fails the self-test.
OTHER_JAX = "pip install 'jax>=0.10.0,!=0.10.2,!=0.11.*'; bncli train --allow-bad-jaxlib trains all the same"
# Before 0.12 a cached CPU program is rejected on load with a machine-feature error.
_CACHE_WORKS_FROM = (0, 12)

_CPUINFO = Path("/proc/cpuinfo")
_PACKAGES = ("bncli", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def configure(precision: Precision = "float32", *, allow_bad_jaxlib: bool = False) -> None:
    """Sets up the process for JAX; call it once, before the first array.

    Args:
        precision: of the network that will run.
        allow_bad_jaxlib: whether to go on with a jaxlib that is known to compute wrong numbers.

    Raises:
        RuntimeCheckError: the installed jaxlib is known to compute wrong numbers on this backend.
    """
    version = importlib.metadata.version("jaxlib")
    _append_xla_flags(version, precision)
    if heap.is_glibc():
        heap.keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else a machine without a GPU is told so on stderr
    import jax

    # On a CPU a step ahead would be given its memory before the one under way frees its own, and gain little: in all,
    # with the memory in one place, ResNet-20 trains at 0.99 and the `cnn` at 1.00 of the speed with a step ahead.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_threefry_partitionable", True)  # the same random bits on any number of devices
    logging.getLogger("jax").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every save through absl
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(jax|flax|orbax|optax)\b.*")
    if not allow_bad_jaxlib:
        _refuse_bad_jaxlib(version, backend=jax.default_backend())
    if _version_tuple(version) >= _CACHE_WORKS_FROM and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        _use_compile_cache(user_cache() / "xla")


def _append_xla_flags(jaxlib_version: str, precision: Precision = "float32") -> None:
    """Appends the flags tried on this version to ``XLA_FLAGS``; a flag the user has set stays theirs."""
    if not _is_linux_x86():
        return  # tried nowhere else
    present = os.environ.get("XLA_FLAGS", "")
    if jaxlib_version in _TRIED_VERSIONS and _YNN_FLAG not in present:
        os.environ["XLA_FLAGS"] = f"{present} {_YNN_FLAG}={_YNN_FUSIONS[precision]}".strip()


def _is_linux_x86() -> bool:
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def step_compiler_options(
    *, precision: Precision, image_shape: tuple[int, int, int], deterministic: bool = False
) -> dict[str, bool]:
    """XLA's options for the step that trains on images of ``image_shape`` = (H, W, C); none for most.

    With ``deterministic`` a GPU takes only algorithms that give the same bytes each time; on a CPU all do.

    Unlike a flag in ``XLA_FLAGS``, an unknown option of a program raises an error instead of ending the process. A flag
    that the user has set there stays theirs.
    """
    import jax

    tried = _is_linux_x86() and importlib.metadata.version("jaxlib") in _ONEDNN_TRIED
    if jax.default_backend() == "gpu":
        return {_DETERMINISTIC_FLAG: True} if deterministic else {}
    pays = precision == "float32" and image_shape[0] * image_shape[1] >= _ONEDNN_MIN_PIXELS
    if not (tried and pays and jax.default_backend() == "cpu") or _ONEDNN_FLAG in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {_ONEDNN_FLAG: True}


def once_compiler_options() -> dict[str, int]:
    """XLA's options for a program that runs once.

    On a CPU 0.95 s of compilation instead of 3.0 for the initial weights of the `cnn`, 2.3 instead of 9.2 for those of
    ResNet-18, and the same weights to the bit.
    """
    import jax

    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def is_kept(options: Mapping[str, bool]) -> bool:
    """Whether a program of these options goes to the compile cache."""
    return _ONEDNN_FLAG not in options


def compile_step(
    step: jax.stages.Wrapped, arguments: Sequence[Any], options: Mapping[str, bool]
) -> jax.stages.Compiled:
    """The jitted ``step`` compiled for ``arguments``; kept in the compile cache unless ``options`` forbid it."""
    import jax

    if is_kept(options):
        return step.lower(*arguments).compile(compiler_options=dict(options) or None)
    setting = "jax_persistent_cache_min_compile_time_secs"
    usual = getattr(jax.config, setting)
    jax.config.update(setting, math.inf)  # writing a program that calls oneDNN fails, with a warning
    try:
        return step.lower(*arguments).compile(compiler_options=dict(options))
    finally:
        jax.config.update(setting, usual)


def in_one_place(step: jax.stages.Compiled) -> Callable[..., Any]:
    """``step``, whose temporary memory the process holds once, however often it is called."""
    import jax

    if jax.default_backend() != "cpu" or not heap.is_glibc():
        return step
    plan = step.memory_analysis()
    if plan is None or plan.temp_size_in_bytes < _MIN_PLACED_BYTES:
        return step
    place = heap.Place(plan.temp_size_in_bytes)

    def placed_step(*arguments: Any) -> Any:  # noqa: ANN401 - the step's own
        place.prepare()
        return step(*arguments)

    return placed_step


def _refuse_bad_jaxlib(version: str, *, backend: str) -> None:
    fault = _known_fault(version, backend)
    if fault is not None:
        raise RuntimeCheckError(fault, remedy=OTHER_JAX)


def known_fault() -> str | None:
    """What is known to be wrong with the installed jaxlib on this backend; None where nothing is."""
    import jax

    return _known_fault(importlib.metadata.version("jaxlib"), jax.default_backend())


def _known_fault(version: str, backend: str) -> str | None:
    if backend != "cpu" or version not in _BAD_ON_CPU:
        return None
    return f"jaxlib {version} computes wrong numbers or crashes on CPU (jax#39103, jax#40412)"


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def user_cache() -> Path:
    """The user's cache directory for bncli; not created."""
    cache = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification has relative paths ignored.
    base = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "bncli"


def _use_compile_cache(directory: Path) -> None:
    """Keeps compiled programs between runs in a directory only its owner can write: they are code."""
    import jax

    try:
        directory.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (directory.parent, directory):  # mkdir would give the first of them the usual mode
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
    except OSError:
        return  # a read-only home only costs compile time
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@dataclass(frozen=True)
class CompileCache:
    """Where compiled programs are kept between runs.

    Attributes:
        directory: a path or, if the user has set it so, a URL; None where programs are not kept.
        usable: whether it can be written to, as far as this machine can tell.
    """

    directory: str | None
    usable: bool


def compile_cache() -> CompileCache:
    """The compile cache of this process, once it is configured."""
    import jax

    directory: str | None = jax.config.jax_compilation_cache_dir
    if directory is None or "://" in directory:
        return CompileCache(directory, usable=directory is not None)
    place = Path(directory).absolute()  # JAX makes it when it first keeps something
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    return CompileCache(directory, usable=there.is_dir() and os.access(there, os.W_OK | os.X_OK))


def versions() -> dict[str, str]:
    """What a run depended on, by package name; also ``python``."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


@dataclass(frozen=True)
class Hardware:
    """What a speed was measured on.

    Attributes:
        cpu: its model.
        cores: that this process may use.
        devices: JAX's, each by its kind.
    """

    cpu: str
    cores: int
    devices: tuple[str, ...]


def hardware() -> Hardware:
    """The hardware of this process."""
    import jax

    return Hardware(_cpu_model(), _num_cores(), tuple(device.device_kind for device in jax.devices()))


def _cpu_model() -> str:
    """The CPU's name; where Linux does not tell, what Python knows, which may only be its architecture."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_mesh() -> jax.sharding.Mesh:
    """A mesh over all devices along the batch axis; one device is a mesh of one."""
    import jax
    import numpy as np

    return jax.sharding.Mesh(np.array(jax.devices()), (BATCH_AXIS,))


def batch_sharding(mesh: jax.sharding.Mesh, *, axis: int = 0) -> jax.sharding.NamedSharding:
    """Splits axis ``axis`` over the devices."""
    import jax

    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*[None] * axis, BATCH_AXIS))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """The whole array on every device."""
    import jax

    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raises UsageError where the batch does not divide over the devices."""
    if batch_size % mesh.size:
        raise UsageError(
            f"--batch-size {batch_size} does not divide over {mesh.size} devices",
            remedy=f"Use a multiple of {mesh.size}.",
        )
