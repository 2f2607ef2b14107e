"""Names that are not UTF-8: valid text wherever they are shown or stored, and the file is found again."""

import json
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.config.file_names import displayed, displayed_document, is_utf8, on_disk

NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..")
)


@given(NAMES)
def test_a_displayed_name_is_valid_unicode_and_names_every_byte(name):
    shown = displayed(os.fsdecode(name))
    assert shown.encode("utf-8") == os.fsencode(os.fsdecode(name)).decode("utf-8", "backslashreplace").encode()
    assert displayed(shown) == shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_valid_text_stays_as_it_is(text):
    assert displayed(text) == text


def test_other_surrogates_are_spelled_too():
    assert displayed("a\ud800b\udcf6\udc00") == r"a\ud800b\xf6\udc00"


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take only UTF-8")
@settings(max_examples=50, deadline=None)
@given(NAMES)
def test_the_file_is_found_by_its_displayed_name(tmp_path_factory, name):
    path = tmp_path_factory.getbasetemp() / os.fsdecode(name)
    path.write_bytes(b"")
    try:
        assert on_disk(displayed(str(path))) == path
        assert is_utf8(path) == (displayed(str(path)) == str(path))
    finally:
        path.unlink()


@pytest.mark.parametrize("name", ["", "plain", r"a\xf6", "x" * 300, "a\0b", r"nul\xf6" + "\0"])
def test_the_name_itself_is_taken_if_no_file_has_the_other(name):
    assert str(on_disk(name)) == (name or ".")


def test_every_text_of_a_document_is_displayed():
    document = {"a\udcff": ["b\udcfe", {"c": "d\udcfd"}], "n": 1, "none": None, "t": ("x\udc80",)}
    shown = displayed_document(document)
    assert json.loads(json.dumps(shown, ensure_ascii=False).encode()) == {
        r"a\xff": [r"b\xfe", {"c": r"d\xfd"}],
        "n": 1,
        "none": None,
        "t": [r"x\x80"],
    }
