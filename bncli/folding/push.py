"""Moving one affine through a network, up towards its producers or down towards its readers.

Both walks collect `Edits` without touching the draft, so a fold that gets stuck half-way leaves nothing behind.
"""

from __future__ import annotations

from bncli.folding.affine import Affine, varying
from bncli.folding.draft import Draft, Edits
from bncli.folding.graph import Node
from bncli.folding.rules import Move, Stuck, rules_of


def push_up(draft: Draft, value: int, affine: Affine) -> Edits | Stuck:
    """The edits after which `value` arrives as affine(value) at its readers, all of whom ask for that."""
    walk = _Upward(draft)
    walk.ask(value, affine)
    return walk.run()


def push_down(draft: Draft, value: int, affine: Affine) -> Edits | Stuck:
    """The edits after which the readers of `value` may be given v' instead, with value = affine(v')."""
    walk = _Downward(draft)
    stuck = walk.tell(value, affine)
    return stuck if stuck is not None else walk.run()


class _Upward:
    """Demands travel from readers to producers, the last producer first, so all demands on a value meet."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.edits = Edits()
        self.demands: dict[int, list[Affine]] = {}

    def ask(self, value: int, affine: Affine) -> None:
        self.demands.setdefault(value, []).append(affine)

    def run(self) -> Edits | Stuck:
        while self.demands:
            index = max(self.draft.producers.get(value, -1) for value in self.demands)
            if index == -1:
                return Stuck("it reads the network's input")
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
            return self.visit_chain(index, node.inputs[0], outputs[0])
        move = rules_of(node.name).backward(self.draft.op(index), outputs)
        if isinstance(move, Stuck):
            return _at(move, self.draft, index)
        return self.take(index, node, move)

    def agreed(self, value: int, demands: list[Affine]) -> Affine | Stuck:
        """What all readers of a value ask for."""
        readers = self.draft.readers[value]
        if value in self.draft.graph.outputs:
            return Stuck(f"the output of {self.source(value)} is also an output of the network")
        if len(demands) < len(readers):
            names = sorted({self.draft.name(index) for index, _ in readers})
            return Stuck(f"the output of {self.source(value)} is read more than once ({', '.join(names)})")
        if not all(demand.same_as(demands[0]) for demand in demands):
            return Stuck(f"two readers of the output of {self.source(value)} ask for different scales")
        return self.draft.refusal(value, demands[0]) or demands[0]

    def source(self, value: int) -> str:
        return self.draft.name(self.draft.producers[value])

    def clear(self, value: int) -> None:
        """What stood behind the value is part of the demand now."""
        identity = Affine.identity(len(self.draft.graph.avals[value].shape))
        if value in self.draft.edits.behind:
            self.edits.behind[value] = identity
        if value in self.draft.edits.biases:
            self.edits.biases[value] = identity

    def visit_chain(self, index: int, source: int, wanted: Affine) -> Stuck | None:
        """A BN takes the affine in; any other chain lets it through."""
        own = self.draft.affine(index)
        if index in self.draft.norms:
            self.edits.chains[index] = wanted.after(own)
            self.edits.merged.append(index)
            return None
        kept, passed = chain_backward(own, wanted)
        self.edits.chains[index] = kept
        self.pass_on(index, 0, source, passed)
        return None

    def take(self, index: int, node: Node, move: Move) -> Stuck | None:
        if any(self.draft.batch[node.inputs[operand]] for operand in move.weights):
            return Stuck("a constant beside it is as long as the batch")
        for operand, affine in move.passed.items():
            self.pass_on(index, operand, node.inputs[operand], affine)
        for position, affine in move.left.items():
            self.edits.behind[node.outputs[position]] = affine
        if move.bias is not None:
            self.edits.biases[node.outputs[0]] = move.bias
        self.edits.weights.update({(index, operand): array for operand, array in move.weights.items()})
        return None

    def pass_on(self, index: int, operand: int, value: int, affine: Affine) -> None:
        """Ask the operand's producer for it, together with what stands in front of the operand."""
        total = affine.after(self.draft.ahead((index, operand)))
        if (index, operand) in self.draft.edits.ahead:
            self.edits.ahead[index, operand] = Affine.identity(total.rank)
        if not total.is_identity:
            self.ask(value, total)


class _Downward:
    """An affine travels from a value to all its readers, the first node first, so all that arrives at a node meets."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.edits = Edits()
        self.arriving: dict[int, dict[int, Affine]] = {}

    def tell(self, value: int, affine: Affine) -> Stuck | None:
        """Every reader of the value has to do with v', where value = affine(v')."""
        if affine.is_identity:
            return None
        if value in self.draft.graph.outputs:
            return Stuck("it is an output of the network")
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
        self.edits.chains[index], passed = chain_forward(own, arriving)
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
    """The reason with the place, where the network has names for places."""
    place = draft.place(index)
    return Stuck(f"{stuck.reason} (in {place})") if place else stuck
