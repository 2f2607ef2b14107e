"""Reading in another process: what it finds arrives as it is, and however it ends, there is an error with a remedy."""

import json
import os
import time
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.config.document import FoldedFrom
from bncli.errors import CheckpointError
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.readers import Asked, apart
from bncli.inspection.readers.apart import read_apart
from bncli.inspection.readers.contents import Contents
from bncli.process.child import Answer

FOLDED = FoldedFrom(checkpoint="ckpt", step=7, params_sha256="0" * 64, folded=("BatchNorm_0", "é"), kept=())


@st.composite
def layers(draw):
    channels = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 9)))

    def array(*shape):
        values = rng.normal(size=(*shape, channels))
        values[..., 0] = draw(st.sampled_from([0.0, -0.0, np.nan, np.inf, 5e-324]))
        return values

    return BatchNormArrays(
        name=draw(st.text(max_size=9)),
        mean=array(),
        var=array(),
        scale=array() if draw(st.booleans()) else None,
        bias=array() if draw(st.booleans()) else None,
        epsilon=draw(st.floats(allow_nan=False)),
        momentum=draw(st.none() | st.floats(0, 1)),
        relu_follows=draw(st.booleans()),
        updates=draw(st.none() | st.integers(0, 2**1000)),
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        replicas=array(3, 2) if draw(st.booleans()) else None,
        measured=draw(st.booleans()),
        kept=draw(st.none() | st.text(max_size=9)),
    )


def check_same(found, sent):
    """The contents are the same to the last bit."""
    for name in ("format", "notes", "folded_from", "framework"):
        assert getattr(found, name) == getattr(sent, name)
    for one, other in zip(found.layers, sent.layers, strict=True):
        for field in fields(BatchNormArrays):
            value, expected = getattr(one, field.name), getattr(other, field.name)
            if isinstance(expected, np.ndarray):
                assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
                assert value.tobytes() == expected.tobytes()
            else:
                assert value == expected


@given(st.lists(layers(), max_size=4), st.lists(st.text(max_size=9)), st.sampled_from([None, FOLDED]))
def test_contents_arrive_as_they_are(found, notes, folded_from):
    sent = Contents("onnx", tuple(found), tuple(notes), folded_from, framework="pytorch")
    answer = apart.encode(sent)
    received = Answer(json.loads(json.dumps(answer.document)), answer.payload)
    check_same(apart.decode(received), sent)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """(body of a reader's ``read``, ``require_library``) -> what comes of reading a file by it."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    preamble = (
        "import ctypes, os, resource, signal, sys, time\n"
        "from bncli.errors import CheckpointError\n"
        "from bncli.inspection.readers.contents import Contents\n"
    )

    def read(body, require="pass"):
        code = f"{preamble}def require_library():\n    {require}\ndef read(path, asked):\n    {body}\n"
        (tmp_path / "some_reader.py").write_text(code)
        return read_apart("some_reader", path, Asked(step="last", epsilon=0.5))

    return read


def refused(reader, body, **options):
    """The error with which reading ends."""
    with pytest.raises(CheckpointError) as caught:
        reader(body, **options)
    assert caught.value.remedy
    return caught.value


def test_the_reader_is_given_the_file_and_what_is_asked(reader):
    contents = reader("return Contents(f'{path.name} {path.read_bytes()} {asked}', ())")
    assert contents.format == f"file {b'content'} {Asked(step='last', epsilon=0.5)}"


def test_an_error_arrives_with_its_remedy(reader):
    error = refused(reader, "raise CheckpointError('no such layer', remedy='Save it.')")
    assert (error.message, error.remedy) == ("no such layer", "Save it.")


def test_an_exception_says_that_the_file_is_damaged(reader):
    error = refused(reader, "raise KeyError('bad object header')")
    assert error.message.endswith("file is damaged: KeyError: 'bad object header'")
    assert "some_reader.py" in str(error.__cause__)  # for --debug


def test_a_message_has_an_end(reader):
    for body in ("raise ValueError('x' * 10**6)", "raise CheckpointError('x' * 10**6, remedy='y')"):
        assert len(refused(reader, body).message) <= apart.MAX_MESSAGE


def test_a_library_that_is_missing_is_named(reader):
    error = refused(reader, "pass", require="raise CheckpointError('needs h5py', remedy='pip install it')")
    assert (error.message, error.remedy) == ("needs h5py", "pip install it")


@pytest.mark.parametrize("body", ["os.kill(os.getpid(), signal.SIGSEGV)", "ctypes.string_at(0)", "os.abort()"])
def test_a_crash_is_an_error(body, reader):
    assert "the library that reads it crashed" in refused(reader, body).message


def test_an_end_without_an_answer_is_an_error(reader):
    assert "crashed (exit code 3)" in refused(reader, "os._exit(3)").message


@pytest.mark.parametrize("body", ["return bytearray(1 << 30)", "return [bytearray(1 << 20) for _ in range(2000)]"])
def test_memory_has_a_limit(body, reader):
    assert "takes more memory than any sound file of its size" in refused(reader, body).message


def test_a_larger_file_may_take_more_memory(reader, tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 30)
    assert reader("x = bytearray(1 << 30); return Contents(str(len(x)), ())").format == str(1 << 30)


@pytest.mark.broad
def test_a_loop_is_ended(reader):
    started = time.perf_counter()
    assert "takes longer than any sound file of its size" in refused(reader, "while True: pass").message
    assert time.perf_counter() - started < 30  # 4 s on a machine that has nothing else to do


def test_waiting_for_ever_is_ended(reader, monkeypatch):
    monkeypatch.setattr(apart, "WALL_SECONDS", 1.0)
    assert "could not be read in 1 s" in refused(reader, "time.sleep(600)").message


def test_no_file_is_written(reader, tmp_path):
    error = refused(reader, "(path.parent / 'new').write_bytes(b'x' * 10**5)")
    assert "OSError" in error.message
    assert not (tmp_path / "new").exists() or (tmp_path / "new").stat().st_size == 0


def test_what_is_printed_is_no_part_of_the_answer(reader, capfd):
    body = "print('x' * 10**6, flush=True); os.write(1, b'y' * 10**6); os.write(2, b'z' * 10**6)"
    assert reader(f"{body}; return Contents('fine', ())").format == "fine"
    assert capfd.readouterr() == ("", "")


def test_warnings_are_no_damage(reader, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert reader("import warnings; warnings.warn('old'); return Contents('fine', ())").format == "fine"


def test_a_lower_limit_stays(reader):
    """Whoever runs bncli may allow it less than a file could need."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    assert reader("return Contents(str(resource.getrlimit(resource.RLIMIT_CORE)), ())").format == str((0, hard))


def test_a_path_of_any_bytes_is_read(tmp_path, monkeypatch):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe \n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "name_reader.py").write_text(
        "from bncli.inspection.readers.contents import Contents\n"
        "require_library = lambda: None\n"
        "def read(path, asked):\n    return Contents(path.read_text(), ())\n"
    )
    (tmp_path / path).write_text("content")
    assert read_apart("name_reader", tmp_path / path, Asked()).format == "content"
