"""The machine and the versions that a run depends on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Intel's matrix units and the products of AVX-512, by Linux's names.
_BFLOAT16_UNITS = {"amx_bf16", "avx512_bf16"}
_PACKAGES = ("bncli", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """The versions of the packages that a run depends on, by name; also of ``python``."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


@dataclass(frozen=True)
class Hardware:
    """The hardware that a speed was measured on.

    Attributes:
        cpu: model of the CPU.
        cores: number of cores that this process may use.
        devices: the kind of each JAX device.
    """

    cpu: str
    cores: int
    devices: tuple[str, ...]


def hardware() -> Hardware:
    """The hardware of this process."""
    import jax

    return Hardware(_cpu_model(), num_cores(), tuple(device.device_kind for device in jax.devices()))


def has_bfloat16_units() -> bool:
    """True if the CPU multiplies in bfloat16 by units of its own (AMX, AVX-512 BF16); False where unknown."""
    return not _BFLOAT16_UNITS.isdisjoint(_cpu_fact("flags").split())


def _cpu_model() -> str:
    """The CPU's model as Linux reports it; elsewhere Python's answer, which may be only the architecture."""
    return _cpu_fact("model name") or platform.processor() or platform.machine()


def _cpu_fact(name: str) -> str:
    """The value that Linux states under this name for the first core; empty elsewhere."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
