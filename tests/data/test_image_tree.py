"""Which files an image folder holds: classes by name, splits that agree, litter left alone, strays named."""

import os
import shutil
import sys
import tempfile
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
        (["train/1.png", "test/2.png"], "no train folder with class folders"),
        (["a/1.png", "b/.hidden"], "1 of 2 class folders hold no image: b"),
        (["Train/a/1.png", "training/a/1.png"], "several folders may be the train split: Train, training"),
        (["train/a/1.png", "my_test/a/1.png", "test-2/a/1.png"], "may be the test split: my_test, test-2"),
        (
            ["a/train/1.png", "a/test/1.png", "b/train/1.png"],
            "without images of its own, but with folders: test, train",
        ),
        (["a/1.png", "b/x/1.png", "b/y/1.png"], "b: a class folder without images of its own, but with folders: x, y"),
        (["a/train/1.png", "b/train/1.png"], "without images of its own, but with folders: train"),
        (["train/images/1.png", "train/labels/1.txt"], "detection or segmentation"),
        (["images/1.png", "masks/1.png"], "detection or segmentation"),
    ],
)
def test_a_tree_that_cannot_be_a_data_set_is_refused(tmp_path, paths, message):
    with pytest.raises(DataError, match=message) as caught:
        scan_image_tree(make_tree(tmp_path, *paths))
    assert str(tmp_path) in caught.value.message
    assert caught.value.remedy


def test_a_folder_without_folders_and_images_is_no_tree(tmp_path):
    assert is_image_tree(make_tree(tmp_path, "a/1.png"))
    shutil.rmtree(tmp_path / "a")
    assert not is_image_tree(make_tree(tmp_path, "1.txt"))
    assert is_image_tree(make_tree(tmp_path, "1.png"))


DOWNLOADS = {  # name -> the folders of the splits
    "any case": {"train": "Train", "val": "VALID", "test": "Test"},
    "long words": {"train": "Training", "val": "Validation", "test": "Testing"},
    "dev": {"train": "train", "val": "dev"},
    "wrapped": {"train": "data/train", "test": "data/test"},
    "wrapped twice": {"train": "archive/data/Train", "test": "archive/data/Test"},
    "doubled": {"train": "seg_train/seg_train", "test": "seg_test/seg_test"},
    "among other words": {"train": "train_images", "val": "my-val", "test": "test set"},
    "only doubled": {"train": "pets/pets"},
    "only wrapped": {"train": "animals"},
    "plain": {"train": "."},
}


@pytest.mark.parametrize("folders", DOWNLOADS.values(), ids=DOWNLOADS)
def test_layouts_of_downloads_are_read(tmp_path, folders):
    files = [f"{folder}/{name}/{n}.png" for folder in folders.values() for name in ("a", "b") for n in (1, 2)]
    tree = scan_image_tree(make_tree(tmp_path, *files))
    assert tree.class_names == ("a", "b")
    assert {split: names(tree, split) for split in tree.splits} == {
        split: [(str(PurePath(folder, name, f"{n}.png")), label) for label, name in enumerate("ab") for n in (1, 2)]
        for split, folder in folders.items()
    }
    assert not tree.unused
    unusual = any(folder not in (split, ".") for split, folder in folders.items())
    assert [note.startswith("read as splits: ") for note in tree.notes] == [True] * unusual
    assert all(f"{PurePath(folder)}/ is {split}" in tree.notes[0] for split, folder in folders.items() if unusual)


def test_the_images_of_a_class_may_lie_in_one_folder_of_it(tmp_path):
    """The layout of Tiny ImageNet, whose val has no class folders."""
    files = [f"train/{name}/images/{n}.JPEG" for name in ("n01", "n02") for n in (1, 2)]
    others = ["train/n01/n01_boxes.txt", "train/n02/n02_boxes.txt", "val/images/1.JPEG", "val/val_annotations.txt"]
    tree = scan_image_tree(make_tree(tmp_path, *files, *others, "test/images/1.JPEG"))
    assert tree.class_names == ("n01", "n02")
    assert names(tree, "train") == [(name, label) for name, label in zip(files, (0, 0, 1, 1), strict=True)]
    assert tree.splits.keys() == {"train"}
    assert not tree.strays
    assert "2 not used (outside the class folders): train/n01/n01_boxes.txt, train/n02/n02_boxes.txt" in tree.notes


