"""Pickles read as data, by a stack machine that imports and calls nothing.

Python's unpickler looks classes and functions up by name and calls them, so opening a pickle can run any program. Here
a name stays two strings, a ``Global``, and each call becomes a ``Record`` of the callable and its arguments. The reader
passes in the few calls that it evaluates itself, such as those that make tensors. ``pickletools`` only splits the bytes
into opcodes (https://docs.python.org/3/library/pickletools.html).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, NamedTuple, TypeAlias

Args: TypeAlias = tuple[object, ...]


class Global(NamedTuple):
    """The name of a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        """Such as ``argparse.Namespace``."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Record:
    """An inert stand-in for an object: what a call was given, and what was put into its result.

    Attributes:
        made_by: the class or function; anything else a pickle may call, such as another record.
        args: arguments of the call.
        state: the object's attributes, or whatever else its class keeps.
        elements: elements added to it, if it is a kind of list or set.
        items: items set in it, if it is a kind of dict.
    """

    made_by: object
    args: Args = ()
    state: object = None
    elements: list[object] = field(default_factory=list)
    items: dict[object, object] = field(default_factory=dict)

    @property
    def maker(self) -> str:
        """The name of the class or function."""
        return str(self.made_by) if isinstance(self.made_by, Global) else "an unnamed callable"


# Values that hold no others.
PLAIN = (str, bytes, bool, int, float, type(None))
# The result of a call, from its arguments.
Call: TypeAlias = Callable[..., object]
# The object that a persistent id stands for.
Persistent: TypeAlias = Callable[[object], object]


def _from_pairs(pairs: object = ()) -> dict[object, object]:
    """A dict from its pairs of key and value."""
    if not isinstance(pairs, list | tuple):
        raise TypeError("a dict of something else than pairs")
    return {_key(key): value for key, value in pairs}


def _listed(elements: object = ()) -> list[object]:
    """The elements of a list, tuple or set; sets are lists here, since stand-ins may have no hash."""
    if not isinstance(elements, list | tuple):
        raise TypeError("a collection of something else than a list")
    return list(elements)


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """The bytes that protocol 2 stores as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("bytes that are not stored as text")
    return text.encode("latin1")


def _bytes(*args: object) -> object:
    """Empty bytes, which protocol 2 stores as a call without arguments."""
    return Record(Global("builtins", "bytes"), args) if args else b""


def _reconstructed(cls: object, *args: object) -> Record:
    """An object before Python's protocol 2, from its class, the built-in class below it, and the value of that."""
    return Record(cls, args)


# Calls that make plain values.
CALLS: dict[Global, Call] = {
    Global("_codecs", "encode"): _encoded,
    Global("collections", "OrderedDict"): _from_pairs,
    Global("collections", "defaultdict"): lambda *_: {},
    Global("copy_reg", "_reconstructor"): _reconstructed,
    Global("copyreg", "_reconstructor"): _reconstructed,
    **{Global(builtins, "bytes"): _bytes for builtins in ("__builtin__", "builtins")},
    **{Global(builtins, kind): _listed for builtins in ("__builtin__", "builtins") for kind in ("frozenset", "set")},
}


def load(file: IO[bytes], *, calls: Mapping[Global, Call], persistent: Persistent) -> object:
    """The object in the pickle at the file's position, which moves behind it.

    Args:
        file: open for reading.
        calls: evaluated by the reader, beside ``CALLS``; all others become records.
        persistent: gives the object that a persistent id stands for.

    Raises:
        ValueError, TypeError, LookupError: the pickle is damaged.
    """
    machine = _Machine({**CALLS, **calls}, persistent)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            break
        OPCODES[opcode.name](machine, argument)
    return machine.pop()


class _Machine:
    """The stack, the memo and the marks of a pickle."""

    def __init__(self, calls: Mapping[Global, Call], persistent: Persistent) -> None:
        self.calls = calls
        self.persistent = persistent
        self.memo: dict[object, object] = {}
        self.stack: list[object] = []
        self.below_marks: list[list[object]] = []

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        return self.stack.pop()

    def mark(self) -> None:
        self.below_marks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[object]:
        """Everything pushed since the last mark."""
        above, self.stack = self.stack, self.below_marks.pop()
        return above

    def memoize(self, number: object) -> None:
        self.memo[number] = self.stack[-1]

    def call(self, function: object, args: object) -> object:
        """The result of a call that the reader evaluates, else the record of the call."""
        if not isinstance(args, tuple):
            raise TypeError("a call without a tuple of arguments")
        evaluated = self.calls.get(function) if isinstance(function, Global) else None
        return Record(function, args) if evaluated is None else evaluated(*args)


Opcode: TypeAlias = Callable[[_Machine, object], None]


def _push_argument(machine: _Machine, argument: object) -> None:
    machine.push(argument)


def _nothing(_machine: _Machine, _argument: object) -> None:
    """Framing and protocol versions carry no value."""


