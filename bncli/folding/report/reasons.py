"""What a user calls the operations of a network: their layers, blocks and activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bncli.folding.trace.graph import Node

if TYPE_CHECKING:
    from bncli.folding.rewrite.edits import Draft, Slot

# the function an operation stands in -> the activation it is a part of.
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

# primitive -> what the user wrote.
OPERATIONS: Mapping[str, str] = {
    "add": "a sum",
    "concatenate": "a concatenation",
    "conv_general_dilated": "a convolution",
    "div": "a division",
    "dot_general": "a matrix product",
    "ge": "a comparison",
    "gt": "a comparison",
    "integer_pow": "a power",
    "logistic": "a sigmoid",
    "max": "a ReLU",
    "mul": "a product",
    "pad": "a padding",
    "reduce_max": "a max over positions",
    "reduce_sum": "a mean or sum over positions",
    "reduce_window_max": "a max-pool",
    "reduce_window_sum": "an average pool",
    "select_n": "a jnp.where",
    "sub": "a difference",
    "tanh": "a tanh",
}
# what is divided by a number afterwards: a mean goes by the name of its sum.
SUMS = ("reduce_sum", "reduce_window_sum")
MANY = 3  # names in one sentence


def activation(node: Node) -> str:
    """The activation that the operation is a part of, the outermost one; '' if none is known."""
    return next((ACTIVATIONS[name] for name in node.call.split("/") if name in ACTIVATIONS), "")


def operation(draft: Draft, index: int) -> str:
    """A node by its layer, or as what it does and where: `Conv_0`, `a sum in Block_1`."""
    layer = draft.layer(index)
    if layer:
        return layer
    node, place = draft.sites[index], draft.place(index)
    before = draft.sites.get(draft.producers.get(node.inputs[0], -1)) if index in draft.chains else None
    name = before.name if before is not None and before.name in SUMS else node.name
    text = activation(node) or OPERATIONS.get(name, name)
    return f"{text} in {place}" if place else text


def output_of(draft: Draft, value: int) -> str:
    """A value by what makes it: a block if nothing inside that block reads it."""
    if value not in draft.producers:
        return "the network's input"
    index = draft.producers[value]
    place = draft.place(index)
    inside = [reader for reader, _ in draft.readers.get(value, []) if f"{draft.place(reader)}/".startswith(f"{place}/")]
    name = place if place and not inside and not draft.layer(index) else operation(draft, index)
    return f"the output of {name}"


def operand(draft: Draft, slot: Slot) -> str:
    """What an operation reads there; what is read elsewhere, too, and then added is a shortcut."""
    index, position = slot
    value = draft.sites[index].inputs[position]
    if is_shortcut(draft, slot) and draft.place(index):
        return f"{draft.place(index)}'s shortcut"
    return output_of(draft, value)


def names_of(draft: Draft, slots: Iterable[Slot]) -> list[str]:
    """Those that read a value, each named once."""
    return list(dict.fromkeys(reader(draft, slot) for slot in slots))


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    shown = names if len(names) <= MANY else [*names[:MANY], f"{len(names) - MANY} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def reader(draft: Draft, slot: Slot) -> str:
    """One that reads a value: a sum that adds it once more is its block's shortcut."""
    if not is_shortcut(draft, slot):
        return operation(draft, slot[0])
    place = draft.place(slot[0])
    return f"{place}'s shortcut" if place else operation(draft, slot[0])


def is_shortcut(draft: Draft, slot: Slot) -> bool:
    """Whether a sum of two values reads one there that something else reads too."""
    node = draft.sites[slot[0]]
    dynamic = [value for value in node.inputs if value not in draft.known]
    return node.name in ("add", "add_any", "sub") and len(dynamic) == 2 and draft.is_shared(node.inputs[slot[1]])
