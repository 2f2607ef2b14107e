"""What the user had run is remembered by place and content, in a folder that nobody else writes to."""

import hashlib

import pytest

from bncli.models import trust

SHA256 = hashlib.sha256(b"x = 1\n").hexdigest()


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
    assert trust.approved(source, SHA256) is None
    assert not home.exists()


def test_the_very_file_is_remembered_with_its_neighbours(source, tmp_path, monkeypatch):
    other = tmp_path / "other.py"
    trust.remember(source, SHA256, {})
    trust.remember(source, SHA256, {other: "a" * 64})
    assert trust.approved(source, SHA256) == {source: SHA256, other: "a" * 64}
    monkeypatch.chdir(tmp_path)
    assert trust.approved(source.relative_to(tmp_path), SHA256) is not None
    assert trust.approved(source, "b" * 64) is None
    assert trust.approved(tmp_path / "copy.py", SHA256) is None


def test_what_older_versions_remembered_has_no_neighbours(source, home):
    trust.remember(source, SHA256, {})
    (note,) = (home / "bncli" / "models").iterdir()
    note.write_text("")
    assert trust.approved(source, SHA256) == {source: SHA256}


@pytest.mark.parametrize("text", ["{", "[]", "3", "\0"])
def test_a_damaged_memory_counts_for_nothing(source, home, text):
    trust.remember(source, SHA256, {})
    (note,) = (home / "bncli" / "models").iterdir()
    note.write_text(text)
    assert trust.approved(source, SHA256) is None


def test_a_memory_that_others_can_write_to_counts_for_nothing(source, home):
    trust.remember(source, SHA256, {})
    (home / "bncli" / "models").chmod(0o777)
    assert trust.approved(source, SHA256) is None


def test_a_cache_that_cannot_be_written_is_no_error(source, home):
    home.write_text("in the way")
    trust.remember(source, SHA256, {})
    assert trust.approved(source, SHA256) is None
