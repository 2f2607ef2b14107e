"""A jaxlib that computes wrong numbers is refused, with the remedy."""

import importlib.metadata

import jax
import pytest

from bncli.errors import RuntimeCheckError
from bncli.process import configure, heap, jaxlib


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
