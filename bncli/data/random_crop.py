"""Random resized crop: the part of a photograph that a training step sees, drawn from the example's key.

The crop of Inception and of every ImageNet recipe since (Szegedy et al. 2014, arXiv 1409.4842, section 6), with the
draws of ``torchvision.transforms.RandomResizedCrop``: up to ten tries, then the centre.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_RATIOS = (3 / 4, 4 / 3)  # of width to height
_TRIES = 10
_DRAWS = 4  # random numbers of a try: area, ratio, left, top
NUM_DRAWS = _TRIES * _DRAWS


class Box(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def draw_box(bits: np.ndarray, *, width: int, height: int, min_area: float) -> Box:
    """The part of an image of ``width`` x ``height`` pixels that random numbers pick.

    Args:
        bits: uint32 [NUM_DRAWS].
        width: of the whole image.
        height: of the whole image.
        min_area: the least share of the image's area; the greatest is 1.
    """
    uniform = bits.reshape(_TRIES, _DRAWS) / 2**32
    low, high = map(math.log, _RATIOS)
    for area, ratio, x, y in uniform.tolist():
        pixels = width * height * (min_area + area * (1 - min_area))
        aspect = math.exp(low + ratio * (high - low))
        box_width, box_height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            return Box(int(x * (width - box_width + 1)), int(y * (height - box_height + 1)), box_width, box_height)
    return _centre(width, height)


def _centre(width: int, height: int) -> Box:
    """The largest part in the middle with an allowed ratio."""
    box_width = min(width, round(height * _RATIOS[1]))
    box_height = min(height, round(width / _RATIOS[0]))
    return Box((width - box_width) // 2, (height - box_height) // 2, box_width, box_height)
