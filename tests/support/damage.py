"""Damage to files and documents, as hypothesis strategies: what a reader must answer with a message."""

import copy
import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

# What a field may hold that should not: other types, the ends of ranges, names that point elsewhere.
ODD = (
    *(None, True, False, 0, 1, -1, 3, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-320, 1e308, -1e308),
    *(float("nan"), float("inf"), -float("inf"), "", "0", "x" * 2000, "\0", "\x1b[31m", "é", "../../..", "digits"),
    *("mlp", "net.py:Net", "os:system", "antigravity:Net", ":", "/dev/stdin", "~", "http://127.0.0.1/x"),
    *([], {}, [0], [-1], [8, 8], ["a"], [[8]], {"a": 1}, {"name": "mlp"}, [2**40], [1e999]),
)


# Few in every run, the same each time; many with `pytest -m slow`.
def few_or_many(few, many):
    """The decorator of a test that takes ``count``, how many examples it looks at."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def for_examples(count, strategy, check):
    """Calls ``check`` with that many examples of the strategy.

    Without an example that fails, hypothesis would repeat what it has seen; with one it says what it was, unshrunk.
    """
    phases = [Phase.explicit, Phase.generate]
    chosen = settings(max_examples=count, derandomize=True, database=None, phases=phases, deadline=None)
    settings(chosen, suppress_health_check=list(HealthCheck))(given(strategy)(check))()


def places_of(document, place=()):
    """The path of each value in a JSON document, the whole document's first."""
    yield place
    pairs = ()
    if isinstance(document, dict):
        pairs = document.items()
    elif isinstance(document, list):
        pairs = enumerate(document)
    for key, child in pairs:
        yield from places_of(child, (*place, key))


def nested(depth):
    """[[[…]]]"""
    value = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def changed_documents(draw, document):
    """The document with one to three values replaced, exchanged for others of it, doubled or left out."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in places_of(changed) if place]
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        owner = changed
        for key in parents:
            owner = owner[key]
        act = draw(st.sampled_from(["replace", "replace", "replace", "exchange", "remove", "wrap", "nest"]))
        if act == "remove":
            del owner[last]
        elif act == "wrap":
            owner[last] = [owner[last]]
        elif act == "nest":
            owner[last] = nested(draw(st.sampled_from([3, 100, 300])))
        elif act == "exchange":
            value = changed
            for key in draw(st.sampled_from(places)):
                value = value[key]
            owner[last] = copy.deepcopy(value)
        else:
            owner[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return changed


@st.composite
def damaged_bytes(draw, content, *, header=0):
    """The bytes with up to three changes, cut in a third of the cases.

    Args:
        content: a sound file.
        header: this many bytes at the start are changed in half of the cases, where so many are the pixels'.
    """
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        if not changed:
            break
        end = header if header and draw(st.booleans()) else len(changed)
        position = draw(st.integers(0, min(end, len(changed)) - 1))
        act = draw(st.sampled_from(["flip", "flip", "set", "zero", "insert", "delete", "number"]))
        if act == "flip":
            changed[position] ^= 1 << draw(st.integers(0, 7))
        elif act == "set":
            changed[position] = draw(st.integers(0, 255))
        elif act == "zero":
            changed[position : position + 64] = bytes(len(changed[position : position + 64]))
        elif act == "insert":
            changed[position:position] = draw(st.binary(min_size=1, max_size=8))
        elif act == "delete":
            del changed[position : position + draw(st.integers(1, 64))]
        else:
            number = draw(st.sampled_from([0, 1, 2**15, 2**31 - 1, 2**32 - 1])).to_bytes(4, "big")
            changed[position : position + 4] = number if draw(st.booleans()) else number[::-1]
    if draw(st.integers(0, 2)) == 0:
        del changed[draw(st.integers(0, len(changed))) :]
    return bytes(changed)


@st.composite
def damaged_documents(draw, document, *, write=json.dumps):
    """The bytes of a JSON document that was changed, by its values or by its bytes.

    Args:
        document: a sound one.
        write: makes text of one.
    """
    if draw(st.booleans()):
        return write(draw(changed_documents(document))).encode(errors="surrogatepass")
    return draw(damaged_bytes(write(document).encode()))
