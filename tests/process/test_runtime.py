"""The process before JAX starts: flags are only added, the cache is private, a bad jaxlib is refused."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

from bncli.errors import RuntimeCheckError, UsageError
from bncli.process import cache, compile_cache, configure, flags, hardware, heap, jaxlib, mesh

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
TRIED = "0.12.0.1"
on_linux_x86 = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the flags are given on Linux x86-64 alone"
)


@pytest.fixture
def flags_after(monkeypatch):
    """XLA_FLAGS after ``_append_xla_flags`` for a jaxlib version, from XLA_FLAGS before."""

    def flags_after(version, before):
        if before is None:
            monkeypatch.delenv("XLA_FLAGS", raising=False)
        else:
            monkeypatch.setenv("XLA_FLAGS", before)
        flags.append_xla_flags(version)
        return os.environ.get("XLA_FLAGS")

    return flags_after


@on_linux_x86
@pytest.mark.parametrize("before", [None, "", "--xla_force_host_platform_device_count=2"])
def test_a_tried_version_gets_its_flag_behind_what_is_there(flags_after, before):
    expected = f"{before or ''} {FLAG}=LIBRARY_FUSION_TYPE_REDUCE".strip()
    assert flags_after(TRIED, before) == expected
    assert flags_after(TRIED, expected) == expected  # once


@on_linux_x86
def test_bfloat16_gets_none_of_the_kernels_that_return_nan(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    flags.append_xla_flags(TRIED, "bfloat16")
    assert os.environ["XLA_FLAGS"] == f"{FLAG}="


def test_a_flag_the_user_has_set_stays_theirs(flags_after):
    assert flags_after(TRIED, f"{FLAG}=X --a=b") == f"{FLAG}=X --a=b"


@pytest.mark.parametrize("version", ["0.9.0", "0.12.7", "99.0"])
def test_a_version_that_was_not_tried_gets_no_flag(flags_after, version):
    assert flags_after(version, None) is None
    assert flags_after(version, "--a=b") == "--a=b"


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.11.2"])
def test_a_jaxlib_that_computes_wrong_numbers_on_cpu_is_refused_with_the_remedy(version):
    with pytest.raises(RuntimeCheckError, match=version) as caught:
        jaxlib.refuse_bad_jaxlib(version, backend="cpu")
    assert caught.value.remedy.startswith("pip install 'jax>=0.10.0,!=0.10.2,!=0.11.*'; ")
    assert "--allow-bad-jaxlib" in caught.value.remedy
    jaxlib.refuse_bad_jaxlib(version, backend="gpu")


def test_the_installed_jaxlib_is_not_refused():
    jaxlib.refuse_bad_jaxlib(importlib.metadata.version("jaxlib"), backend="cpu")


def test_a_jaxlib_that_is_known_to_be_bad_is_gone_on_with_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(jaxlib, "_BAD_ON_CPU", (importlib.metadata.version("jaxlib"),))
    monkeypatch.setattr(heap, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unused")
    assert "jax#39103" in jaxlib.known_fault()
    with pytest.raises(RuntimeCheckError):
        configure.configure()
    configure.configure(allow_bad_jaxlib=True)


def test_the_compile_cache_is_usable_where_it_can_be_written(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").touch()
    try:
        for directory, usable in (
            (None, False),
            (str(tmp_path), True),
            (str(tmp_path / "not" / "yet"), True),
            (str(tmp_path / "file" / "below"), False),
            ("gs://bucket/cache", True),
        ):
            jax.config.update("jax_compilation_cache_dir", directory)
            assert compile_cache.compile_cache() == compile_cache.CompileCache(directory, usable)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def run_python(code, **environment):
    """What a fresh process prints, as JSON."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "TF_CPP"))}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


OPTIONS = {"precision": "float32", "image_shape": (32, 32, 3)}


@on_linux_x86
@pytest.mark.parametrize(
    ("version", "changed", "given"),
    [
        (TRIED, {}, True),
        (TRIED, {"image_shape": (8, 8, 1)}, False),  # nothing to win, and a compile cache to lose
        (TRIED, {"precision": "bfloat16"}, False),
        ("99.0", {}, False),
    ],
)
def test_onednn_is_for_images_and_versions_where_it_pays(monkeypatch, version, changed, given):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert flags.step_compiler_options(**OPTIONS | changed) == ({flags._ONEDNN_FLAG: True} if given else {})


def test_onednn_is_not_asked_for_where_the_user_has_decided(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: TRIED)
    monkeypatch.setenv("XLA_FLAGS", f"--{flags._ONEDNN_FLAG}=false")
    assert flags.step_compiler_options(**OPTIONS) == {}


