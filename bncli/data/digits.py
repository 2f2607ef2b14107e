"""``digits``: 1,797 scans of handwritten digits, 8x8 grey, which scikit-learn carries in its wheel.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from bncli.data.dataset import RawDataset, Split
from bncli.data.known import KNOWN

_MAX_VALUE = 16  # each pixel counts the inked cells of a 4x4 block


def read_digits() -> RawDataset:
    """The scans, without val and test.

    ``build_dataset`` sets the same stratified fifth aside as the test split in every run, whatever its seed, so that
    two runs' test scores are about the same images.
    """
    table = _table()  # [1797, 65]: 64 pixels, and the label
    images = np.rint(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / _MAX_VALUE)).astype(np.uint8)
    known = KNOWN["digits"]
    return RawDataset(
        name=known.name,
        class_names=known.class_names,
        train=Split(images, table[:, -1].astype(np.int32)),
        val=None,
        test=None,
        augmentation=known.augmentation,
        source="scikit-learn",
    )


def _table() -> np.ndarray:
    """scikit-learn's own file; importing scikit-learn to read it would be a second of a first training's nine."""
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])
