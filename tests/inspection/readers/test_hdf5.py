"""Everything in an HDF5 file is found once; what lies elsewhere, or nowhere, is refused; nothing needs a large read."""

import sys

import h5py
import numpy as np
import pytest

from bncli.errors import CheckpointError
from bncli.inspection.readers import Asked, hdf5, read
from bncli.inspection.readers.arrays import MAX_VALUES
from bncli.inspection.readers.hdf5 import read_hdf5

VALUES = np.arange(3, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.h5"


def write(path, content):
    with h5py.File(path, "a") as file:
        for name, values in content.items():
            file[name] = values


def test_the_numbers_are_those_that_were_written(path):
    arrays = {name: np.array([0, 1.5, 2], name) for name in ("float16", "float32", ">f4", "float64", "int32", "uint8")}
    write(path, {f"a/{name}": array for name, array in arrays.items()} | {"scalar": np.float32(7)})
    read_arrays = read_hdf5(path).arrays
    assert set(read_arrays) == {("a", name) for name in arrays} | {("scalar",)}
    for name, array in arrays.items():
        assert read_arrays["a", name].dtype == array.dtype.newbyteorder("=").name
        np.testing.assert_array_equal(read_arrays["a", name].values(), array)


def test_what_is_no_number_is_left_out(path):
    write(path, {"text": "words", "texts": np.array([b"a", b"b"]), "nothing": h5py.Empty("f4"), "a/x": VALUES})
    with h5py.File(path, "a") as file:
        file["type"] = np.dtype("f4")
    assert list(read_hdf5(path).arrays) == [("a", "x")]


def test_bfloat16_is_known_by_its_bytes(path):
    write(path, {"x": np.array([0x3FC0, 0xC000], "<u2").view("V2")})
    stored = read_hdf5(path).arrays["x",]
    assert stored.dtype == "bfloat16"
    np.testing.assert_array_equal(stored.values(), [1.5, -2])


def test_names_are_in_the_order_of_their_numbers(path):
    write(path, {f"layers/bn_{number}/vars/0": VALUES for number in (10, 1, 2)})
    assert [name[1] for name in read_hdf5(path).arrays] == ["bn_1", "bn_2", "bn_10"]


@pytest.mark.parametrize("parts", [1, 2])
def test_names_are_in_the_order_in_which_keras_2_lists_them(parts, path):
    weights = ["n/z/gamma:0", "n/a/gamma:0", "n/z/mean:0", "n/a/mean:0"]
    write(path, {"w/first/x": VALUES, "w/unlisted/x": VALUES} | {f"w/net/{name}": VALUES for name in weights})
    with h5py.File(path, "a") as file:
        for group, key, words in (("w", "layer_names", ["net", "first"]), ("w/net", "weight_names", weights)):
            for number, some in enumerate(np.array_split(np.array(words, "S"), parts)):
                file[group].attrs[key if parts == 1 else f"{key}{number}"] = some
    expected = [f"w/net/{name}" for name in weights] + ["w/first/x", "w/unlisted/x"]
    assert ["/".join(name) for name in read_hdf5(path).arrays] == expected


def test_backslashes_of_windows_separate(path):
    write(path, {r"layers\bn/vars/0": VALUES})
    assert list(read_hdf5(path).arrays) == [("layers", "bn", "vars", "0")]


def test_a_group_that_holds_itself_is_read_once(path):
    write(path, {"a/x": VALUES})
    with h5py.File(path, "a") as file:
        file["a/self"] = file["a"]
        file["a/root"] = file["/"]
    assert list(read_hdf5(path).arrays) == [("a", "x")]


def test_names_of_groups_that_are_no_text_are_none(path):
    write(path, {"a/x": VALUES, "b/x": VALUES})
    with h5py.File(path, "a") as file:
        file["a"].attrs["name"] = "norm"
        file["b"].attrs["name"] = 3
    assert read_hdf5(path).names == {("a",): "norm"}


def unwritten(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((1 << 40,)), properties)


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    file.create_virtual_dataset("x", layout)


def deep(file):
    file["/".join(["a"] * 80)] = VALUES


# what -> (how it is written, what is said)
ELSEWHERE = {
    "a deep tree": (deep, "64 levels"),
    "an external link": (lambda file: file.update({"a/x": h5py.ExternalLink("other.h5", "x")}), "a/x is a link"),
    "a soft link": (lambda file: file.update({"a/x": h5py.SoftLink("/y"), "y": VALUES}), "a/x is a link"),
    "a virtual dataset": (virtual, "x lies in another file"),
    "chunks that were never written": (
        lambda file: file.create_dataset("x", (1 << 50,), "f4", chunks=(1 << 10,)),
        "x claims 4,503,599,627,370,496 bytes, but the file holds 0",
    ),
    "external storage": (
        lambda file: file.create_dataset("x", (3,), "f4", external=[("passwd", 0, 12)]),
        "x lies in another file",
    ),
    "more than the address space": (
        lambda file: file.create_dataset("x", (1 << 32, 1 << 32), "f4", chunks=(1, 1)),
        "x claims 73,786,976,294,838,206,464 bytes",
    ),
    "never written": (unwritten, "x claims 4,398,046,511,104 bytes, but the file holds 0"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_not_in_the_file_is_refused(name, path):
    write_it, said = ELSEWHERE[name]
    with h5py.File(path, "w") as file:
        write_it(file)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_hdf5(path)
    assert caught.value.remedy


def test_more_objects_than_any_network_has_are_refused(path, monkeypatch):
    monkeypatch.setattr(hdf5, "MAX_OBJECTS", 10)
    write(path, {f"{group}/{number}": VALUES for group in "ab" for number in range(5)})
    with pytest.raises(CheckpointError, match="more than 10 objects"):
        read_hdf5(path)


def write_bomb(path, *names):
    """64 MiB of zeros, of which 70 KB are in the file, under each of the names."""
    with h5py.File(path, "a") as file:
        bomb = file.create_dataset(names[0], (2 * MAX_VALUES,), "f4", chunks=(MAX_VALUES,), compression=9)
        bomb[:] = 0
        for name in names[1:]:
            file[name] = bomb


def test_a_compression_bomb_is_not_unpacked(path):
    write_bomb(path, "bn/moving_mean:0", "bn/moving_variance:0")
    with pytest.raises(CheckpointError, match=r"model\.h5: 1 BN layer of 33,554,432 values"):
        read(path, Asked())


def test_arrays_that_are_no_bn_layer_s_are_not_read(path):
    write_bomb(path, "dense/kernel:0")
    write(path, {"bn/moving_mean:0": VALUES, "bn/moving_variance:0": VALUES})
    (layer,) = read(path, Asked()).layers
    np.testing.assert_array_equal(layer.var, VALUES)


def test_without_h5py_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CheckpointError, match="needs h5py") as caught:
        hdf5.require_h5py()
    assert caught.value.remedy == hdf5.NEEDS_EXTRA


@pytest.mark.parametrize("length", [20, 600, 1500])
def test_a_file_that_was_cut_is_refused_by_name(length, path):
    write(path, {"bn/moving_mean:0": VALUES, "bn/moving_variance:0": VALUES})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.h5 is damaged") as caught:
        read(path, Asked())
    assert caught.value.remedy