def test_a_program_by_onednn_computes_the_same_and_does_not_go_to_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = flags.step_compiler_options(**OPTIONS)
    if not options:
        pytest.skip("not with this jaxlib on this machine")
    x, kernel = jax.random.normal(jax.random.key(0), (4, 16, 16, 8)), jax.random.normal(jax.random.key(1), (3, 3, 8, 8))

    def gradients(x, kernel):
        def loss(x, kernel):
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return (jax.numpy.sin(y) ** 2).sum()

        return jax.value_and_grad(loss, argnums=(0, 1))(x, kernel)

    before = jax.config.jax_persistent_cache_min_compile_time_secs
    compiled = flags.compile_step(jax.jit(gradients), (x, kernel), options)
    assert "__onednn$convolution" in compiled.as_text()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before
    for mine, plain in zip(*map(jax.tree.leaves, (compiled(x, kernel), jax.jit(gradients)(x, kernel))), strict=True):
        # A sum of thousands is as exact as its terms are large.
        np.testing.assert_allclose(mine, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


# A step with about 160 MiB of temporary memory and little to compute: 12 activations of 16 MiB, 8 of them kept.
STEPS = """
import json
from pathlib import Path
from bncli.process import configure, flags, heap
configure.configure()
import jax, jax.numpy as jnp

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

def loss(kernels, x):
    for kernel in kernels:
        x = jnp.tanh(x @ kernel)
    return (x * x).mean()

@jax.jit
def step(kernels, x):
    return jax.tree.map(lambda kernel, grad: kernel - grad, kernels, jax.grad(loss)(kernels, x))

kernels, x = [jnp.eye(64)] * 8, jnp.ones((1 << 16, 64))
compiled = step.lower(kernels, x).compile()
placed = flags.in_one_place(compiled)
kept = []
for _ in range(12):
    before = kib("VmRSS") if not kept else before
    kernels = placed(kernels, x)
    kept.append(bytearray(1 << 16))  # as a loop keeps numbers and objects
plan = compiled.memory_analysis().temp_size_in_bytes
print(json.dumps({"glibc": heap.is_glibc(), "plan": plan, "grown": (kib("VmHWM") - before) * 1024}))
"""


def test_the_steps_temporary_memory_is_held_once():
    seen = run_python(STEPS)
    if not seen["glibc"]:
        pytest.skip("another C library")
    assert seen["plan"] > flags._MIN_PLACED_BYTES
    assert seen["grown"] < 1.5 * seen["plan"]


CONFIGURED = """
import json, os, sys
os.umask(0)
from bncli.process import configure
before = "jax" in sys.modules
configure.configure()
import jax, jax.numpy as jnp
total = float(jax.jit(jnp.sum)(jnp.ones(3)))
cache = jax.config.jax_compilation_cache_dir
print(json.dumps({
    "jax before": before,
    "total": total,
    "flags": os.environ.get("XLA_FLAGS"),
    "cache": cache,
    "mode": oct(os.stat(cache).st_mode & 0o777) if cache and os.path.exists(cache) else None,
    "partitionable": jax.config.jax_threefry_partitionable,
}))
"""


def test_a_configured_process_computes_and_its_cache_is_the_owners_alone(tmp_path):
    seen = run_python(CONFIGURED, XDG_CACHE_HOME=str(tmp_path))
    assert not seen["jax before"]
    assert seen["total"] == 3
    assert seen["partitionable"]
    if configure._version_tuple(importlib.metadata.version("jaxlib")) >= (0, 12):
        assert seen["cache"] == str(tmp_path / "bncli" / "xla")
        assert seen["mode"] == "0o700"
    else:
        assert seen["cache"] is None


def test_what_the_user_has_set_is_kept(tmp_path):
    seen = run_python(
        CONFIGURED, XLA_FLAGS=f"{FLAG}=LIBRARY_FUSION_TYPE_DOT", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine")
    )
    assert seen["flags"] == f"{FLAG}=LIBRARY_FUSION_TYPE_DOT"
    assert seen["cache"] == str(tmp_path / "mine")


def test_a_cache_that_cannot_be_made_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "bncli").write_text("a file where the directory would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    compile_cache.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize(
    ("version", "expected"), [("0.12.0.1", (0, 12, 0, 1)), ("0.10.1", (0, 10, 1)), ("0.12.0rc1", (0, 12))]
)
def test_versions_are_compared_by_their_numbers(version, expected):
    assert configure._version_tuple(version) == expected


def test_the_cache_lies_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.user_cache() == tmp_path / "bncli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.user_cache() == tmp_path / ".cache" / "bncli"


def test_versions_name_what_a_run_depends_on():
    versions = hardware.versions()
    assert versions["python"] == platform.python_version()
    assert versions["jax"] == jax.__version__
    assert {"bncli", "flax", "jaxlib", "numpy", "optax", "orbax-checkpoint"} < versions.keys()


def test_the_mesh_holds_every_device_along_the_batch():
    made = mesh.make_mesh()
    assert made.axis_names == (mesh.BATCH_AXIS,)
    assert made.size == jax.device_count()
    x = np.arange(6 * made.size).reshape(2 * made.size, 3)
    for sharding in (mesh.batch_sharding(made), mesh.replicated(made)):
        np.testing.assert_array_equal(jax.device_put(x, sharding), x)
    assert mesh.batch_sharding(made, axis=1).spec == jax.sharding.PartitionSpec(None, "batch")


def test_a_batch_must_divide_over_the_devices():
    class Mesh8:
        size = 8

    mesh.check_batch_size(16, Mesh8)
    with pytest.raises(UsageError, match="--batch-size 12 does not divide over 8 devices") as caught:
        mesh.check_batch_size(12, Mesh8)
    assert caught.value.remedy == "Use a multiple of 8."


def test_hardware_is_this_machine(monkeypatch, tmp_path):
    found = hardware.hardware()
    assert found.cpu
    assert 1 <= found.cores <= os.cpu_count()
    assert found.devices == tuple(device.device_kind for device in jax.devices())
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")
    assert hardware.hardware().cpu in (platform.processor(), platform.machine())
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: Another\n")
    assert hardware.hardware().cpu == "Some CPU: fast"
