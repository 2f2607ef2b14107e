"""``digits``: 1,797 scans of handwritten digits, 8x8 grey, which scikit-learn carries in its wheel.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import numpy as np

from bncli.data.dataset import RawDataset, Split
from bncli.data.known import KNOWN

_MAX_VALUE = 16  # each pixel counts the inked cells of a 4x4 block


def read_digits() -> RawDataset:
    """The scans, without val and test.

    ``build_dataset`` sets the same stratified fifth aside as the test split in every run, whatever its seed, so that
    two runs' test scores are about the same images.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / _MAX_VALUE)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
    known = KNOWN["digits"]
    return RawDataset(
        name=known.name,
        class_names=known.class_names,
        train=Split(images, bunch.target.astype(np.int32)),
        val=None,
        test=None,
        augmentation=known.augmentation,
        source="scikit-learn",
    )
