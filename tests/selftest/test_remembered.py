"""A pass is remembered for what it depends on and for nothing else; a memory that fails costs time only."""

import json
import os

import pytest

from bncli.process.cache import user_cache
from bncli.selftest import remembered
from bncli.selftest.checks import Outcome

PASSED = (Outcome("planted", 0.0, 1e-3, "somewhere"),)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bncli" / "selftest"


def test_a_pass_is_remembered_in_a_file_of_the_owner(cache):
    key = remembered.current_key()
    assert not remembered.has_passed(key)
    remembered.remember(key, PASSED)
    assert remembered.has_passed(key)
    (file,) = cache.iterdir()  # and no temporary one
    assert json.loads(file.read_text())["key"] == key
    assert cache.stat().st_mode & 0o777 == 0o700
    remembered.remember(key, PASSED)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("what", ["bncli", "python", "jax", "jaxlib", "backend", "devices", "cpu", "cores"])
def test_another_version_or_machine_is_not_remembered(what):
    key = remembered.current_key()
    remembered.remember(key, PASSED)
    assert key[what]
    assert not remembered.has_passed({**key, what: "another"})


def test_other_flags_are_not_remembered(monkeypatch):
    remembered.remember(remembered.current_key(), PASSED)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert not remembered.has_passed(remembered.current_key())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"key": {}}'])
def test_a_damaged_memory_is_none(cache, content):
    key = remembered.current_key()
    remembered.remember(key, PASSED)
    next(cache.iterdir()).write_bytes(content)
    assert not remembered.has_passed(key)
    remembered.remember(key, PASSED)
    assert remembered.has_passed(key)


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, cache):
    (tmp_path / "bncli").write_text("a file where the directory would be")
    remembered.remember(remembered.current_key(), PASSED)
    assert not remembered.has_passed(remembered.current_key())


def test_a_write_that_fails_leaves_nothing_behind(monkeypatch, cache):
    def full_disk(*arguments, **options):
        raise OSError("no space left on device")

    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda handle, *a, **k: real(handle, *a, **k).close() or full_disk())
    remembered.remember(remembered.current_key(), PASSED)
    assert list(cache.iterdir()) == []


def test_what_others_can_write_is_not_believed(cache):
    key = remembered.current_key()
    remembered.remember(key, PASSED)
    cache.chmod(0o777)
    assert not remembered.has_passed(key)


def test_the_cache_is_the_users_own(cache):
    assert user_cache() / "selftest" == cache
