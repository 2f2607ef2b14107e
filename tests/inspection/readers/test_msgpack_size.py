"""What msgpack would make of a file is counted before it does; what Flax writes passes."""

import contextlib
import tracemalloc

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization
from hypothesis import given
from hypothesis import strategies as st

from bncli.errors import CheckpointError
from bncli.inspection.readers import msgpack_size
from bncli.inspection.readers.arrays import MAX_DEPTH
from bncli.inspection.readers.msgpack_size import MAX_OBJECTS, check_msgpack


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("msgpack") / "x"


def count(content):
    """(objects in all, the deepest one's level)."""
    depths = list(msgpack_size._depths(content))
    return len(depths), max(depths)


def expected(tree):
    """The same, of a tree of dicts and lists; a key is an object, too."""
    if isinstance(tree, dict):
        below = [(1, 1), *(expected(child) for pair in tree.items() for child in pair)]
    elif isinstance(tree, list):
        below = [(1, 1), *map(expected, tree)]
    else:
        return 1, 1
    return sum(number for number, _ in below), max((1 + depth for _, depth in below[1:]), default=1)


LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=400)
)
TREES = st.recursive(
    LEAVES, lambda node: st.lists(node, max_size=20) | st.dictionaries(st.text(max_size=40), node, max_size=20)
)


@given(TREES)
def test_objects_are_counted_as_msgpack_packs_them(tree):
    assert count(msgpack.packb(tree)) == expected(tree)


@pytest.mark.parametrize("length", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_objects_of_every_length_are_measured(length):
    for tree in (["x"] * length, dict.fromkeys(map(str, range(length))), "x" * length, b"x" * length):
        assert count(msgpack.packb([tree, 1])) == expected([tree, 1])
    extension = msgpack.ExtType(5, b"x" * length)
    assert count(msgpack.packb([extension, 1])) == (3, 2)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (200, 2), (70_000,), (1,) * 15])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "complex64", "float8_e4m3b11fnuz"])
def test_what_flax_writes_passes(shape, dtype, path):
    tree = {
        "array": jnp.zeros(shape, dtype),
        "scalar": np.float32(1),
        "complex": 1 + 2j,
        "list": [1, "x"],
        "none": None,
    }
    path.write_bytes(serialization.to_bytes(tree))
    check_msgpack(path)
    assert serialization.msgpack_restore(path.read_bytes())["array"].shape == shape


def test_an_array_that_flax_writes_in_parts_passes(path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    path.write_bytes(serialization.to_bytes({"x": np.arange(100)}))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    check_msgpack(path)


def deep(levels):
    return b"\x81\xa1x" * levels + b"\xc0"


def array(*parts):
    return msgpack.packb(msgpack.ExtType(1, msgpack.packb(parts)))


REFUSED = {
    "many maps": b"\xdd\xff\xff\xff\xff" + b"\x80" * (MAX_OBJECTS + 1),
    "many levels": deep(MAX_DEPTH + 1),
    "an array of arrays": array([[1, 2]], "float32", b""),
    "an array with a long dtype": array([1], "i4," * 20, b""),
    "an array with its dtype as bytes": array([1], b"i4", b""),
    "an array of negative length": array([-1], "float32", b""),
    "an array of many axes": array([1] * 16, "float32", b""),
    "an array that is a map": msgpack.packb(msgpack.ExtType(1, msgpack.packb({"x": 1}))),
    "an array that is cut off": msgpack.packb(msgpack.ExtType(1, b"\x93\x9f")),
    "a complex number of many": msgpack.packb(msgpack.ExtType(2, msgpack.packb([1.0] * 9))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_take_too_much_is_refused(name, path):
    path.write_bytes(REFUSED[name])
    with pytest.raises(CheckpointError, match=f"{path} holds") as caught:
        check_msgpack(path)
    assert caught.value.remedy


def test_as_many_and_as_deep_as_a_network_may_be_passes(path):
    for content in (deep(MAX_DEPTH - 1), b"\xdd" + (MAX_OBJECTS - 1).to_bytes(4, "big") + b"\xc0" * (MAX_OBJECTS - 1)):
        path.write_bytes(content)
        check_msgpack(path)


@pytest.mark.broad
def test_counting_takes_no_memory(path):
    path.write_bytes(b"\xdd\xff\xff\xff\xff" + b"\x80" * (MAX_OBJECTS + 1))
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        check_msgpack(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_counted_or_refused(path, content):
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        check_msgpack(path)
