"""XLA's flags and compiler options; the gain of each was measured on a CPU.

Call ``append_xla_flags`` before anything touches a JAX backend: XLA reads its flags once. Importing this module imports
no JAX.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from bncli.config.choices import Precision
from bncli.process.hardware import has_bfloat16_units

if TYPE_CHECKING:
    import jax

Arguments = ParamSpec("Arguments")
Outputs = TypeVar("Outputs")

# XLA aborts the process on an unknown flag, so a flag is only given to versions it was tried on.
_TRIED_VERSIONS = ("0.10.1", "0.12.0", "0.12.0.1")
# Precision -> operations that XLA computes with its YNN kernels on a CPU. In float32 reductions: 420 → 540 images/s for
# the 6-conv net on 2 cores. In bfloat16 none: with reductions, and with its own default, jaxlib 0.12.0.1 returned NaN
# and infinite logits for a trained bfloat16 `cnn`.
_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNN_FUSIONS = {"bfloat16": "", "float32": "LIBRARY_FUSION_TYPE_REDUCE"}
# jaxlib is built with oneDNN, whose convolutions take half to four fifths of the time of XLA's own on AVX-512 (32→32
# channels at 32×32: forward 14.5 → 11.4 ms, input gradient 23.4 → 11.9 ms). It was tried on these versions, and is used
# for images of at least so many pixels: smaller ones gain little, and a program that calls oneDNN cannot be kept in the
# compile cache. In bfloat16 it pays where the CPU has units for it: 323 → 961 images/s by `fast` with SGD by AMX, 490 →
# 938 by AVX-512 BF16 (AMD Zen 5) with Muon, where XLA's own code has 331.
_ONEDNN_FLAG = "xla_cpu_experimental_onednn_custom_call"
_ONEDNN_TRIED = ("0.12.0", "0.12.0.1")
_ONEDNN_MIN_PIXELS = 256
_DETERMINISTIC_FLAG = "xla_gpu_deterministic_ops"
# Files of the first GPU or TPU of a machine.
_ACCELERATORS = tuple(map(Path, ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0")))


def append_xla_flags(jaxlib_version: str, precision: Precision = "float32") -> None:
    """Append the flags tried on this version to ``XLA_FLAGS``; flags set by the user win."""
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
    """XLA's options for a training step on images of ``image_shape`` = (H, W, C); often none.

    With ``deterministic`` a GPU uses only algorithms that give the same bytes each time; on a CPU all do.

    Unlike a flag in ``XLA_FLAGS``, an unknown option of a program raises an error instead of ending the process. Flags
    set by the user win.
    """
    import jax

    if jax.default_backend() == "gpu":
        return {_DETERMINISTIC_FLAG: True} if deterministic else {}
    has_kernels = precision == "float32" or has_bfloat16_units()
    pays = has_kernels and image_shape[0] * image_shape[1] >= _ONEDNN_MIN_PIXELS
    return {_ONEDNN_FLAG: True} if pays and _is_onednn_tried() else {}


def once_compiler_options() -> dict[str, int]:
    """XLA's options for a program that runs once.

    On a CPU they shorten compilation: 3.0 → 0.95 s for the initial weights of the `cnn`, 9.2 → 2.3 s for those of
    ResNet-18. The weights are the same to the bit.
    """
    import jax

    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def is_kept(options: Mapping[str, bool]) -> bool:
    """True if a program with these options goes to the compile cache."""
    return _ONEDNN_FLAG not in options


def compile_step(
    step: jax.stages.Wrapped, arguments: Sequence[object], options: Mapping[str, bool]
) -> jax.stages.Compiled:
    """Compile the jitted ``step`` for ``arguments``; it goes to the compile cache unless ``options`` forbid it."""
    if is_kept(options):
        return step.lower(*arguments).compile(compiler_options=dict(options) or None)
    from bncli.ops.onednn import onednn

    with _not_kept(), onednn(asked_for=options[_ONEDNN_FLAG]):
        return step.lower(*arguments).compile(compiler_options=dict(options))


def jit_inference(function: Callable[Arguments, Outputs], precision: Precision) -> Callable[Arguments, Outputs]:
    """``jax.jit`` of a function that runs a network in eval mode, or reads its layers.

    In bfloat16 it uses the CPU's units for it, if there are any: by AMX 818 → 114 ms for 256 images of 32×32 and the
    network of the recipe `fast`.
    """
    import jax

    if precision != "bfloat16" or not (_is_onednn_tried() and has_bfloat16_units()):
        return jax.jit(function)
    jitted = jax.jit(function, compiler_options={_ONEDNN_FLAG: True})

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Outputs:
        with _not_kept():
            outputs: Outputs = jitted(*args, **kwargs)
        return outputs

    return call


@contextmanager
def _not_kept() -> Iterator[None]:
    """While inside, programs do not go to the compile cache: writing one that calls oneDNN fails, with a warning."""
    import jax

    setting = "jax_persistent_cache_min_compile_time_secs"
    usual = getattr(jax.config, setting)
    jax.config.update(setting, math.inf)
    try:
        yield
    finally:
        jax.config.update(setting, usual)


def bfloat16_pays() -> bool:
    """True where training in bfloat16 is faster than in float32: with an accelerator, or a CPU's units for it.

    Told before JAX starts, by the files of the devices and JAX's plugins for them.
    """
    return _has_accelerator() or (_has_tried_onednn() and has_bfloat16_units())


def _has_accelerator() -> bool:
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu")
    return any(path.exists() for path in _ACCELERATORS) and any(map(find_spec, plugins))


def _is_onednn_tried() -> bool:
    """True if the CPU is the backend, this jaxlib's oneDNN was tried, and the user has not decided otherwise."""
    import jax

    return _has_tried_onednn() and jax.default_backend() == "cpu"


def _has_tried_onednn() -> bool:
    tried = _is_linux_x86() and importlib.metadata.version("jaxlib") in _ONEDNN_TRIED
    return tried and _ONEDNN_FLAG not in os.environ.get("XLA_FLAGS", "")
