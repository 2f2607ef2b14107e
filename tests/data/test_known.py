"""The table of known data sets: complete, and true of itself."""

import re

import pytest

from bncli.data import KNOWN

ROWS = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)


def test_names_are_keys_in_order():
    assert list(KNOWN) == sorted(KNOWN)
    assert [known.name for known in KNOWN.values()] == list(KNOWN)


@ROWS
def test_a_row_agrees_with_itself(known):
    assert known.num_classes == len(set(known.class_names)) == (100 if known.name == "cifar100" else 10)
    assert known.augmentation.max_shift < min(known.image_shape[:2])
    assert known.found is None
    assert "\n" not in known.description


@ROWS
def test_files_have_hashes_and_addresses(known):
    assert len(known.files) == {"cifar": 1, "digits": 0, "idx": 4}[known.format]
    for file in known.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.size > 1000
        assert file.urls[0].startswith("https://")
        assert all(url.endswith(f"/{file.name}") for url in file.urls)


def test_digits_and_clothes_are_flipped_only_where_that_keeps_the_class():
    assert {name for name, known in KNOWN.items() if known.augmentation.horizontal_flip} == {
        "cifar10",
        "cifar100",
        "fashion-mnist",
    }
