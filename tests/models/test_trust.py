"""What the user had run is remembered by place and content, in a folder that nobody else writes to."""

import pytest

from bncli.models import trust


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("x = 1\n")
    return path


def test_nothing_is_remembered_at_first(source, home):
    assert not trust.is_remembered(source)
    assert not home.exists()


def test_the_very_file_is_remembered(source, tmp_path, monkeypatch):
    trust.remember(source)
    trust.remember(source)
    assert trust.is_remembered(source)
    monkeypatch.chdir(tmp_path)
    assert trust.is_remembered(source.relative_to(tmp_path))
    source.write_text("x = 2\n")
    assert not trust.is_remembered(source)
    source.write_text("x = 1\n")
    copy = source.rename(tmp_path / "copy.py")
    assert not trust.is_remembered(copy)


def test_a_memory_that_others_can_write_to_counts_for_nothing(source, home):
    trust.remember(source)
    (home / "bncli" / "models").chmod(0o777)
    assert not trust.is_remembered(source)


def test_a_cache_that_cannot_be_written_is_no_error(source, home):
    home.write_text("in the way")
    trust.remember(source)
    assert not trust.is_remembered(source)
