"""Damage to files and documents, as hypothesis strategies: input that a reader must refuse with a message."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | float | None"
Place: TypeAlias = "tuple[str | int, ...]"

# Values that a field should not hold: other types, the ends of ranges, names that point elsewhere.
ODD: tuple[JSON, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-320, 1e308, -1e308),
    *(float("nan"), float("inf"), -float("inf"), "", "0", "x" * 2000, "\0", "\x1b[31m", "é", "../../..", "digits"),
    *("mlp", "net.py:Net", "os:system", "antigravity:Net", ":", "/dev/stdin", "~", "http://127.0.0.1/x"),
    *([], {}, [0], [-1], [8, 8], ["a"], [[8]], {"a": 1}, {"name": "mlp"}, [2**40], [1e999]),
)


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    """Decorate a test that takes ``count``, its number of examples: ``few`` by default, ``many`` if slow tests run."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def for_examples(count: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Call ``check`` with ``count`` examples of the strategy, the same in every run.

    A failing example is reported as it is: shrinking would repeat every example seen before.
    """
    phases = [Phase.explicit, Phase.generate]
    chosen = settings(max_examples=count, derandomize=True, database=None, phases=phases, deadline=None)
    settings(chosen, suppress_health_check=list(HealthCheck))(given(strategy)(check))()


def places_of(document: JSON, place: Place = ()) -> Iterator[Place]:
    """The path of each value in a JSON document, beginning with the document's own."""
    yield place
    pairs: Iterator[tuple[str | int, JSON]] = iter(())
    if isinstance(document, dict):
        pairs = iter(document.items())
    elif isinstance(document, list):
        pairs = enumerate(document)
    for key, child in pairs:
        yield from places_of(child, (*place, key))


def value_at(document: Any, place: Place) -> Any:
    """The value at this path of a JSON document."""
    for key in place:
        document = document[key]
    return document


def nested(depth: int) -> JSON:
    """An empty list within as many others."""
    value: JSON = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def changed_documents(draw: st.DrawFn, document: JSON) -> JSON:
    """The document with one to three values replaced, exchanged for others of it, wrapped, nested or removed."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in places_of(changed) if place]
        if not places:
            break
        place = draw(st.sampled_from(places))
        act = draw(st.sampled_from(["replace", "replace", "replace", "exchange", "remove", "wrap", "nest"]))
        owner = value_at(changed, place[:-1])
        if act == "remove":
            del owner[place[-1]]
        else:
            owner[place[-1]] = _another_value(draw, act, value=owner[place[-1]], document=changed, places=places)
    return changed


def _another_value(draw: st.DrawFn, act: str, *, value: JSON, document: JSON, places: list[Place]) -> JSON:
    """The value that takes this one's place in the document."""
    if act == "wrap":
        return [value]
    if act == "nest":
        return nested(draw(st.sampled_from([3, 100, 300])))
    if act == "exchange":
        other: JSON = value_at(document, draw(st.sampled_from(places)))
        return copy.deepcopy(other)
    odd: JSON = draw(st.sampled_from(ODD))
    return copy.deepcopy(odd)


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes, *, header: int = 0) -> bytes:
    """The bytes with up to three changes, truncated in a third of the cases.

    Args:
        draw: hypothesis passes it.
        content: an intact file.
        header: half of the changes fall into this many bytes at the start, so that pixels do not take them all.
    """
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        if not changed:
            break
        end = header if header and draw(st.booleans()) else len(changed)
        _damage(draw, changed, position=draw(st.integers(0, min(end, len(changed)) - 1)))
    if draw(st.integers(0, 2)) == 0:
        del changed[draw(st.integers(0, len(changed))) :]
    return bytes(changed)


def _damage(draw: st.DrawFn, changed: bytearray, *, position: int) -> None:
    """Change the bytes at this position, in place."""
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


@st.composite
def damaged_documents(draw: st.DrawFn, document: JSON, *, write: Callable[[JSON], str] = json.dumps) -> bytes:
    """The bytes of a JSON document after damage to its values or to its bytes.

    Args:
        draw: hypothesis passes it.
        document: an intact one.
        write: converts a document to text.
    """
    if draw(st.booleans()):
        return write(draw(changed_documents(document))).encode(errors="surrogatepass")
    damaged: bytes = draw(damaged_bytes(write(document).encode()))
    return damaged
