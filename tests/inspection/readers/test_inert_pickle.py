"""Plain values come out of a pickle as Python loads them; every other call is a record, and nothing is ever called."""

import builtins
import importlib
import io
import os
import pickle
import pickletools
import sys
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.inspection.readers.inert_pickle import OPCODES, Global, Record, load

KEYS = st.text(max_size=5) | st.integers() | st.binary(max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.integers()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner, inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=20,
)


def no_ids(identity):
    raise AssertionError(identity)


def read(content, calls=None):
    return load(io.BytesIO(content), calls=calls or {}, persistent=no_ids)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_those_that_python_loads(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


def test_every_opcode_of_python_is_known():
    assert set(OPCODES) == {opcode.name for opcode in pickletools.opcodes} - {"STOP"}


class Hostile:
    """An object that is pickled as any call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


CALLS = [
    Hostile(os.system, "exit 1"),
    Hostile(eval, "1/0"),
    Hostile(getattr, "text", "upper"),
    Hostile(__import__, "antigravity"),
    Hostile(importlib.import_module, "this"),
    Hostile(sys.exit, 3),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.call[0].__name__)
def test_a_call_is_recorded_not_made(call, protocol, monkeypatch):
    def forbidden(name, *args, **kwargs):
        assert name.startswith("encodings."), f"{name} was imported"
        return real(name, *args, **kwargs)

    real = builtins.__import__

    content = pickle.dumps([call, {"state": call}], protocol)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", forbidden)
        first, second = read(content)
    function, args = call.call
    assert isinstance(first, Record)
    assert (first.made_by.name, first.args) == (function.__name__, args)
    assert second["state"].made_by == first.made_by


class Settings:
    """A class with an attribute."""

    def __init__(self):
        self.rate = 0.1


class Numbers(list):
    """A class of lists."""


class Table(dict):
    """A class of dicts."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_record_holds_what_its_object_is_given(protocol):
    settings, numbers, table = read(pickle.dumps([Settings(), Numbers([1, 2]), Table(a=3)], protocol))
    assert settings.maker.endswith("test_inert_pickle.Settings")
    assert settings.state == {"rate": 0.1}
    assert numbers.elements == [1, 2] or [1, 2] in numbers.args
    assert table.items == {"a": 3} or {"a": 3} in table.args


def test_a_pickle_that_holds_itself_is_read():
    endless = []
    endless.append(endless)
    (inner,) = content = read(pickle.dumps(endless))
    assert inner is content


DAMAGED = {
    "nothing": b"",
    "no end": b"N",
    "an empty stack": b".",
    "an unknown opcode": b"\xff.",
    "no mark": b"t.",
    "an unknown memo": b"h\x05.",
    "a call without arguments": b"cos\nsystem\nNR.",
    "a list of items": b"]NNs.",
    "elements of a number": b"K\x01Na.",
    "an odd number of items": b"}(Nu.",
    "a name of a number": b"K\x01K\x02\x93.",
    "a dict without pairs": b"ccollections\nOrderedDict\nK\x01\x85R.",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_an_error_of_few_classes(name):
    with pytest.raises((ValueError, TypeError, LookupError)):
        read(DAMAGED[name])


def test_a_reader_evaluates_the_calls_it_knows():
    content = b"cx\ny\nK\x05\x85R."
    assert read(content, {Global("x", "y"): lambda number: number + 1}) == 6