@pytest.mark.parametrize("suffix", ["jfif", "avif", "webp", "tiff", "JPG", "Png", "JFIF"])
def test_the_suffixes_of_downloads_are_those_of_images(tmp_path, suffix):
    tree = scan_image_tree(make_tree(tmp_path, *(f"{name}/{n}.{suffix}" for name in "ab" for n in (1, 2))))
    assert len(tree.splits["train"]) == 4
    assert not tree.strays


@pytest.mark.parametrize("inner", ["", "test", "unknown"])
@pytest.mark.parametrize(("split", "instead"), [("test", "a fifth of the training images"), ("val", "--val-fraction")])
def test_a_split_without_labels_is_left_out_and_said(tmp_path, split, inner, instead):
    inner = split if inner == "test" else inner
    files = [f"train/{name}/{n}.png" for name in "ab" for n in (1, 2)]
    tree = scan_image_tree(make_tree(tmp_path, *files, *(f"{split}/{inner}/{n}.png" for n in (1, 2, 3))))
    assert tree.splits.keys() == {"train"}
    assert tree.class_names == ("a", "b")
    said = " ".join(tree.notes)
    assert f"{split}/ cannot be the {split} split" in said
    assert instead in said
    assert f"{split}/ (3 images)" in said


def test_what_is_not_used_is_counted_and_named(tmp_path):
    used = [f"w/{split}/{name}/{n}.png" for split in ("train", "Test") for name in "ab" for n in (1, 2)]
    unused = [
        "w/README.md",
        "w/train/loose.png",
        "w/pred/1.png",
        "w/pred/2.png",
        "w/val/notes.txt",
        ".x",
        "w/Test/a/.y",
    ]
    tree = scan_image_tree(make_tree(tmp_path, *used, *unused))
    assert {note for note in tree.notes if "not used (" in note} == {
        "3 not used (outside the class folders): w/README.md, w/train/loose.png, w/val/notes.txt",
        "1 not used (neither a split nor a class): w/pred/ (2 images)",
        "1 not used (an empty split): w/val/ (0 images)",
        "2 not used (hidden, or left by a file manager): .x, w/Test/a/.y",
    }


def test_many_unused_files_are_counted_and_a_few_named(tmp_path):
    tree = scan_image_tree(make_tree(tmp_path, "a/1.png", "b/1.png", *(f"{n}.csv" for n in range(9))))
    assert tree.notes[-1] == "9 not used (outside the class folders): 0.csv, 1.csv, 2.csv, 3.csv, 4.csv, and 4 more"


def test_classes_of_too_few_images_are_named(tmp_path):
    files = ["train/a/1.png", "train/b/1.png", "train/b/2.png", "test/a/1.png"]
    tree = scan_image_tree(make_tree(tmp_path, *files, "test/b/.hidden"))
    assert tree.notes[:2] == (
        "classes with a single training image: 1 of 2: a",
        "classes with no test image: 1 of 2: b",
    )


FOLDER_NAMES = st.sampled_from(["train", "Test", "val", "x_test", "a", "b", "__MACOSX", ".git", "pred"])
FILE_NAMES = st.sampled_from(["1.png", "2.JPG", "x.txt", ".DS_Store", "3.avif"])
PATHS = st.builds(lambda folders, name: PurePath(*folders, name), st.lists(FOLDER_NAMES, max_size=4), FILE_NAMES)


@settings(max_examples=200, deadline=None)
@given(extra=st.lists(PATHS, max_size=8), split=st.sampled_from(["", "train", "w/Training"]))
def test_every_file_is_used_or_named(extra, split):
    with tempfile.TemporaryDirectory() as folder:
        root = make_tree(Path(folder), *(f"{split}/{name}/0.png" for name in "ab"), *map(str, extra))
        try:
            tree = scan_image_tree(root)
        except DataError:  # its cases are the test above
            return
        named = {path for files in tree.splits.values() for path, _ in files}
        named |= {row.path for row in (*tree.unused, *tree.strays)}
        for path in root.rglob("*"):
            if path.is_file():
                assert {path, *path.parents} & named, path


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take only UTF-8")
def test_class_names_are_valid_unicode_and_the_files_are_found(tmp_path):
    latin = os.fsdecode(b"gr\xf6n")
    tree = scan_image_tree(
        make_tree(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "val") for name in ("a", latin)))
    )
    assert tree.class_names == ("a", r"gr\xf6n")
    assert all(path.is_file() for files in tree.splits.values() for path, _ in files)
