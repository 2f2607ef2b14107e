"""A pipe does not block, a device does not fill the memory: only regular files are opened."""

import ast
import errno
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bncli
from bncli.process.files import open_regular, read_regular, real_path, require_contained, write_whole

# Rooms that read files which somebody else may have written.
READERS = ("checkpoint", "data", "inspection", "models")


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


def opened_by_themselves(source):
    """The lines of a module's text that open a file for reading, or read one whole, without this module."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [value.value for value in node.args if isinstance(value, ast.Constant)]
        reads = any(isinstance(mode, str) and mode in ("r", "rb", "rt") for mode in modes)
        whole = name in ("read_bytes", "read_text") and not node.args  # a method of a path
        if whole or name in ("fromfile", "memmap") or (name == "open" and reads):
            yield node.lineno


@pytest.mark.parametrize("room", READERS)
def test_no_room_opens_files_of_others_by_itself(room):
    modules = (Path(bncli.__file__).parent / room).rglob("*.py")
    found = {path.name: lines for path in modules if (lines := list(opened_by_themselves(path.read_text())))}
    assert not found


def test_a_planted_opening_is_seen():
    for line in ('path.open("rb")', "path.read_bytes()", 'open(path, "r")', "np.fromfile(path)"):
        assert list(opened_by_themselves(line)) == [1]
    assert not list(opened_by_themselves("archive.open(member); open_regular(path); path.open('wb')"))


def test_a_file_that_cannot_be_written_whole_is_as_it_was(tmp_path, full_disk):
    path = tmp_path / "kept"
    write_whole(path, b"before")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_whole(path, bytes(300_000))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_the_same_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "table"
    contents = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        for _ in range(20):
            list(pool.map(lambda content: write_whole(path, content), contents))
            assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
