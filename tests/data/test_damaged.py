"""Damaged data of every format: each is read, or refused by a DataError that names the file; nothing else happens.

Memory is bounded by a limit on the process's addresses: what a file only claims is not taken.
"""

import gzip
import io
import re
import shutil
import tarfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from support.damage import damaged_bytes, few_or_many, for_examples
from support.dataset_writers import cifar10_files, colour_image, write_files, write_idx_folder, write_image_folder
from support.hostile import zip_of

from bncli.data import ImageOptions, load_dataset
from bncli.errors import DataError

_ROOM = 4 << 30


@pytest.fixture(autouse=True)
def _bounded_memory():
    with _bounded(_ROOM):
        yield


@contextmanager
def _bounded(room):
    """Inside, the process can take that many bytes more than it has."""
    status = Path("/proc/self/statm")
    if not status.exists():  # not Linux
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def check(source, **options):
    """Whether it is read."""
    message = None
    try:
        load_dataset(str(source), **options)
    except DataError as error:
        message = error.message
    assert message is None or (str(source) in message and len(message) < 3000)
    return message is None


@few_or_many(150, 2000)
def test_idx(tmp_path, count):
    folder = tmp_path / "idx"
    write_idx_folder(folder, zipped=False)
    sound = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    assert check(folder)

    @st.composite
    def damaged(draw):
        path = draw(st.sampled_from(list(sound)))
        content = draw(damaged_bytes(sound[path], header=16))
        if not draw(st.booleans()):
            return path, path, content
        content = gzip.compress(content, mtime=0)
        return path, path.with_name(f"{path.name}.gz"), draw(st.just(content) | damaged_bytes(content))

    def read(example):
        path, target, content = example
        path.unlink()
        target.write_bytes(content)
        check(folder)
        target.unlink()
        path.write_bytes(sound[path])

    for_examples(count, damaged(), read)


@few_or_many(100, 2000)
def test_cifar_files(tmp_path, count):
    files = cifar10_files(20)
    write_files(tmp_path, files)
    assert check(tmp_path)

    def read(example):
        name, content = example
        (tmp_path / name).write_bytes(content)
        check(tmp_path)
        (tmp_path / name).write_bytes(files[name])

    names = st.sampled_from(sorted(files))
    for_examples(
        count, names.flatmap(lambda name: st.tuples(st.just(name), damaged_bytes(files[name], header=4))), read
    )


# Where a field of a tar's header begins -> what it may hold: numbers in base 256, other types, no octal digits.
TAR_FIELDS = (0, 100, 108, 116, 124, 136, 156, 157, 257, 263, 265, 345, 386, 480)
TAR_VALUES = (
    *(b"\x80" + b"\xff" * 7, b"\xff" * 12, b"77777777777", b"-1", b"0", b"x", bytes(12)),
    *(b"1", b"2", b"5", b"g", b"K", b"L", b"S"),
)


