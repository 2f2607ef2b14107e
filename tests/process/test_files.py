"""A pipe does not block, a device does not fill the memory: only regular files are opened."""

import errno
import os
import socket

import pytest

from bncli.process.files import open_regular, read_regular, real_path, require_contained


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


MAKERS = {
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.mark.parametrize("what", MAKERS)
def test_nothing_else_is_opened(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    (path := tmp_path / "x").parent.mkdir(exist_ok=True)
    MAKERS[what](path.relative_to(tmp_path))
    with pytest.raises(OSError, match="not a regular file") as caught:
        read_regular(path)
    assert caught.value.filename == str(path)


def test_a_directory_is_told_as_such(tmp_path):
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "gone")


def test_files_and_links_to_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"content"
    with open_regular(tmp_path / "file") as file:
        assert file.read(3) == b"con"


def test_no_more_than_the_limit_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert read_regular(tmp_path / "file", limit=7) == b"content"
    with pytest.raises(OSError, match="more than 6 bytes") as caught:
        read_regular(tmp_path / "file", limit=6)
    assert caught.value.errno == errno.EFBIG


def test_a_link_in_a_circle_is_an_error_of_the_system(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="circle"):
        read_regular(tmp_path / "circle")
    require_contained(tmp_path)  # it leads nowhere
    assert real_path(tmp_path / "circle").name == "circle"
