"""The changes of a training image where it is read: those that save decoding, or that are Pillow's own.

Like the changes on the device, they depend on the example's key alone, so an image looks the same whichever process
reads it, and when.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bncli.data.rand_augment import rand_augment
from bncli.data.random_crop import NUM_DRAWS
from bncli.data.sources import ImageSource
from bncli.data.threefry import fold_in, random_bits

# Folded into an example's key ("crop", "rand").
_CROP_STREAM = 0x63726F70
_RAND_STREAM = 0x72616E64


@dataclass(frozen=True)
class ReadAugmentation:
    """The random changes of an image that is read; hashable.

    Attributes:
        min_crop: least share of the image's area that a random resized crop takes; None takes the image as it is.
        randaugment: number of RandAugment's operations; 0 for none.
        magnitude: of the operations, 0 … 30.
    """

    min_crop: float | None = None
    randaugment: int = 0
    magnitude: int = 9

    @property
    def is_none(self) -> bool:
        """True if images are read as they are."""
        return self.min_crop is None and self.randaugment == 0

    def read(self, source: ImageSource, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Images of a source, each changed by its key: uint8 [B, H, W, C].

        Args:
            source: of the images.
            rows: int [B], their places in it.
            keys: uint32 [B, 2].
        """
        crops = random_bits(fold_in(keys, _CROP_STREAM), NUM_DRAWS)
        choices = random_bits(fold_in(keys, _RAND_STREAM), 2 * self.randaugment)
        images = np.empty((len(rows), *source.shape), np.uint8)
        for place, row in enumerate(rows.tolist()):
            image = source.read(row) if self.min_crop is None else source.read_crop(row, crops[place], self.min_crop)
            operations = choices[place].reshape(self.randaugment, 2)
            images[place] = rand_augment(image, operations, magnitude=self.magnitude) if self.randaugment else image
        return images


AS_IT_IS = ReadAugmentation()
