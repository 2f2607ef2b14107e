"""The sizes of unpacked records are told before they are unpacked, by whatever writer and however large."""

import numpy as np
import pytest
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.data import record_sizes
from bncli.data.record_sizes import require_room
from bncli.errors import DataError
from bncli.process import memory


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 300), st.integers(60_000, 70_000), st.just(400_000)), max_size=30),
    options=st.sampled_from(["group_size:1", "group_size:1,uncompressed", "group_size:7", "group_size:3,brotli"]),
    seed=st.integers(0, 9),
)
def test_every_chunk_is_found(tmp_path_factory, sizes, options, seed):
    path, rng = tmp_path_factory.mktemp("records") / "a.array_record", np.random.default_rng(seed)
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for size in sizes:
        writer.write(rng.bytes(size))
    writer.close()
    with path.open("rb") as file:
        found = list(record_sizes._unpacked_sizes(file, path.stat().st_size))
    group = int(options.split(",")[0].partition(":")[2])
    groups = [sum(sizes[start : start + group]) for start in range(0, len(sizes), group)]
    remaining = list(found)
    for total in groups:
        remaining.remove(total)


def test_a_record_that_fills_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    writer.write(bytes(64 << 20))
    writer.close()
    assert path.stat().st_size < 1 << 20
    require_room(path)
    monkeypatch.setattr(memory, "available_memory", lambda: 300 << 20)
    with pytest.raises(DataError, match=r"bomb.array_record: a record of up to 67,108,864 bytes"):
        require_room(path)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_end(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "a"
    path.write_bytes(content)
    with path.open("rb") as file:
        list(record_sizes._unpacked_sizes(file, len(content)))
