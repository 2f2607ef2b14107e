"""A list of files is the tuple of its paths, in less memory."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from bncli.data.file_list import FileList, SplitFiles

ROOT = Path("/data/photos")
PATHS = [ROOT / "cat" / "1.png", ROOT / "dog" / "naïve é.png", ROOT / os.fsdecode(b"dog/\xff.png")]
FILES = FileList.of(ROOT, PATHS)


def test_it_holds_the_paths_in_order():
    assert list(FILES) == PATHS
    assert [FILES[0], FILES[-1]] == [PATHS[0], PATHS[-1]]
    assert FILES[1:] == PATHS[1:]
    assert [FILES.text(index) for index in range(3)] == [str(path) for path in PATHS]
    with pytest.raises(IndexError):
        FILES[3]


def test_some_of_it_are_a_list_too():
    assert list(FILES.chosen(np.array([2, 0]))) == [PATHS[2], PATHS[0]]
    assert list(pickle.loads(pickle.dumps(FILES))) == PATHS  # noqa: S301 - made here


@pytest.mark.parametrize("root", [".", "photos"])
def test_folders_with_their_names_are_the_list_of_their_paths(root):
    root = Path(root)
    folders = [(root / "train" / "cat", ("1.png", "2.png")), (root / "train" / "dog", ()), (root / "b", ("é.png",))]
    listed = FileList.in_folders(root, folders)
    paths = [folder / name for folder, names in folders for name in names]
    assert list(listed) == list(FileList.of(root, paths)) == paths
    assert listed.text(2) == str(paths[2])
    assert listed.names == b"train/cat/1.png\0train/cat/2.png\0" + "b/é.png\0".encode()
    assert listed.chosen(np.array([2, 0])).names == "b/é.png\0train/cat/1.png\0".encode()


def test_split_files_without_some_are_the_others_in_their_splits():
    files = SplitFiles(FILES, np.array([0, 1, 1], np.int32), {"train": 2, "test": 1})
    assert {split: list(rows) for split, rows in files.items()} == {
        "train": [(PATHS[0], 0), (PATHS[1], 1)],
        "test": [(PATHS[2], 1)],
    }
    fewer = files.without([1, 2])
    assert {split: list(rows) for split, rows in fewer.items()} == {"train": [(PATHS[0], 0)], "test": []}
