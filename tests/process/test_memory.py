"""How much memory is left, and what is refused for lack of it."""

import errno

import jax.numpy as jnp
import numpy as np
import pytest

from bncli.errors import DataError, RuntimeCheckError
from bncli.process import memory

MEMINFO = "MemTotal:       8000 kB\nMemFree:        1000 kB\nMemAvailable:   4000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose files the test writes: (meminfo, cgroup folder)."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_STATM", tmp_path / "statm")
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "meminfo", tmp_path / "cgroup"


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [(None, None, 4000 * 1024), ("max", "5", 4000 * 1024), ("3000000", "1000000", 2_000_000)],
)
def test_the_tighter_of_machine_and_container_counts(machine, limit, used, expected):
    meminfo, cgroup = machine
    meminfo.write_text(MEMINFO)
    if limit is not None:
        (cgroup / "memory.max").write_text(f"{limit}\n")
        (cgroup / "memory.current").write_text(f"{used}\n")
    assert memory.available_memory() == expected


def write_group(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


@pytest.mark.parametrize("limits", [(1000, 2000, "max"), (2000, 1000, "max"), ("max", "max", 1000), (3000, 2000, 1000)])
@pytest.mark.parametrize(("files", "own", "root"), [(V2, "0::", ""), (V1, "5:cpu,memory:", "memory")], ids=["v2", "v1"])
def test_the_smallest_limit_on_the_way_to_the_root_counts(machine, files, own, root, limits):
    meminfo, cgroup = machine
    meminfo.write_text(MEMINFO)
    meminfo.with_name("own").write_text(f"7:cpu:/other\n{own}/a/b\n")
    none = "max" if files is V2 else str(2**63 - 4096)
    for folder, limit in zip((cgroup / root, cgroup / root / "a", cgroup / root / "a" / "b"), limits, strict=True):
        write_group(folder, dict(zip(files, (none if limit == "max" else limit, 400), strict=True)))
    write_group(cgroup / root / "other", dict(zip(files, (500, 400), strict=True)))
    assert memory.available_memory() == 600


@pytest.mark.parametrize("own", ["0::/docker/abc", "0::/../../x", "4:memory:/docker/abc"])
def test_in_a_container_the_root_counts(machine, own):
    meminfo, cgroup = machine
    meminfo.with_name("own").write_text(f"{own}\n")
    write_group(cgroup, dict(zip(V2, (1000, 300), strict=True)))
    write_group(cgroup / "memory", dict(zip(V1, (1000, 300), strict=True)))
    assert memory.available_memory() == 700


def test_file_caches_that_a_group_can_drop_are_available(machine):
    _, cgroup = machine
    write_group(cgroup, {"memory.max": 1000, "memory.current": 900, "memory.stat": "anon 200\ninactive_file 600"})
    assert memory.available_memory() == 700


@pytest.mark.parametrize("text", ["", "nonsense", "-1"])
def test_a_file_of_a_group_that_says_nothing_is_no_limit(machine, text):
    _, cgroup = machine
    write_group(cgroup, {"memory.max": text, "memory.current": 1})
    assert memory.available_memory() is None


def test_the_limit_of_this_process_counts(monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(memory._STATM.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), before[1]))
    try:
        assert 200 << 20 < memory.available_memory() <= 310 << 20
        words = r"JAX needs 640\.0 MiB of address space, and a limit leaves (2\d\d|300)"
        with pytest.raises(RuntimeCheckError, match=words):
            memory.require_address_space()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    memory.require_address_space()


def raise_memory_error():
    np.empty(1 << 50, np.uint8)


def raise_in_jax():
    jnp.zeros(1 << 45)


def raise_after_another():
    try:
        raise_memory_error()
    except MemoryError as error:
        raise ValueError("of a library") from error


def raise_of_the_system():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def raise_of_threads():
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "fail", [raise_memory_error, raise_in_jax, raise_after_another, raise_of_the_system, raise_of_threads]
)
def test_running_out_of_memory_is_an_error_that_says_what_to_lower(fail):
    with pytest.raises((MemoryError, RuntimeError, OSError, ValueError)) as caught:
        fail()
    error = memory.out_of_memory(caught.value, lower=["--batch-size", "--image-size"])
    assert error.message.startswith("out of memory; ")
    assert error.remedy.startswith("Lower --batch-size or --image-size, or use a machine")
    assert memory.out_of_memory(caught.value).remedy.startswith("Use a machine")


@pytest.mark.parametrize(
    "error", [ValueError("x"), DataError("x is out of memory"), OSError(2, "gone"), RuntimeError()]
)
def test_other_errors_are_not_taken_for_it(error):
    assert memory.out_of_memory(error) is None


def test_where_nothing_is_known_nothing_is_refused(machine):
    assert memory.available_memory() is None
    memory.require_memory(1 << 60, what="x", remedy="y")


def test_the_reserve_is_kept_free(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    memory.require_memory(768 << 20, what="x", remedy="y")
    with pytest.raises(DataError, match=r"x: 768\.0 MiB of memory needed, 1\.0 GiB available") as caught:
        memory.require_memory((768 << 20) + 1, what="x", remedy="y")
    assert caught.value.remedy == "y"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 50, "3,072.0 TiB")],
)
def test_bytes_are_written_for_people(num_bytes, text):
    assert memory.format_bytes(num_bytes) == text
