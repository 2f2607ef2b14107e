"""Downloads from a local server: resumed, checked, and refused with the way to do it by hand."""

import errno
import hashlib
import http.server
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest

from bncli.data import KNOWN, RemoteFile, fetch
from bncli.errors import DataError, UsageError
from bncli.process.cache import user_cache

CONTENT = bytes(range(256)) * 4000  # 1 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the local server does, and what it was asked for."""

    content: bytes = CONTENT
    knows_ranges: bool = True
    status: int = 200
    cut_after: list[int] = field(default_factory=list)  # bytes sent per connection before it breaks
    announces_length: bool = True
    silent_seconds: float = 0
    redirects: list[str] = field(default_factory=list)  # where the next requests are sent
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


def make_handler(server):
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Says nothing."""

        def do_GET(self):
            wanted = self.headers["Range"]
            server.ranges.append(wanted)
            time.sleep(server.silent_seconds)
            if server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects.pop(0))
                self.end_headers()
                return
            if server.status != 200:
                self.send_error(server.status)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.knows_ranges else 0
            body = server.content[start:]
            self.send_response(206 if start else 200)
            if server.announces_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: server.cut_after.pop(0)] if server.cut_after else body)

    return Handler


class QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Says nothing: a client that hangs up early is what some tests are about."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()
    with QuietServer(("127.0.0.1", 0), make_handler(state)) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield state
        listening.shutdown()
        thread.join()


def table(*mirrors, content=CONTENT):
    file = RemoteFile("toy.bin", len(content), hashlib.sha256(content).hexdigest(), mirrors)
    return {"toy": replace(KNOWN["mnist"], name="toy", files=(file,))}


def test_a_file_arrives_whole_and_progress_reaches_its_end(server, tmp_path):
    calls = []
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url), progress=lambda *call: calls.append(call))
    assert folder == tmp_path / "toy"
    assert [path.name for path in folder.iterdir()] == ["toy.bin"]
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert {call[0::2] for call in calls} == {("toy.bin", len(CONTENT))}
    assert [call[1] for call in calls] == sorted({call[1] for call in calls})
    assert calls[-1][1] == len(CONTENT)


def test_the_default_place_is_the_users_cache_and_private(server):
    folder = fetch("toy", known=table(server.url))
    assert folder == user_cache() / "data" / "toy"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    for _ in range(2):
        fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert server.ranges == [None]


def test_a_file_that_is_damaged_is_fetched_again(server, tmp_path):
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url))
    (folder / "toy.bin").write_bytes(CONTENT[:-1] + b"!")
    fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert (folder / "toy.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("announces_length", [True, False])
def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path, announces_length):
    server.announces_length = announces_length
    server.cut_after = [300_000, 1, 0]
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=300001-", "bytes=300001-"]


def test_a_stopped_download_is_resumed_by_the_next_command(server, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.bin.part").write_bytes(CONTENT[:1000])
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.knows_ranges = False
    server.cut_after = [300_000]
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"], ids=["complete", "too long"])
def test_a_part_that_needs_no_rest_is_no_obstacle(server, tmp_path, part):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.bin.part").write_bytes(part)
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert server.ranges == ([] if part == CONTENT else [None])


def test_a_wrong_hash_is_refused_and_removed(server, tmp_path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=f"SHA-256 {SHA256} expected, {hashlib.sha256(server.content).hexdigest()}"):
        fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert list((tmp_path / "toy").iterdir()) == []


@pytest.mark.parametrize("content", [b"<html>Log in</html>", CONTENT + CONTENT], ids=["login page", "longer"])
def test_a_file_of_another_size_is_refused_before_it_is_read(server, tmp_path, content):
    server.content = content
    with pytest.raises(DataError, match=f"offers {len(content)} bytes, but {len(CONTENT)} were published"):
        fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert list((tmp_path / "toy").iterdir()) == []


def test_an_endless_answer_is_cut_off(server, tmp_path):
    server.content, server.announces_length = CONTENT * 20, False
    calls = []
    with pytest.raises(DataError, match="SHA-256"):
        fetch("toy", data_dir=tmp_path, known=table(server.url), progress=lambda *call: calls.append(call))
    assert calls[-1][1] < 2 * len(CONTENT)


def test_a_connection_that_always_breaks_is_given_up(server, tmp_path):
    server.cut_after = [10] * 50
    with pytest.raises(DataError, match=f"broke 8 times, after 80 of {len(CONTENT)} bytes"):
        fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert (tmp_path / "toy" / "toy.bin.part").stat().st_size == 80


@pytest.mark.parametrize("status", [403, 404, 416, 503])
def test_a_refusal_says_how_to_do_it_by_hand(server, tmp_path, status):
    server.status = status
    with pytest.raises(DataError, match=f"the server answers {status}") as caught:
        fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert f"save {server.url}/toy.bin as {tmp_path / 'toy' / 'toy.bin'}" in caught.value.remedy


def test_no_network_says_how_to_do_it_by_hand(server, tmp_path):
    # Port 9 (discard) answers on no machine of today.
    with pytest.raises(DataError, match=r"no connection: .*refused") as caught:
        fetch("toy", data_dir=tmp_path, known=table("http://127.0.0.1:9"))
    assert f"save http://127.0.0.1:9/toy.bin as {tmp_path / 'toy' / 'toy.bin'}" in caught.value.remedy


def test_the_next_mirror_goes_on_where_the_first_failed(server, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.bin.part").write_bytes(CONTENT[:1000])
    folder = fetch("toy", data_dir=tmp_path, known=table("http://127.0.0.1:9", server.url))
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_place_that_cannot_be_written_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be created") as caught:
        fetch("toy", data_dir=tmp_path / "file", known=table(server.url))
    assert "--data-dir" in caught.value.remedy
    (tmp_path / "toy" / "toy.bin.part").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be written"):
        fetch("toy", data_dir=tmp_path, known=table(server.url))


@pytest.mark.parametrize(("name", "message"), [("nope", "not a known data set"), ("digits", "nothing to fetch")])
def test_what_cannot_be_fetched_is_a_usage_error(name, message):
    with pytest.raises(UsageError, match=message):
        fetch(name)


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["bncli.data.fetch"], "_TIMEOUT_SECONDS", 0.2)
    server.silent_seconds = 1
    with pytest.raises(DataError, match=r"no connection: .*timed out"):
        fetch("toy", data_dir=tmp_path, known=table(server.url))


def test_every_publisher_is_asked_by_https():
    urls = [url for known in KNOWN.values() for file in known.files for url in file.urls]
    assert urls
    assert all(url.startswith("https://") for url in urls)


@pytest.mark.parametrize("mirror", ["http://192.0.2.1", "ftp://127.0.0.1", "file:///etc", "http://127.0.0.1.example"])
def test_what_is_no_https_address_is_not_asked(tmp_path, mirror):
    with pytest.raises(DataError, match=rf"{mirror}/toy\.bin is not an HTTPS address"):
        fetch("toy", data_dir=tmp_path, known=table(mirror))
    assert list((tmp_path / "toy").iterdir()) == []


@pytest.mark.parametrize("place", ["http://192.0.2.1/toy.bin", "ftp://192.0.2.1/toy.bin"])
def test_a_server_that_sends_elsewhere_without_https_is_not_followed(server, tmp_path, place):
    server.redirects = [place]
    with pytest.raises(DataError, match=f"{place} is not an HTTPS address"):
        fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert list((tmp_path / "toy").iterdir()) == []


def test_a_server_may_send_elsewhere(server, tmp_path):
    server.redirects = [f"{server.url}/other/toy.bin"]
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert (folder / "toy.bin").read_bytes() == CONTENT


def test_the_file_has_its_name_only_when_its_hash_is_right(server, tmp_path, monkeypatch):
    seen = []

    def check(part, file):
        seen.append((part.name, sorted(path.name for path in part.parent.glob("toy*"))))

    monkeypatch.setattr(sys.modules["bncli.data.fetch"], "_check_sha256", check)
    fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert seen == [("toy.bin.part", ["toy.bin.part"])]


def test_the_cache_above_is_private_too(server):
    fetch("toy", known=table(server.url))
    for folder in ("bncli", "bncli/data"):
        assert (user_cache().parent / folder).stat().st_mode & 0o777 == 0o700


def test_a_second_download_is_refused_while_the_first_goes_on_and_suspects_nothing(server, tmp_path):
    server.silent_seconds = 0.5
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, "toy", data_dir=tmp_path, known=table(server.url))
        while not server.ranges:
            time.sleep(0.01)
        with pytest.raises(DataError, match="another process is downloading there") as caught:
            fetch("toy", data_dir=tmp_path, known=table(server.url))
        folder = first.result()
    assert "SHA-256" not in caught.value.message
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["toy.bin"]
    fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert server.ranges == [None]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_used_without(server, tmp_path, monkeypatch, number):
    def no_locks(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    assert (fetch("toy", data_dir=tmp_path, known=table(server.url)) / "toy.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"mine", CONTENT[:1000], CONTENT])
def test_a_link_in_place_of_the_partial_file_is_replaced_and_not_followed(server, tmp_path, content):
    (tmp_path / "toy").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(content)
    (tmp_path / "toy" / "toy.bin.part").symlink_to(victim)
    folder = fetch("toy", data_dir=tmp_path, known=table(server.url))
    assert victim.read_bytes() == content
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert not (folder / "toy.bin").is_symlink()
