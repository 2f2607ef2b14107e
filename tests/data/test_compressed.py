"""Plain and gzipped files read alike, and damage found while reading is a DataError of that file."""

import gzip

import pytest

from bncli.data.compressed import open_decompressed
from bncli.errors import DataError

CONTENT = bytes(range(256)) * 40


@pytest.mark.parametrize("content", [CONTENT, gzip.compress(CONTENT), gzip.compress(b"") + gzip.compress(CONTENT)])
def test_the_content_is_the_same(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with open_decompressed(path) as stream:
        assert stream.read() == CONTENT


@pytest.mark.parametrize("keep", [2, 15, -9, -1])
def test_a_gzip_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(CONTENT)[:keep])
    with pytest.raises(DataError, match=r"x\.gz: the gzip stream is damaged"), open_decompressed(path) as stream:
        stream.read()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"), open_decompressed(tmp_path / "x"):
        pass
