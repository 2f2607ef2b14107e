"""``digits``: 1,797 scans of handwritten digits, 8×8 grey. ``digits.npz`` holds them, ``digits.txt`` their source."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bncli.data.dataset import RawDataset, Split
from bncli.data.known import KNOWN

# `data list` and ``config.json`` name it as the place of the data set: the scans are part of this package.
PLACE = "bncli"
_ARCHIVE = Path(__file__).with_name("digits.npz")
_MAX_VALUE = 16  # a pixel counts the inked cells of a 4×4 block


def read_digits() -> RawDataset:
    """The scans, without val and test.

    ``build_dataset`` makes the same stratified fifth the test split in every run, whatever its seed, so that the test
    scores of two runs are about the same images.
    """
    with np.load(_ARCHIVE, allow_pickle=False) as archive:
        counts, labels = archive["images"], archive["labels"]  # uint8 [1797, 8, 8], [1797]
    images = np.rint(counts[..., None] * (255 / _MAX_VALUE)).astype(np.uint8)
    known = KNOWN["digits"]
    return RawDataset(
        name=known.name,
        class_names=known.class_names,
        train=Split(images, labels.astype(np.int32)),
        val=None,
        test=None,
        augmentation=known.augmentation,
        source=PLACE,
    )
