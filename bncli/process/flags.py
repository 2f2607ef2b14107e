"""XLA's flags and the options of single programs; what each is worth was measured on a CPU.

``append_xla_flags`` must run before anything touches a JAX backend: XLA reads its flags once. Importing this module
imports no JAX.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bncli.config.choices import Precision
from bncli.process import heap

if TYPE_CHECKING:
    import jax

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


def append_xla_flags(jaxlib_version: str, precision: Precision = "float32") -> None:
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
