"""The images that paths name: files as given, folders in natural order, links that lead back followed once."""

from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dataset_writers import write_files

from bncli.data.image_search import find_images, natural_key


def test_a_folder_stands_for_all_images_below(tmp_path):
    names = ["10.png", "9.PNG", "a/2.jfif", "a/11.jpg", "b/c/1.avif", "x2y10.png", "x2y9.png"]
    for name in [*names, "notes.txt", ".hidden.png", "a/Thumbs.db"]:
        write_files((tmp_path / name).parent, {PurePath(name).name: b""})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    found = find_images([tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found.images] == [
        "9.PNG", "10.png", "a/2.jfif", "a/11.jpg", "b/c/1.avif", "x2y9.png", "x2y10.png",
    ]  # fmt: skip
    assert not found.bad
    assert len(found.notes) == 2
    assert any(note.endswith("1 not used (not the name of an image file): notes.txt") for note in found.notes)


def test_files_are_taken_as_they_are_named(tmp_path):
    paths = [tmp_path / name for name in ("b.png", "a.txt", "missing")]
    assert find_images(paths).images == paths


@pytest.mark.parametrize("names", [[], ["x.txt"], ["a/b/x.txt"]])
def test_a_folder_without_images_is_a_failure(tmp_path, names):
    for name in names:
        write_files((tmp_path / name).parent, {PurePath(name).name: b""})
    (bad,) = find_images([tmp_path]).bad
    assert (bad.path, bad.reason) == (tmp_path, "a folder without image files")


@given(st.lists(st.text("a9²0./", min_size=1, max_size=6), max_size=6), st.randoms())
def test_the_order_is_total_and_does_not_depend_on_the_start(names, random):
    paths = sorted(set(map(Path, names)), key=natural_key)
    shuffled = random.sample(paths, len(paths))
    assert sorted(shuffled, key=natural_key) == paths
