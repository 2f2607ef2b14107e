"""Moving one affine through a network, up towards its producers or down towards its readers.

Both walks collect `Edits` without touching the draft, so a fold that gets stuck half-way leaves nothing behind.
"""

from __future__ import annotations

from bncli.folding.affine import Affine, varying
from bncli.folding.primitives import Move, Stuck, rules_of
from bncli.folding.report import reasons
from bncli.folding.rewrite.edits import Draft, Edits, Slot
from bncli.folding.trace.graph import Node


def push_up(draft: Draft, index: int) -> Edits | Stuck:
    """The edits after which the chain's source arrives as the chain would have delivered it."""
    walk = _Upward(draft, index)
    walk.ask((index, 0), draft.affine(index))
    return walk.run()


def push_down(draft: Draft, index: int) -> Edits | Stuck:
    """The edits after which the chain's readers do with its source instead."""
    walk, value = _Downward(draft, index), draft.chains[index].output
    moved = walk.tell(value, draft.affine(index)) or walk.run()
    return _of_several(moved, draft, value) if isinstance(moved, Stuck) else moved


class _Upward:
    """Demands travel from readers to producers, the last producer first, so all demands on a value meet."""

    def __init__(self, draft: Draft, index: int) -> None:
        self.draft = draft
        self.index = index
        self.edits = Edits()
        self.demands: dict[int, dict[Slot, Affine]] = {}

    def ask(self, slot: Slot, affine: Affine) -> None:
        """A reader asks for affine(value)."""
        value = self.draft.sites[slot[0]].inputs[slot[1]]
        self.demands.setdefault(value, {})[slot] = affine

    def run(self) -> Edits | Stuck:
        while self.demands:
            index = max(self.draft.producers.get(value, -1) for value in self.demands)
            if index == -1:
                return Stuck("there is only the network's input")
            stuck = self.visit(index, self.draft.sites[index])
            if stuck is not None:
                return stuck
        return self.edits

    def visit(self, index: int, node: Node) -> Stuck | None:
        outputs: dict[int, Affine] = {}
        for position, value in enumerate(node.outputs):
            if value in self.demands:
                wanted = self.agreed(value, self.demands.pop(value))
                if isinstance(wanted, Stuck):
                    return wanted
                outputs[position] = wanted.after(self.draft.behind(value))
                self.clear(value)
        if index in self.draft.chains:
            return self.visit_chain(index, outputs[0])
        move = rules_of(node.name).backward(self.draft.op(index), outputs)
        if isinstance(move, Stuck):
            return _at(move, self.draft, index)
        return self.take(index, node, move)

    def agreed(self, value: int, demands: dict[Slot, Affine]) -> Affine | Stuck:
        """What all readers of a value ask for."""
        if value in self.draft.graph.outputs:
            return Stuck(f"{self.named(value)} is also an output of the network")
        others = [slot for slot in self.draft.readers[value] if slot not in demands]
        if others:
            return self.shared(value, others, demands)
        first, *rest = demands.values()
        if not all(demand.same_as(first) for demand in rest):
            readers = reasons.listed(reasons.names_of(self.draft, demands))
            return Stuck(f"the readers of {reasons.output_of(self.draft, value)} ({readers}) want different scales")
        return self.draft.refusal(value, first) or first

    def shared(self, value: int, others: list[Slot], demands: dict[Slot, Affine]) -> Stuck:
        """An activation that reads its input twice is in the way as a whole; other readers are named."""
        within = {reasons.activation(self.draft.sites[index]) for index, _ in demands} - {""}
        if within & {reasons.activation(self.draft.sites[index]) for index, _ in others}:
            return Stuck(f"{min(within)} stands in the way")
        readers = reasons.listed(reasons.names_of(self.draft, others))
        return Stuck(f"{self.named(value)} is also read by {readers}")

    def named(self, value: int) -> str:
        """The value in words, and that it is the BN's own input if it is."""
        name = reasons.output_of(self.draft, value)
        return f"its input, {name}," if value == self.draft.chains[self.index].source else name

    def clear(self, value: int) -> None:
        """What stood behind the value is part of the demand now."""
        identity = Affine.identity(len(self.draft.graph.avals[value].shape))
        if value in self.draft.edits.behind:
            self.edits.behind[value] = identity
        if value in self.draft.edits.biases:
            self.edits.biases[value] = identity

    def visit_chain(self, index: int, wanted: Affine) -> Stuck | None:
        """A BN takes the affine in; any other chain lets it through."""
        own = self.draft.affine(index)
        if index in self.draft.norms:
            self.edits.chains[index] = wanted.after(own)
            self.edits.merged.append(index)
            return None
        kept, passed = chain_backward(own, wanted)
        if not kept.same_as(own):
            self.edits.chains[index] = kept
        self.pass_on(index, 0, passed)
        return None

    def take(self, index: int, node: Node, move: Move) -> Stuck | None:
        if any(self.draft.batch[node.inputs[operand]] for operand in move.weights):
            return Stuck("a constant beside it is as long as the batch")
        for operand, affine in move.passed.items():
            self.pass_on(index, operand, affine)
        for position, affine in move.left.items():
            self.edits.behind[node.outputs[position]] = affine
        if move.bias is not None:
            self.edits.biases[node.outputs[0]] = move.bias
        self.edits.weights.update({(index, operand): array for operand, array in move.weights.items()})
        return None

    def pass_on(self, index: int, operand: int, affine: Affine) -> None:
        """Ask the operand's producer for it, together with what stands in front of the operand."""
        total = affine.after(self.draft.ahead((index, operand)))
        if (index, operand) in self.draft.edits.ahead:
            self.edits.ahead[index, operand] = Affine.identity(total.rank)
        if not total.is_identity:
            self.ask((index, operand), total)


