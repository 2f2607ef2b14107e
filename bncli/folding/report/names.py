"""Names for the operations and values of a network, in the words of its author: layers, blocks, activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bncli.folding.primitives import elementwise, pool
from bncli.folding.primitives.stuck import Slot
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.trace.graph import Node

# the function around an operation -> the activation that the operation is a part of.
ACTIVATIONS: Mapping[str, str] = {
    "celu": "a CELU",
    "elu": "an ELU",
    "gelu": "a GELU",
    "glu": "a GLU",
    "hard_sigmoid": "a hard sigmoid",
    "hard_silu": "a hard SiLU",
    "leaky_relu": "a LeakyReLU",
    "log_sigmoid": "a log-sigmoid",
    "log_softmax": "a log-softmax",
    "mish": "a Mish",
    "relu6": "a ReLU6",
    "selu": "a SELU",
    "silu": "a SiLU",
    "softmax": "a softmax",
    "softplus": "a softplus",
}

# A division behind one of these makes it a mean: the mean goes by the name of its sum.
SUMS = (pool.REDUCE_SUM, pool.WINDOW_SUM)
ADDITIONS = (elementwise.ADD, elementwise.SUB)
MANY = 3  # names in one sentence


def activation(node: Node) -> str:
    """The activation that the operation is a part of, the outermost one; '' if none is known."""
    return next((ACTIVATIONS[name] for name in node.call.split("/") if name in ACTIVATIONS), "")


def operation(network: EditedGraph, index: int) -> str:
    """A node by its layer, or by its kind and place: `Conv_0`, `a sum in Block_1`."""
    layer = network.layer(index)
    if layer:
        return layer
    node, place = network.sites[index], network.place(index)
    text = activation(node) or _kind(network, index)
    return f"{text} in {place}" if place else text


def _kind(network: EditedGraph, index: int) -> str:
    """A node by its primitive: `a sum`."""
    node, record = network.sites[index], network.record(index)
    before = network.producers.get(node.inputs[0]) if index in network.chains else None
    if before is not None and network.record(before) in SUMS:
        record = network.record(before)
    return record.words or node.name


def output_of(network: EditedGraph, value: int) -> str:
    """A value by its producer: a block if nothing inside that block reads it."""
    if value not in network.producers:
        return f"the {network.whole}'s input"
    index = network.producers[value]
    place = network.place(index)
    reading = [f"{network.place(reader)}/" for reader, _ in network.readers.get(value, [])]
    inside = any(other.startswith(f"{place}/") for other in reading)
    name = place if place and not inside and not network.layer(index) else operation(network, index)
    return f"the output of {name}"


def operand(network: EditedGraph, slot: Slot) -> str:
    """The value that an operation reads there; one that is read elsewhere too and then added is a shortcut."""
    index, position = slot
    value = network.sites[index].inputs[position]
    if is_shortcut(network, slot) and network.place(index):
        return f"{network.place(index)}'s shortcut"
    return output_of(network, value)


def names_of(network: EditedGraph, slots: Iterable[Slot]) -> list[str]:
    """The readers of a value, each named once."""
    return list(dict.fromkeys(reader(network, slot) for slot in slots))


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    shown = names if len(names) <= MANY else [*names[:MANY], f"{len(names) - MANY} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def reader(network: EditedGraph, slot: Slot) -> str:
    """A reader of a value: a sum that adds it once more is its block's shortcut."""
    if not is_shortcut(network, slot):
        return operation(network, slot[0])
    place = network.place(slot[0])
    return f"{place}'s shortcut" if place else operation(network, slot[0])


def is_shortcut(network: EditedGraph, slot: Slot) -> bool:
    """True if the slot is an addend of two dynamic ones, and something else reads it too."""
    node = network.sites[slot[0]]
    dynamic = [value for value in node.inputs if value not in network.constants]
    return network.record(slot[0]) in ADDITIONS and len(dynamic) == 2 and network.is_shared(node.inputs[slot[1]])
