"""XLA's flags and options: only those that were tried on the installed version, and the user's stay."""

import importlib.metadata
import os
import platform

import jax
import numpy as np
import pytest

from bncli.process import flags

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


OPTIONS = {"precision": "float32", "image_shape": (32, 32, 3)}


@on_linux_x86
@pytest.mark.parametrize(
    ("version", "changed", "has_units", "given"),
    [
        (TRIED, {}, False, True),
        (TRIED, {"image_shape": (8, 8, 1)}, True, False),  # nothing to win, and a compile cache to lose
        (TRIED, {"precision": "bfloat16"}, False, False),
        (TRIED, {"precision": "bfloat16"}, True, True),
        ("99.0", {}, True, False),
    ],
)
def test_onednn_is_for_images_and_versions_where_it_pays(monkeypatch, version, changed, has_units, given):
    monkeypatch.setattr(flags, "has_bfloat16_units", lambda: has_units)
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


@pytest.mark.parametrize(("precision", "has_units"), [("bfloat16", True), ("bfloat16", False), ("float32", True)])
def test_inference_is_jitted_with_the_kernels_for_its_precision(monkeypatch, precision, has_units):
    """The values are those of the function, and no setting of JAX is left changed."""
    monkeypatch.setattr(flags, "has_bfloat16_units", lambda: has_units)
    setting = jax.config.jax_persistent_cache_min_compile_time_secs
    function = flags.jit_inference(lambda x, *, scale: scale * x @ x, precision)
    x = np.eye(3, dtype=np.float32) * 3
    np.testing.assert_array_equal(function(x, scale=2.0), 2 * x @ x)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == setting


@on_linux_x86
@pytest.mark.parametrize(
    ("version", "has_units", "flags_before", "pays"),
    [
        (TRIED, True, "", True),
        (TRIED, False, "", False),
        ("0.10.1", True, "", False),
        (TRIED, True, flags._ONEDNN_FLAG, False),
    ],
)
def test_bfloat16_pays_with_units_for_it_that_are_used(monkeypatch, version, has_units, flags_before, pays):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(flags, "has_bfloat16_units", lambda: has_units)
    monkeypatch.setattr(flags, "_ACCELERATORS", ())
    monkeypatch.setenv("XLA_FLAGS", flags_before)
    assert flags.bfloat16_pays() is pays


@pytest.mark.parametrize(
    ("plugin", "device", "platforms", "pays"),
    [(1, 1, "", True), (1, 0, "", False), (0, 1, "", False), (1, 1, "cpu", False)],
)
def test_bfloat16_pays_on_an_accelerator_that_jax_can_use(monkeypatch, tmp_path, plugin, device, platforms, pays):
    monkeypatch.setattr(flags, "has_bfloat16_units", lambda: False)
    monkeypatch.setattr(flags, "find_spec", lambda name: object() if plugin else None)
    monkeypatch.setattr(flags, "_ACCELERATORS", (tmp_path / "nvidia0",))
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    if device:
        (tmp_path / "nvidia0").touch()
    assert flags.bfloat16_pays() is pays
