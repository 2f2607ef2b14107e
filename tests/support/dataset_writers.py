"""Writers of small data sets, in every format that bncli reads.

Letters: N examples, H W spatial, K classes.
"""

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Wide = np.ndarray[Any, np.dtype[np.uint16]]


def idx_bytes(values: Pixels) -> bytes:
    """A uint8 array of any rank in IDX format."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def grey_images(num_examples: int, *, side: int = 6, seed: int = 0) -> Pixels:
    """Random pixels, uint8 [N, H, W]."""
    return np.random.default_rng(seed).integers(0, 256, (num_examples, side, side), dtype=np.uint8)


def cycled_labels(num_examples: int, num_classes: int = 10) -> Pixels:
    """The labels 0, 1, …, K-1, 0, 1 and so on, uint8 [N]."""
    return (np.arange(num_examples) % num_classes).astype(np.uint8)


def write_idx_folder(
    folder: Path, *, num_train: int = 40, num_test: int = 20, num_classes: int = 10, zipped: bool = True
) -> dict[str, Pixels]:
    """Write the four files of an MNIST-like data set; return {file name: array}."""
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


def cifar_records(
    num_records: int, *, label_bytes: int = 1, num_classes: int = 10, seed: int = 0
) -> tuple[bytes, Pixels, Pixels]:
    """The bytes of a CIFAR file, its images uint8 [N, 32, 32, 3] and its labels [N]; coarse labels are all 19."""
    images = np.random.default_rng(seed).integers(0, 256, (num_records, 32, 32, 3), dtype=np.uint8)
    labels = cycled_labels(num_records, num_classes)
    planes = images.transpose(0, 3, 1, 2).reshape(num_records, -1)
    coarse = np.full((num_records, label_bytes - 1), 19, np.uint8)
    return np.concatenate([coarse, labels[:, None], planes], axis=1).tobytes(), images, labels


def cifar10_files(num_records: int = 10) -> dict[str, bytes]:
    """{file name: bytes} of a CIFAR-10 with so many records in each file."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    return {name: cifar_records(num_records, seed=i)[0] for i, name in enumerate(names)}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write {file name: bytes} into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def colour_image(height: int = 8, width: int = 8, *, seed: int = 0) -> Image.Image:
    """A random RGB image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def grey_image(height: int = 8, width: int = 8, *, seed: int = 0) -> Image.Image:
    """A random grey image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def save_image(image: Image.Image, path: Path, **options: Any) -> Path:
    """Save the image, creating its folder; ``options`` go to Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_image_folder(
    root: Path,
    *,
    splits: tuple[str, ...] = ("train", "test"),
    classes: tuple[str, ...] = ("cat", "dog"),
    per_class: int = 6,
    make: Callable[..., Image.Image] = colour_image,
) -> Path:
    """Write ``root/SPLIT/CLASS/N.png``; with ``splits=("",)``, ``root/CLASS/N.png``."""
    seed = 0
    for split in splits:
        for name in classes:
            for number in range(per_class):
                save_image(make(seed=seed), root / split / name / f"{number}.png")
                seed += 1
    return root


def png_of_16_bit(values: Wide) -> bytes:
    """A PNG of uint16 values [H, W, C]: grey, grey and alpha, RGB or RGBA; Pillow writes 16 bits of grey only."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff_of_16_bit(values: Wide, *, order: str = "<", deflate: bool = False) -> bytes:
    """A TIFF of uint16 values [H, W, C], RGB or RGBA, in either byte order; Pillow writes 16 bits of grey only."""
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(pixels) if deflate else pixels
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    start = 8
    tags = [(256, width), (257, height), (258, start), (259, 8 if deflate else 1), (262, 2)]
    tags += [(273, start + len(bits)), (277, channels), (278, height), (279, len(data))]
    tags += [(338, 2)] if channels == 4 else []
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 4, 1, value)
        if tag != 258
        else struct.pack(f"{order}HHII", tag, 3, channels, value)
        for tag, value in tags
    )
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    magic = b"II" if order == "<" else b"MM"
    head = magic + struct.pack(f"{order}HI", 42, start + len(bits) + len(data))
    return head + bits + data + directory


def example_bytes(**features: bytes | int | float) -> bytes:
    """A ``tf.train.Example`` as TensorFlow writes it; written here by the format's description alone."""
    entries = b""
    for name, value in features.items():
        key = name.replace("__", "/").encode()
        entries += _field(1, _field(1, key) + _field(2, _feature(value)))
    return _field(1, entries)


def _feature(value: bytes | int | float) -> bytes:
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    if isinstance(value, float):
        return _field(2, _field(1, struct.pack("<f", value)))
    return _field(3, _field(1, _varint(value % (1 << 64))))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def labelled_images(images: Path, split: str) -> list[tuple[bytes, int]]:
    """The files of a split of an image folder with their labels, in the order in which bncli reads them."""
    classes = sorted(path for path in (images / split).iterdir() if path.is_dir())
    return [(path.read_bytes(), label) for label, folder in enumerate(classes) for path in sorted(folder.iterdir())]


def write_tfds(
    root: Path, splits: Mapping[str, list[bytes]], *, names: tuple[str, ...] = ("cat", "dog"), shards: int = 2
) -> Path:
    """Write examples as TFDS prepares them, with the features ``image`` and ``label``."""
    root.mkdir(parents=True)
    described = []
    for split, records in splits.items():
        parts = [records[len(records) * i // shards : len(records) * (i + 1) // shards] for i in range(shards)]
        for number, part in enumerate(parts):
            write_records(root / f"made-{split}.array_record-{number:05}-of-{shards:05}", part)
        described.append({"name": split, "shardLengths": [str(len(part)) for part in parts]})
    items = [{"featureKey": "image"}, {"featureKey": "label"}]
    supervised = {"supervisedKeys": {"tuple": {"items": items}}}
    info = {"name": "made", "fileFormat": "array_record", "splits": described, "version": "1.0.0", **supervised}
    features = {
        "image": {"pythonClassName": "Image", "image": {"dtype": "uint8", "shape": {"dimensions": ["8", "8", "3"]}}},
        "label": {"pythonClassName": "ClassLabel", "classLabel": {"numClasses": str(len(names))}},
        "id": {"pythonClassName": "Text", "text": {}},
    }
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    (root / "label.labels.txt").write_text("\n".join(names) + "\n")
    return root


def write_records(path: Path, records: Iterable[bytes]) -> Path:
    """Write an ArrayRecord file as TFDS does."""
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path
