"""CIFAR's binary files and archives: the right planes, the right label, no link followed, no pickle loaded."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support.dataset_writers import cifar10_files, cifar_records, write_files

from bncli.data import KNOWN, load_dataset
from bncli.data.cifar import read_cifar_archive, read_cifar_folder
from bncli.errors import DataError


def write_archive(path, files, *, prefix="cifar-10-batches-bin/", mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check_cifar10(raw):
    for split, first_seed in ((raw.train, 0), (raw.test, 5)):
        for number in range(len(split) // 10):
            _, images, labels = cifar_records(10, seed=first_seed + number)
            np.testing.assert_array_equal(split.images[10 * number : 10 * number + 10], images)
            np.testing.assert_array_equal(split.labels[10 * number : 10 * number + 10], labels)
    assert (len(raw.train), len(raw.test)) == (50, 10)
    assert raw.class_names == KNOWN["cifar10"].class_names


def test_a_folder_is_read_as_written(tmp_path):
    write_files(tmp_path, cifar10_files())
    check_cifar10(read_cifar_folder(tmp_path, "cifar10"))


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("prefix", ["cifar-10-batches-bin/", "", "../../outside/", "/"])
def test_an_archive_is_read_in_any_order_and_never_unpacked(tmp_path, mode, prefix):
    files = dict(reversed(cifar10_files().items())) | {"readme.html": b"hello"}
    path = write_archive(tmp_path / "cifar.tar", files, prefix=prefix, mode=mode)
    check_cifar10(read_cifar_archive(path))
    assert [path.name for path in tmp_path.iterdir()] == ["cifar.tar"]


@pytest.mark.parametrize("place", ["", "cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"])
def test_the_named_data_set_is_found_where_tools_leave_it(tmp_path, place):
    write_files(tmp_path / place, cifar10_files())
    dataset = load_dataset("cifar10", data_dir=tmp_path)
    assert (dataset.name, len(dataset.train), len(dataset.val)) == ("cifar10", 45, 5)
    assert dataset.augmentation == KNOWN["cifar10"].augmentation


def test_the_named_data_set_is_found_in_its_archive(tmp_path):
    (tmp_path / "cifar10").mkdir()
    write_archive(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", cifar10_files())
    assert len(load_dataset("cifar10", data_dir=tmp_path).test) == 10


def test_cifar100_takes_the_fine_label(tmp_path):
    train, images, labels = cifar_records(300, label_bytes=2, num_classes=100)
    write_files(tmp_path, {"train.bin": train, "test.bin": train[: 100 * 3074]})
    dataset = load_dataset(str(tmp_path))
    assert (dataset.name, dataset.num_classes) == ("cifar100", 100)
    np.testing.assert_array_equal(dataset.test.labels, labels[:100])
    np.testing.assert_array_equal(dataset.test.images, images[:100])


def test_fewer_images_than_published_are_told(tmp_path):
    write_files(tmp_path, cifar10_files())
    warnings = load_dataset(str(tmp_path)).warnings
    assert len(warnings) == 6
    assert "data_batch_1.bin holds 10 of its 10,000 images" in warnings[0]


RECORD = 3073
BAD_FILES = {
    "a missing file": ({"data_batch_3.bin": None}, r"cifar10 lacks data_batch_3\.bin"),
    "an empty file": ({"data_batch_3.bin": b""}, r"data_batch_3\.bin: 30730000 bytes expected .*, 0 found"),
    "a record cut short": ({"test_batch.bin": bytes(2 * RECORD - 1)}, "6145 found"),
    "a label out of range": (
        {"data_batch_2.bin": bytes(RECORD) + bytes([10]) + bytes(RECORD - 1)},
        r"data_batch_2\.bin: label 1 is 10, but there are 10 classes",
    ),
}


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(("changes", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_malformed_file_is_refused(tmp_path, archived, changes, message):
    files = {name: content for name, content in (cifar10_files() | changes).items() if content is not None}
    source = tmp_path / "cifar-10-batches-bin"
    if archived:
        source = write_archive(tmp_path / "cifar.tar.gz", files)
    else:
        write_files(source, files)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(source))
    assert str(source) in caught.value.message
    assert caught.value.remedy


def test_a_link_in_an_archive_is_refused(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"data_batch_1\.bin is a link or a device"):
        read_cifar_archive(path)


def test_a_member_larger_than_published_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    member = tarfile.TarInfo("data_batch_1.bin")
    member.size = 1 << 40
    # The header alone: tarfile itself writes no member without its bytes.
    path.write_bytes(gzip.compress(member.tobuf()))
    with pytest.raises(DataError, match="1099511627776 found"):
        read_cifar_archive(path)


@pytest.mark.parametrize("keep", [0, 10, 1000, -20, -4])
def test_a_damaged_archive_is_refused(tmp_path, keep):
    path = write_archive(tmp_path / "cifar.tar.gz", cifar10_files())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged"):
        read_cifar_archive(path)


def test_another_archive_is_refused(tmp_path):
    path = write_archive(tmp_path / "photos.tar.gz", {"1.png": b"x"}, prefix="photos/")
    with pytest.raises(DataError, match="neither CIFAR-10 nor CIFAR-100"):
        load_dataset(str(path))


@pytest.mark.parametrize(
    "place",
    ["cifar-10-batches-py/data_batch_1", "data_batch_1", "cifar-10-python.tar.gz", "cifar10/data_batch_1"],
)
def test_the_python_version_is_refused_and_never_loaded(tmp_path, place):
    write_files((tmp_path / place).parent, {(tmp_path / place).name: b"cos\nsystem\n(S'exit 1'\ntR."})
    for call in (
        lambda: load_dataset("cifar10", data_dir=tmp_path),
        lambda: load_dataset(str((tmp_path / place).parent)),
    ):
        with pytest.raises(DataError, match="never loads a pickle") as caught:
            call()
        assert "bncli data fetch cifar10" in caught.value.remedy


def test_the_python_archive_is_refused(tmp_path):
    path = write_archive(tmp_path / "data.tar.gz", {"data_batch_1": b"x"}, prefix="cifar-10-batches-py/")
    with pytest.raises(DataError, match="never loads a pickle"):
        load_dataset(str(path))


def test_an_archive_that_unpacks_to_more_than_was_published_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bncli.data.cifar._MAX_BYTES", 1 << 20)
    path = write_archive(tmp_path / "bomb.tar.gz", {"zeros": bytes(2 << 20)} | cifar10_files())
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"bomb\.tar\.gz: unpacks to more than 1 MiB"):
        read_cifar_archive(path)


def test_what_follows_the_archive_in_its_stream_counts_too(tmp_path, monkeypatch):
    monkeypatch.setattr("bncli.data.cifar._MAX_BYTES", 1 << 20)
    path = write_archive(tmp_path / "bomb.tar.gz", cifar10_files())
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(2 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read_cifar_archive(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_that_announces_gigabytes_takes_no_memory(tmp_path, kind):
    resource = pytest.importorskip("resource")  # POSIX alone
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1 << 40
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf() + bytes(1 << 20)))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        with pytest.raises(DataError, match=r"bomb\.tar\.gz: "):
            read_cifar_archive(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_an_archive_of_very_many_members_is_refused(tmp_path):
    path = write_archive(tmp_path / "many.tar", {str(number): b"" for number in range(1001)}, mode="w")
    with pytest.raises(DataError, match=r"many\.tar: more than 1,000 members"):
        read_cifar_archive(path)