def cifar_tar():
    """An archive with the headers of three dialects."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, (name, content) in enumerate(cifar10_files(10).items()):
            member = tarfile.TarInfo(f"{'é' * 120 if number == 3 else 'd'}/{name}")
            member.size, member.mtime = len(content), 1.5
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@few_or_many(150, 2000)
def test_cifar_archives(tmp_path, count):
    sound = cifar_tar()
    headers = [match.start() - 257 for match in re.finditer(b"ustar", sound)]
    path = tmp_path / "cifar.tar"
    path.write_bytes(sound)
    assert check(path)

    @st.composite
    def damaged(draw):
        content = bytearray(sound)
        for _ in range(draw(st.integers(1, 3))):
            start = draw(st.sampled_from(headers))
            content[start : start + 512] = draw(damaged_headers(bytes(content[start : start + 512])))
        return gzip.compress(bytes(content), 1) if draw(st.booleans()) else bytes(content)

    def read(content):
        path.write_bytes(content)
        check(path)

    for_examples(count, damaged(), read)


@st.composite
def damaged_headers(draw, header):
    """A header of a tar with other bytes, or with another value in a field; its sum made to fit, most of the time."""
    if draw(st.booleans()):
        changed = bytearray((draw(damaged_bytes(header)) + bytes(512))[:512])
    else:
        field, value = draw(st.sampled_from(TAR_FIELDS)), draw(st.sampled_from(TAR_VALUES))
        changed = bytearray(header)
        changed[field : field + len(value)] = value
    if draw(st.integers(0, 3)):
        changed[148:156] = b" " * 8
        changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


NPY_TYPES = (b"|O", b"|V0", b"|S0", b"<U99999999", b"<M8[s]", b"<c8", b">f2", b"<f16", b"|b1", b"x")
NPY_SHAPES = (
    *(b"(12,)", b"(0,)", b"()", b"(1099511627776,)", b"(-1,)", b"(99999999999999999999999,)", b"(True,)", b"12"),
    *(b"(12, 0, 4)", b"(12, 2, 2, 2, 2)", b"(0, 99999999999, 99999999999)", b"(1.5,)", b"(" + b"1, " * 70 + b")"),
)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz_members():
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    labels = np.arange(12) % 3
    return {
        "x_train.npy": npy(images),
        "y_train.npy": npy(labels),
        "x_test.npy": npy((images / 255).astype(np.float32)),
        "y_test.npy": npy(labels),
        "class_names.npy": npy(np.array(["a", "b", "ç"])),
    }


@few_or_many(150, 2000)
def test_npz(tmp_path, count):
    members = npz_members()
    path = tmp_path / "toy.npz"
    path.write_bytes(zip_of(members.items()))
    assert check(path)

    @st.composite
    def damaged(draw):
        changed = dict(members)
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.sampled_from(sorted(changed)))
            changed[name] = draw(damaged_arrays(changed[name], others=sorted(members.values())))
            if draw(st.integers(0, 9)) == 0:
                del changed[name]
        # Stored, deflated, bzip2 and LZMA.
        content = zip_of(changed.items(), compression=draw(st.sampled_from([0, 8, 12, 14])))
        return draw(st.just(content) | damaged_bytes(content))

    def read(content):
        path.write_bytes(content)
        check(path)

    for_examples(count, damaged(), read)


@st.composite
def damaged_arrays(draw, content, *, others):
    """The bytes of an .npy with another header, other bytes, or another array's."""
    act = draw(st.sampled_from(["bytes", "type", "shape", "other"]))
    if act == "bytes":
        return draw(damaged_bytes(content, header=128))
    if act == "type":
        kind = draw(st.sampled_from(NPY_TYPES))
        return re.sub(rb"(?<='descr': ')[^']*", lambda _: kind, content)
    if act == "shape":
        shape = draw(st.sampled_from(NPY_SHAPES))
        return re.sub(rb"\([0-9, ]*\)", lambda _: shape, content)
    return draw(st.sampled_from(others))


KINDS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}


@few_or_many(150, 2000)
def test_image_files(tmp_path, count, capfd):
    root = write_image_folder(tmp_path / "images", splits=("",), per_class=3)
    sound = {}
    for suffix, kind in KINDS.items():
        exif = Image.Exif()
        exif[0x112] = 6  # lies on its side
        buffer = io.BytesIO()
        colour_image(12, 9).save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}))
        sound[suffix] = buffer.getvalue()
    assert check(root)

    def read(example):
        suffix, content, bad_images = example
        path = root / "cat" / f"x.{suffix}"
        path.write_bytes(content)
        # Damage can make a sound image of another kind, such as a grey one: `channels` reads it with the others.
        is_read = check(root, images=ImageOptions(bad_images=bad_images, size=8, channels=3))
        assert is_read or bad_images == "error"
        path.unlink()

    damaged = st.sampled_from(sorted(sound)).flatmap(
        lambda suffix: st.tuples(
            st.just(suffix), damaged_bytes(sound[suffix], header=60), st.sampled_from(["error", "skip"])
        )
    )
    for_examples(count, damaged, read)
    capfd.readouterr()  # libtiff writes its remarks there
    shutil.rmtree(root)


# What a few bytes claim.


def test_a_gzipped_idx_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    write_idx_folder(tmp_path)
    header = bytes([0, 0, 8, 3]) + (1000).to_bytes(4, "big") + (1000).to_bytes(4, "big") * 2
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(1000)))
    with _bounded(1 << 30), pytest.raises(DataError, match=r"1000000000 bytes of values expected, 1000 found|memory"):
        load_dataset(str(tmp_path))


def test_an_array_that_claims_more_than_its_archive_holds_takes_no_memory(tmp_path):
    members = npz_members()
    members["x_train.npy"] = re.sub(rb"\(12, 4, 4\)", b"(9999999, 99, 99)", members["x_train.npy"])
    path = tmp_path / "toy.npz"
    path.write_bytes(zip_of(members.items()))
    with _bounded(1 << 30), pytest.raises(DataError, match=r"toy\.npz: not a readable \.npz"):
        load_dataset(str(path))


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("bncli.process.memory.available_memory", lambda: 300 << 20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=np.zeros((50, 1000, 1000), np.uint8), y_train=np.arange(50) % 2)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"bomb\.npz: 62\.0 MiB of memory needed, 300\.0 MiB available"):
        load_dataset(str(path))