class _Downward:
    """An affine travels from a value to all its readers, the first node first, so all that arrives at a node meets."""

    def __init__(self, draft: Draft, index: int) -> None:
        self.draft = draft
        self.index = index
        self.edits = Edits()
        self.arriving: dict[int, dict[int, Affine]] = {}

    def tell(self, value: int, affine: Affine) -> Stuck | None:
        """Every reader of the value has to do with v', where value = affine(v')."""
        if affine.is_identity:
            return None
        if value in self.draft.graph.outputs:
            return Stuck(f"{self.named(value)} is an output of the network")
        for slot in self.draft.readers.get(value, []):
            self.arriving.setdefault(slot[0], {})[slot[1]] = self.draft.ahead(slot).after(affine)
            if slot in self.draft.edits.ahead:
                self.edits.ahead[slot] = Affine.identity(affine.rank)
        return self.draft.refusal(value, affine)

    def run(self) -> Edits | Stuck:
        while self.arriving:
            index = min(self.arriving)
            stuck = self.visit(index, self.draft.sites[index], self.arriving.pop(index))
            if stuck is not None:
                return stuck
        return self.edits

    def visit(self, index: int, node: Node, operands: dict[int, Affine]) -> Stuck | None:
        if index in self.draft.chains:
            return self.visit_chain(index, node.outputs[0], operands[0])
        move = rules_of(node.name).forward(self.draft.op(index), operands)
        if isinstance(move, Stuck):
            return _at(move, self.draft, index)
        return self.take(index, node, move)

    def visit_chain(self, index: int, output: int, arriving: Affine) -> Stuck | None:
        """A BN takes the affine in; any other chain lets it through."""
        own = self.draft.affine(index)
        if index in self.draft.norms:
            self.edits.chains[index] = own.after(arriving)
            self.edits.merged.append(index)
            return None
        kept, passed = chain_forward(own, arriving)
        if not kept.same_as(own):
            self.edits.chains[index] = kept
        return self.tell(output, passed)

    def take(self, index: int, node: Node, move: Move) -> Stuck | None:
        for operand, affine in move.left.items():
            self.edits.ahead[index, operand] = affine
        self.edits.weights.update({(index, operand): array for operand, array in move.weights.items()})
        if move.bias is not None:
            return self.add_bias(node.outputs[0], move.bias)
        for position, affine in move.passed.items():
            value = node.outputs[position]
            total = self.draft.behind(value).after(affine)
            if value in self.draft.edits.behind:
                self.edits.behind[value] = Affine.identity(total.rank)
            stuck = self.tell(value, total)
            if stuck is not None:
                return stuck
        return None

    def named(self, value: int) -> str:
        """The value in words, or that it is the BN's own output."""
        own = value == self.draft.chains[self.index].output
        return "its output" if own else reasons.output_of(self.draft, value)

    def add_bias(self, value: int, bias: Affine) -> Stuck | None:
        """An absorbing operation's output gets a summand of its own, in front of anything that stands behind it."""
        earlier = self.draft.edits.biases.get(value, Affine.identity(bias.rank))
        self.edits.biases[value] = earlier.after(bias)
        return self.draft.refusal(value, bias)


def chain_backward(own: Affine, wanted: Affine) -> tuple[Affine, Affine]:
    """(x·m + c)·s + t = x·(m·s) + (c·s + t), or, where m lies along other axes than s, = (x·s + (c·s + t)/m)·m.

    Returns what the chain keeps and what it asks of its input.
    """
    if _compose(own, wanted):
        return Affine.identity(own.rank), wanted.after(own)
    shift = wanted.scale * own.shift + wanted.shift
    if own.scale.all():
        return Affine.of_scale(own.scale), Affine(wanted.scale, shift / own.scale)
    return Affine(own.scale, shift), Affine.of_scale(wanted.scale)


def chain_forward(own: Affine, arriving: Affine) -> tuple[Affine, Affine]:
    """(x·s + t)·m + c = x·(m·s) + (m·t + c), or, where m lies along other axes than s, = (x·m)·s + (m·t + c).

    A pure scale, too, passes a pure scale and leaves it alone: the two arms of a leaky ReLU must stay alike.
    Returns what the chain keeps and what it passes on.
    """
    total = own.after(arriving)
    if _compose(own, arriving) and not (own.is_scale and arriving.is_scale):
        return Affine.identity(own.rank), total
    return Affine.of_scale(own.scale), Affine(arriving.scale, total.shift)


def _compose(own: Affine, other: Affine) -> bool:
    """Whether the product of both scales lies along no more axes than one kernel has room for."""
    return len(varying(own.scale) | varying(other.scale)) <= 1 or varying(own.scale) <= varying(other.scale)


def _at(stuck: Stuck, draft: Draft, index: int) -> Stuck:
    """The reason with the place, where the network has names for places; an activation by its own name."""
    name, place = reasons.activation(draft.sites[index]), draft.place(index)
    reason = f"{name} stands in the way" if name else stuck.reason
    return Stuck(f"{reason} (in {place})" if place and place not in reason else reason)


def _of_several(stuck: Stuck, draft: Draft, value: int) -> Stuck:
    """The reason with all who read the value, where one of them is enough to keep a BN."""
    names = reasons.names_of(draft, draft.readers.get(value, []))
    if len(names) < 2:
        return stuck
    return Stuck(f"not all of its readers ({reasons.listed(names)}) can take it in: {stuck.reason}")
