"""Which files an image folder holds: classes by name, splits that agree, litter left alone, strays named."""

import shutil

import pytest
from support.dataset_writers import write_files

from bncli.data.image_tree import is_image_tree, scan_image_tree
from bncli.errors import DataError


def make_tree(root, *paths):
    for path in paths:
        write_files((root / path).parent, {(root / path).name: b""})
    return root


def names(tree, split):
    return [(str(path.relative_to(tree.root)), label) for path, label in tree.splits[split]]


def test_classes_are_numbered_by_name_and_files_sorted(tmp_path):
    tree = scan_image_tree(make_tree(tmp_path, "b/2.png", "b/10.png", "a/x.JPG", "B/1.webp"))
    assert tree.class_names == ("B", "a", "b")
    assert names(tree, "train") == [("B/1.webp", 0), ("a/x.JPG", 1), ("b/10.png", 2), ("b/2.png", 2)]
    assert tree.splits.keys() == {"train"}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("training", "valid", "testing"), ("train", "validation", "test")],
)
def test_splits_are_found_by_their_folders(tmp_path, train, val, test):
    tree = scan_image_tree(make_tree(tmp_path, *(f"{split}/{c}/1.png" for split in (train, val, test) for c in "ab")))
    assert tree.class_names == ("a", "b")
    assert {split: names(tree, split)[0] for split in tree.splits} == {
        "train": (f"{train}/a/1.png", 0),
        "val": (f"{val}/a/1.png", 0),
        "test": (f"{test}/a/1.png", 0),
    }


def test_a_class_may_be_called_train(tmp_path):
    tree = scan_image_tree(make_tree(tmp_path, "train/1.png", "plane/1.png"))
    assert tree.class_names == ("plane", "train")


def test_litter_is_left_alone_and_anything_else_is_a_stray(tmp_path):
    tree = scan_image_tree(
        make_tree(
            tmp_path, "a/1.png", "b/1.png", "a/.DS_Store", "a/Thumbs.db", "__MACOSX/a/1.png", "labels.csv",
            "a/notes.txt", "b/more/2.png",
        )
    )  # fmt: skip
    assert tree.class_names == ("a", "b")
    assert [(stray.path.name, stray.reason.split(" (")[0]) for stray in tree.strays] == [
        ("notes.txt", "not the name of an image file"),
        ("more", "a folder inside a class folder"),
    ]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["1.png"], "no class folders"),
        (["test/a/1.png", "val/a/1.png"], "no train folder"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], r"train has classes that .*test lacks: b"),
        (["train/a/1.png", "test/a/1.png", "test/b/1.png"], r"test has classes that .*train lacks: b"),
        (["train/a/1.png", "test/1.png"], "test: no class folders"),
        (["a/1.png", "b/.hidden"], "1 of 2 class folders hold no image: b"),
    ],
)
def test_a_tree_that_cannot_be_a_data_set_is_refused(tmp_path, paths, message):
    with pytest.raises(DataError, match=message) as caught:
        scan_image_tree(make_tree(tmp_path, *paths))
    assert str(tmp_path) in caught.value.message
    assert caught.value.remedy


def test_a_folder_without_folders_is_no_tree(tmp_path):
    assert not is_image_tree(make_tree(tmp_path, "1.png"))
    assert is_image_tree(make_tree(tmp_path, "a/1.png"))
    shutil.rmtree(tmp_path / "a")
    assert not is_image_tree(tmp_path)
