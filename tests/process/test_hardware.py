"""The versions and the hardware that a run depends on."""

import os
import platform

import jax
import pytest

from bncli.process import hardware


def test_versions_name_what_a_run_depends_on():
    versions = hardware.versions()
    assert versions["python"] == platform.python_version()
    assert versions["jax"] == jax.__version__
    assert {"bncli", "flax", "jaxlib", "numpy", "optax", "orbax-checkpoint"} < versions.keys()


def test_hardware_is_this_machine(monkeypatch, tmp_path):
    found = hardware.hardware()
    assert found.cpu
    assert 1 <= found.cores <= os.cpu_count()
    assert found.devices == tuple(device.device_kind for device in jax.devices())
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")
    assert hardware.hardware().cpu in (platform.processor(), platform.machine())
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: Another\n")
    assert hardware.hardware().cpu == "Some CPU: fast"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f amx_bf16 amx_tile", True), ("fpu avx512_bf16", True), ("fpu avx512f bf16", False)],
)
def test_units_for_bfloat16_are_read_from_the_flags_of_the_cpu(monkeypatch, tmp_path, flags, expected):
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")
    assert not hardware.has_bfloat16_units()
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert hardware.has_bfloat16_units() is expected
