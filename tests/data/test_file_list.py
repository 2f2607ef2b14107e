"""A list of files is the tuple of its paths, in less memory."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from bncli.data.file_list import FileList

ROOT = Path("/data/photos")
PATHS = [ROOT / "cat" / "1.png", ROOT / "dog" / "naïve é.png", ROOT / os.fsdecode(b"dog/\xff.png")]
FILES = FileList.of(ROOT, PATHS)


def test_it_holds_the_paths_in_order():
    assert list(FILES) == PATHS
    assert [FILES[0], FILES[-1]] == [PATHS[0], PATHS[-1]]
    assert FILES[1:] == PATHS[1:]
    with pytest.raises(IndexError):
        FILES[3]


def test_some_of_it_are_a_list_too():
    assert list(FILES.chosen(np.array([2, 0]))) == [PATHS[2], PATHS[0]]
    assert list(pickle.loads(pickle.dumps(FILES))) == PATHS  # noqa: S301 - made here
