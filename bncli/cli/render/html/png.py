"""Small images as PNG in data URLs, for pages that load nothing.

Letters: H W height and width, C channels.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

# A larger image is reduced: thumbnails are no wider on the page, even on a screen of twice the usual density.
MAX_SIDE = 128
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}


def data_url(image: np.ndarray) -> str:
    """Return uint8 [H, W, C], C 1 or 3, as a data URL; other channels than the first are left out for other C."""
    return f"data:image/png;base64,{base64.b64encode(png(reduced(image))).decode()}"


def png(image: np.ndarray) -> bytes:
    """Return uint8 [H, W, C] as a PNG file (ISO/IEC 15948): each row behind its filter type 0, none."""
    height, width, channels = image.shape
    if channels not in _COLOUR_TYPES:
        image, channels = image[..., :1], 1
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, width * channels)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), _chunk(b"IEND", b""))
    return _SIGNATURE + b"".join(chunks)


def reduced(image: np.ndarray) -> np.ndarray:
    """Return the image with means over blocks of pixels, so that no side is longer than ``MAX_SIDE``."""
    factor = -(-max(image.shape[:2]) // MAX_SIDE)
    if factor == 1:
        return image
    height, width = (max(side // factor, 1) for side in image.shape[:2])
    cut = image[: height * factor, : width * factor]
    blocks = cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width, -1)
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
