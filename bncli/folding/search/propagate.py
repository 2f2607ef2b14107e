"""Moving one affine through a network, up towards its producers or down towards its readers.

Both walks collect `Edits` without touching the network, so a fold that gets stuck half-way changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from bncli.folding.affine import Affine, varying
from bncli.folding.primitives.primitive import Affines, Move, Op, Rule
from bncli.folding.primitives.stuck import Cause, Slot, Stuck
from bncli.folding.rewrite.edits import EditedGraph, Edits
from bncli.folding.trace.graph import Node


def propagate_backward(network: EditedGraph, index: int) -> Edits | Stuck:
    """The edits that make the chain's source arrive as its output."""
    walk = _Backward(network)
    walk.ask((index, 0), network.affine(index))
    return walk.run()


def propagate_forward(network: EditedGraph, index: int) -> Edits | Stuck:
    """The edits that make the chain's readers work with its source."""
    walk = _Forward(network)
    return walk.tell(network.chains[index].output, network.affine(index)) or walk.run()


class _Backward:
    """Demands travel from readers to producers, the last producer first, so all demands on a value meet."""

    def __init__(self, network: EditedGraph) -> None:
        self.network = network
        self.edits = Edits()
        self.demands: dict[int, dict[Slot, Affine]] = {}

    def ask(self, slot: Slot, affine: Affine) -> None:
        """Record that a reader asks for affine(value)."""
        value = self.network.sites[slot[0]].inputs[slot[1]]
        self.demands.setdefault(value, {})[slot] = affine

    def run(self) -> Edits | Stuck:
        """Meet all demands, the last producer first."""
        while self.demands:
            index = max(self.network.producers.get(value, -1) for value in self.demands)
            if index == -1:
                return Stuck(Cause.NETWORK_INPUT)
            stuck = self.visit(index, self.network.sites[index])
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
                outputs[position] = wanted.after(self.network.behind(value))
                self.edits.moved.add(value)
                self.clear(value)
        if index in self.network.chains:
            return self.visit_chain(index, outputs[0])
        move = _asked(self.network, index, outputs, backward=True)
        return move if isinstance(move, Stuck) else self.take(index, node, move)

    def agreed(self, value: int, demands: dict[Slot, Affine]) -> Affine | Stuck:
        """The affine that all readers of a value ask for."""
        if value in self.network.graph.outputs:
            return Stuck(Cause.NETWORK_OUTPUT, value=value)
        others = tuple(slot for slot in self.network.readers[value] if slot not in demands)
        if others:
            return Stuck(Cause.OTHER_READERS, value=value, readers=others, asking=tuple(demands))
        first, *rest = demands.values()
        if not all(demand.same_as(first) for demand in rest):
            return Stuck(Cause.DIFFERENT_DEMANDS, value=value, readers=tuple(demands))
        return self.network.refusal(value, first) or first

    def clear(self, value: int) -> None:
        """Remove the edits behind the value, which are part of the demand now."""
        identity = Affine.identity(len(self.network.graph.avals[value].shape))
        if value in self.network.edits.behind:
            self.edits.behind[value] = identity
        if value in self.network.edits.biases:
            self.edits.biases[value] = identity

    def visit_chain(self, index: int, wanted: Affine) -> Stuck | None:
        """A BN absorbs the affine; any other chain lets it through."""
        own = self.network.affine(index)
        if index in self.network.norms:
            self.edits.chains[index] = wanted.after(own)
            self.edits.merged.append(index)
            return None
        kept, passed = chain_backward(own, wanted)
        if not kept.same_as(own):
            self.edits.chains[index] = kept
        self.pass_on(index, 0, passed)
        return None

    def take(self, index: int, node: Node, move: Move) -> Stuck | None:
        """Turn a move into edits and further demands."""
        if (stuck := _refused_weight(self.network, index, move)) is not None:
            return stuck
        for operand, affine in move.passed.items():
            self.pass_on(index, operand, affine)
        for position, affine in move.left.items():
            self.edits.behind[node.outputs[position]] = affine
        if move.bias is not None:
            self.edits.biases[node.outputs[0]] = move.bias
        self.edits.weights.update({(index, operand): array for operand, array in move.weights.items()})
        return None

    def pass_on(self, index: int, operand: int, affine: Affine) -> None:
        """Ask the operand's producer for the affine, together with the edits in front of the operand."""
        total = affine.after(self.network.ahead((index, operand)))
        if (index, operand) in self.network.edits.ahead:
            self.edits.ahead[index, operand] = Affine.identity(total.rank)
        if not total.is_identity:
            self.ask((index, operand), total)


