"""Writes small data sets in every format that bncli reads, for the tests."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def idx_bytes(values):
    """A uint8 array of any rank in IDX."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def grey_images(num_examples, *, side=6, seed=0):
    """uint8 [N, H, W], every pixel random."""
    return np.random.default_rng(seed).integers(0, 256, (num_examples, side, side), dtype=np.uint8)


def cycled_labels(num_examples, num_classes=10):
    """uint8 [N]: 0, 1, …, K-1, 0, 1, …"""
    return (np.arange(num_examples) % num_classes).astype(np.uint8)


def write_idx_folder(folder, *, num_train=40, num_test=20, num_classes=10, zipped=True):
    """The four files of an MNIST-like data set; returns {file name: array}."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": grey_images(num_train, seed=1),
        "train-labels-idx1-ubyte": cycled_labels(num_train, num_classes),
        "t10k-images-idx3-ubyte": grey_images(num_test, seed=2),
        "t10k-labels-idx1-ubyte": cycled_labels(num_test, num_classes),
    }
    for name, values in arrays.items():
        content = idx_bytes(values)
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return arrays


def cifar_records(num_records, *, label_bytes=1, num_classes=10, seed=0):
    """(bytes of a CIFAR file, its images uint8 [N, 32, 32, 3], its labels [N]). Coarse labels are all 19."""
    images = np.random.default_rng(seed).integers(0, 256, (num_records, 32, 32, 3), dtype=np.uint8)
    labels = cycled_labels(num_records, num_classes)
    planes = images.transpose(0, 3, 1, 2).reshape(num_records, -1)
    coarse = np.full((num_records, label_bytes - 1), 19, np.uint8)
    return np.concatenate([coarse, labels[:, None], planes], axis=1).tobytes(), images, labels


def cifar10_files(num_records=10):
    """{file name: bytes} of a small CIFAR-10."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    return {name: cifar_records(num_records, seed=i)[0] for i, name in enumerate(names)}


def write_files(folder, files):
    """{file name: bytes} into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def colour_image(height=8, width=8, *, seed=0):
    """A random RGB image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def grey_image(height=8, width=8, *, seed=0):
    """A random grey image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def save_image(image, path: Path, **options):
    """Saves ``image``, and makes the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_image_folder(root, *, splits=("train", "test"), classes=("cat", "dog"), per_class=6, make=colour_image):
    """``root/SPLIT/CLASS/N.png``, or ``root/CLASS/N.png`` where ``splits`` is ("",)."""
    seed = 0
    for split in splits:
        for name in classes:
            for number in range(per_class):
                save_image(make(seed=seed), root / split / name / f"{number}.png")
                seed += 1
    return root
