"""Folders of the user's cache are the user's alone, whoever made them before."""

import os

import pytest

from bncli.process import cache


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mode_of(path):
    return path.stat().st_mode & 0o777


def test_every_folder_from_the_cache_down_is_private(home):
    before = os.umask(0o022)
    try:
        assert cache.private_folder("a", "b") == home / "bncli" / "a" / "b"
    finally:
        os.umask(before)
    for path in (home / "bncli", home / "bncli" / "a", home / "bncli" / "a" / "b"):
        assert mode_of(path) == 0o700
    assert cache.is_private("a", "b")


def test_a_folder_that_was_open_to_others_is_closed(home):
    (home / "bncli" / "a").mkdir(parents=True)
    (home / "bncli").chmod(0o755)
    (home / "bncli" / "a").chmod(0o777)
    assert not cache.is_private("a")
    cache.private_folder("a")
    assert mode_of(home / "bncli") == mode_of(home / "bncli" / "a") == 0o700
    assert cache.is_private("a")


def test_what_is_not_there_is_not_private(home):
    assert not cache.is_private("a")
    assert not home.exists()


def test_a_folder_of_somebody_else_is_not_taken(home, monkeypatch):
    (home / "bncli").mkdir(parents=True)
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache.private_folder("a")
    assert not cache.is_private()


def test_a_link_to_a_private_folder_will_do(home, tmp_path):
    (tmp_path / "disk").mkdir()
    home.mkdir()
    (home / "bncli").symlink_to(tmp_path / "disk")
    cache.private_folder("a")
    assert mode_of(tmp_path / "disk") == 0o700


def test_the_cache_lies_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.user_cache() == tmp_path / "bncli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.user_cache() == tmp_path / ".cache" / "bncli"


def test_a_key_is_remembered_in_a_private_folder_only(home):
    assert not cache.is_remembered("programs", "a")
    cache.remember("programs", "a")
    assert cache.is_remembered("programs", "a")
    assert not cache.is_remembered("programs", "b")
    (home / "bncli" / "programs").chmod(0o777)
    assert not cache.is_remembered("programs", "a")


def test_a_cache_that_cannot_be_written_remembers_nothing(home):
    home.write_text("in the way")
    cache.remember("programs", "a")
    assert not cache.is_remembered("programs", "a")