class _Forward:
    """An affine travels from a value to all its readers, the first node first, so all that arrives at a node meets."""

    def __init__(self, network: EditedGraph) -> None:
        self.network = network
        self.edits = Edits()
        self.arriving: dict[int, dict[int, Affine]] = {}

    def tell(self, value: int, affine: Affine) -> Stuck | None:
        """Every reader of the value now gets v', where value = affine(v')."""
        if affine.is_identity:
            return None
        if value in self.network.graph.outputs:
            return Stuck(Cause.NETWORK_OUTPUT, value=value)
        for slot in self.network.readers.get(value, []):
            self.arriving.setdefault(slot[0], {})[slot[1]] = self.network.ahead(slot).after(affine)
            if slot in self.network.edits.ahead:
                self.edits.ahead[slot] = Affine.identity(affine.rank)
        self.edits.moved.add(value)
        return self.network.refusal(value, affine)

    def run(self) -> Edits | Stuck:
        """Carry all affines on, the first reader first."""
        while self.arriving:
            index = min(self.arriving)
            stuck = self.visit(index, self.network.sites[index], self.arriving.pop(index))
            if stuck is not None:
                return stuck
        return self.edits

    def visit(self, index: int, node: Node, operands: dict[int, Affine]) -> Stuck | None:
        if index in self.network.chains:
            return self.visit_chain(index, node.outputs[0], operands[0])
        move = _asked(self.network, index, operands, backward=False)
        return move if isinstance(move, Stuck) else self.take(index, node, move)

    def visit_chain(self, index: int, output: int, arriving: Affine) -> Stuck | None:
        """A BN absorbs the affine; any other chain lets it through."""
        own = self.network.affine(index)
        if index in self.network.norms:
            self.edits.chains[index] = own.after(arriving)
            self.edits.merged.append(index)
            return None
        kept, passed = chain_forward(own, arriving)
        if not kept.same_as(own):
            self.edits.chains[index] = kept
        return self.tell(output, passed)

    def take(self, index: int, node: Node, move: Move) -> Stuck | None:
        """Turn a move into edits and affines that travel on."""
        if (stuck := _refused_weight(self.network, index, move)) is not None:
            return stuck
        for operand, affine in move.left.items():
            self.edits.ahead[index, operand] = affine
        self.edits.weights.update({(index, operand): array for operand, array in move.weights.items()})
        if move.bias is not None:
            return self.add_bias(node.outputs[0], move.bias)
        for position, affine in move.passed.items():
            value = node.outputs[position]
            total = self.network.behind(value).after(affine)
            if value in self.network.edits.behind:
                self.edits.behind[value] = Affine.identity(total.rank)
            stuck = self.tell(value, total)
            if stuck is not None:
                return stuck
        return None

    def add_bias(self, value: int, bias: Affine) -> Stuck | None:
        """Add to an absorbing operation's output, in front of all other edits behind it."""
        earlier = self.network.edits.biases.get(value, Affine.identity(bias.rank))
        self.edits.biases[value] = earlier.after(bias)
        return self.network.refusal(value, bias)


def chain_backward(own: Affine, wanted: Affine) -> tuple[Affine, Affine]:
    """(x·m + c)·s + t = x·(m·s) + (c·s + t), or, where m lies along other axes than s, = (x·s + (c·s + t)/m)·m.

    Returns:
        The affine that the chain keeps, and the one that it asks of its input.
    """
    if _compose(own, wanted):
        return Affine.identity(own.rank), wanted.after(own)
    shift = wanted.scale * own.shift + wanted.shift
    if own.scale.all():
        return Affine.of_scale(own.scale), Affine(wanted.scale, shift / own.scale)
    return Affine(own.scale, shift), Affine.of_scale(wanted.scale)


def chain_forward(own: Affine, arriving: Affine) -> tuple[Affine, Affine]:
    """(x·s + t)·m + c = x·(m·s) + (m·t + c), or, where m lies along other axes than s, = (x·m)·s + (m·t + c).

    A pure scale also passes a pure scale unchanged: the two arms of a leaky ReLU must stay alike.

    Returns:
        The affine that the chain keeps, and the one that it passes on.
    """
    total = own.after(arriving)
    if _compose(own, arriving) and not (own.is_scale and arriving.is_scale):
        return Affine.identity(own.rank), total
    return Affine.of_scale(own.scale), Affine(arriving.scale, total.shift)


def _compose(own: Affine, other: Affine) -> bool:
    """True if the product of both scales varies along no more axes than one kernel has room for."""
    return len(varying(own.scale) | varying(other.scale)) <= 1 or varying(own.scale) <= varying(other.scale)


def _asked(network: EditedGraph, index: int, affines: Affines, *, backward: bool) -> Move | Stuck:
    """The answer of an operation's rule, unless the operation has a parameter that its record does not account for."""
    record = network.record(index)
    if record.rules is None:
        return Stuck(Cause.NO_RULE, operation=index)
    parameter = record.unknown_parameter(network.sites[index].params)
    if parameter is not None:
        return Stuck(Cause.UNKNOWN_PARAMETER, operation=index, parameter=parameter)
    move = _answer(record.rules.backward if backward else record.rules.forward, network.op(index), affines)
    return replace(move, operation=index) if isinstance(move, Stuck) else move


def _answer(rule: Rule, op: Op, affines: Affines) -> Move | Stuck:
    """The rule's answer; Stuck if it needs the number of a size that is a symbol."""
    try:
        return rule(op, affines)
    except Exception:  # raised by NumPy or by the symbol, so it may be of any type
        if op.has_symbols:
            return Stuck(Cause.SYMBOLIC_SIZE)
        raise


def _refused_weight(network: EditedGraph, index: int, move: Move) -> Stuck | None:
    refusals = (network.weight_refusal((index, operand)) for operand in move.weights)
    return next((stuck for stuck in refusals if stuck is not None), None)
