"""A configured process computes, keeps its programs in a private cache, and leaves what the user has set."""

import importlib.metadata

import pytest
from support.processes import run_python

from bncli.process import configure

FLAG = "--xla_cpu_experimental_ynn_fusion_type"

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


@pytest.mark.parametrize(
    ("version", "expected"), [("0.12.0.1", (0, 12, 0, 1)), ("0.10.1", (0, 10, 1)), ("0.12.0rc1", (0, 12))]
)
def test_versions_are_compared_by_their_numbers(version, expected):
    assert configure._version_tuple(version) == expected