def _pushes(make: Callable[[], object]) -> Opcode:
    return lambda machine, _: machine.push(make())


def _tuple_of(length: int) -> Opcode:
    def push(machine: _Machine, _: object) -> None:
        elements = [machine.pop() for _ in range(length)]
        machine.push(tuple(reversed(elements)))

    return push


def _pop(machine: _Machine, _: object) -> None:
    """Drop the top of the stack, or a mark if nothing was pushed since."""
    if machine.stack:
        machine.pop()
    else:
        machine.pop_to_mark()


def _pop_mark(machine: _Machine, _: object) -> None:
    """Drop what was pushed since the last mark."""
    machine.pop_to_mark()


def _get(machine: _Machine, number: object) -> None:
    machine.push(machine.memo[number])


def _memoize_next(machine: _Machine, _: object) -> None:
    machine.memoize(len(machine.memo))


def _extend(machine: _Machine, elements: list[object]) -> None:
    """Add elements to the list, set or stand-in on top of the stack."""
    target = machine.stack[-1]
    if isinstance(target, Record):
        target.elements.extend(elements)
    elif isinstance(target, list):
        target.extend(elements)
    else:
        raise TypeError("elements of something else than a list or set")


def _set_items(machine: _Machine, flat: list[object]) -> None:
    """Set items, given as keys and values in turn, in the dict or stand-in on top of the stack."""
    target = machine.stack[-1]
    items = target.items if isinstance(target, Record) else target
    if not isinstance(items, dict):
        raise TypeError("items of something else than a dict")
    items.update(_paired(flat))


def _paired(flat: list[object]) -> dict[object, object]:
    return {_key(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _key(value: object) -> object:
    """A key of a dict: itself if plain or a tuple of plain values, else a stand-in: a deep tuple's hash recurses."""
    parts = value if isinstance(value, tuple) else (value,)
    return value if all(isinstance(part, PLAIN) for part in parts) else Record(Global("", type(value).__name__))


def _append(machine: _Machine, _: object) -> None:
    element = machine.pop()
    _extend(machine, [element])


def _set_item(machine: _Machine, _: object) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _build(machine: _Machine, _: object) -> None:
    """Keep the state of a stand-in; attributes of dicts and tensors are dropped."""
    state, target = machine.pop(), machine.stack[-1]
    if isinstance(target, Record):
        target.state = state


def _global(machine: _Machine, argument: object) -> None:
    module, _, name = str(argument).partition(" ")
    machine.push(Global(module, name))


def _stack_global(machine: _Machine, _: object) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a name that is no text")
    machine.push(Global(module, name))


def _extension(machine: _Machine, code: object) -> None:
    """A name that is registered by number in the program that wrote the file."""
    machine.push(Global("copyreg", f"extension {code}"))


def _call(machine: _Machine, _: object) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, args))


def _call_with_keywords(machine: _Machine, _: object) -> None:
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    if not isinstance(args, tuple):
        raise TypeError("a call without a tuple of arguments")
    machine.push(machine.call(function, (*args, keywords) if keywords else args))


def _instance(machine: _Machine, argument: object) -> None:
    args = machine.pop_to_mark()
    _global(machine, argument)
    machine.push(machine.call(machine.pop(), tuple(args)))


def _object(machine: _Machine, _: object) -> None:
    function, *args = machine.pop_to_mark()
    machine.push(machine.call(function, tuple(args)))


def _persistent(machine: _Machine, _: object) -> None:
    machine.push(machine.persistent(machine.pop()))


OPCODES: dict[str, Opcode] = {
    **dict.fromkeys(("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2"), _push_argument),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"), _push_argument),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push_argument),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push_argument),
    **dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), _nothing),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, number: machine.memoize(number)),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "ADDITEMS": lambda machine, _: _extend(machine, machine.pop_to_mark()),
    "APPEND": _append,
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_to_mark()),
    "BINPERSID": _persistent,
    "BUILD": _build,
    "DICT": lambda machine, _: machine.push(_paired(machine.pop_to_mark())),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_DICT": _pushes(dict),
    "EMPTY_LIST": _pushes(list),
    "EMPTY_SET": _pushes(list),
    "EMPTY_TUPLE": _pushes(tuple),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_to_mark()),
    "GLOBAL": _global,
    "INST": _instance,
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "MARK": lambda machine, _: machine.mark(),
    "MEMOIZE": _memoize_next,
    "NEWFALSE": _pushes(lambda: False),
    "NEWOBJ_EX": _call_with_keywords,
    "NEWTRUE": _pushes(lambda: True),
    "NEXT_BUFFER": _pushes(lambda: None),
    "NONE": _pushes(lambda: None),
    "OBJ": _object,
    "PERSID": lambda machine, argument: machine.push(machine.persistent(argument)),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_to_mark()),
    "STACK_GLOBAL": _stack_global,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
}
