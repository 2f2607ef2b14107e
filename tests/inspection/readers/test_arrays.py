"""Arrays by where they stand: names of any framework become paths, and nothing is read before it is asked for."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import (
    MAX_DEPTH,
    MAX_VALUES,
    Stored,
    bfloat16_bits,
    canonical,
    in_memory,
    naturally,
    not_looked_into,
    split_name,
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("layer1.0.bn1.weight", ("layer1", "0", "bn1", "weight")),
        ("params/Conv_0/kernel", ("params", "Conv_0", "kernel")),
        ("bn/gamma:0", ("bn", "gamma")),
        ("weight", ("weight",)),
        ("norm.scale.value", ("norm", "scale")),
        ("value", ("value",)),
    ],
)
def test_a_flat_name_is_a_path(name, path):
    assert split_name(name) == path


def test_a_key_with_slashes_is_several_levels():
    assert canonical(("params", "net/~/batch_norm", "offset")) == ("params", "net", "~", "batch_norm", "offset")


@given(st.lists(st.tuples(st.sampled_from(["a", "b_", "layer"]), st.integers(0, 2000)), unique=True))
def test_paths_sort_by_the_numbers_in_them(parts):
    paths = [(f"{word}{number}", "x") for word, number in parts]
    expected = [(f"{word}{number}", "x") for word, number in sorted(parts)]
    assert sorted(paths, key=naturally) == expected


def test_bits_of_bfloat16_are_its_numbers():
    bits = np.arange(2**16, dtype=np.uint16)
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(bfloat16_bits(bits), expected)


def test_arrays_under_dicts_lists_and_tuples_are_in_a_tree():
    tree = {
        "a": {"b": np.ones(2, np.float16), "note": "text", "none": None},
        "list": [np.ones(3), {"c": (1, np.ones((4, 1)))}],
        7: np.int32(4),
    }
    arrays = in_memory(tree)
    assert {path: (array.shape, array.dtype) for path, array in arrays.items()} == {
        ("a", "b"): ((2,), "float16"),
        ("list", "0"): ((3,), "float64"),
        ("list", "1", "c", "1"): ((4, 1), "float64"),
        ("7",): ((), "int32"),
    }
    assert not_looked_into(tree) == ()
    np.testing.assert_array_equal(arrays["a", "b"].values(), [1.0, 1.0])
    assert arrays["a", "b"].values().dtype == np.float64


def test_values_that_are_not_looked_into_are_counted_by_type():
    tree = {"a": {1, 2}, "b": [object(), {3}], "c": np.ones(1), "d": 0.5}
    assert not_looked_into(tree) == ("not examined, values of other types: 2 set, 1 object",)


def test_a_tree_deeper_than_any_network_is_refused():
    tree = {"x": np.ones(1)}
    for _ in range(MAX_DEPTH + 1):
        tree = {"x": tree}
    for nested in (tree, {"x": [tree]}):
        with pytest.raises(CheckpointError, match="more than 64 levels"):
            in_memory(nested)


def test_more_values_than_any_bn_layer_has_are_refused_before_they_are_read():
    def read():
        raise AssertionError

    array = Stored((MAX_VALUES + 1,), "float32", read)
    with pytest.raises(CheckpointError, match="is too large for a BN layer"):
        array.values()


@pytest.mark.parametrize("path", [("x" * 5000,), ("/" * 100,)])
def test_a_name_longer_than_any_network_s_is_refused(path):
    with pytest.raises(CheckpointError, match="too long for a network"):
        canonical(path)
