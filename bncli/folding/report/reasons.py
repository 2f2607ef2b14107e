"""The sentences that say why a BN was kept: a cause and its data in, words out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bncli.folding.primitives.stuck import Cause, Stuck
from bncli.folding.report.names import activation, listed, names_of, operand, output_of
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.search.search import Impasse

# cause -> its sentence; `_Obstacle` fills in the words in braces.
SENTENCES: Mapping[Cause, str] = {
    Cause.ADDEND_BROADCAST: "it is added to a value that is broadcast over its channels",
    Cause.ADDEND_BY_EXAMPLE: "it is added to a constant that differs by example",
    Cause.ADDEND_UNSCALED: "it is added to {operand}, which does not have its scale",
    Cause.BARRIER_CONSTANT: "it is a constant behind an optimization barrier",
    Cause.BATCH_GROUPS: "its convolution is grouped over the batch",
    Cause.BROADCAST_AXIS: "it differs along an axis that a broadcast or a tiling makes",
    Cause.CHOICE_BY_POSITION: "a jnp.where chooses by position",
    Cause.CLIP: "a clip stands in the way",
    Cause.COARSE_ROUNDING: "a rounding to a narrow format such as float8 stands in the way",
    Cause.COMPARISON: "it is compared with another value",
    Cause.COMPARISON_OF_SIGN: "a comparison reads its sign, which would change",
    Cause.COMPUTED_KERNEL: "its convolution's kernel is computed from the input",
    Cause.CONSTANT_BY_EXAMPLE: "a constant beside it is as long as the batch",
    Cause.DIFFERENT_DEMANDS: "the readers of {value} ({readers}) need different scales",
    Cause.DIFFERS_BY_EXAMPLE: "its numbers would differ by example",
    Cause.DIVISION_BY_ZERO: "it divides by a value whose scale is zero",
    Cause.GATE: "a product of two values that depend on the input stands in the way (a gate, a GELU)",
    Cause.INDEXED: "an indexing (gather) stands in the way",
    Cause.INDEXED_AXIS: "it differs along an axis that is indexed at positions computed from the input",
    Cause.INTEGERS: "it is converted to integers",
    Cause.INTEGER_WEIGHT: "its weight is stored in integers",
    Cause.MAXIMUM_OF_TWO: "a maximum of two values stands in the way",
    Cause.MERGED_WITH_BATCH: "a reshape merges its channels with the batch",
    Cause.NETWORK_INPUT: "there is only the {whole}'s input",
    Cause.NETWORK_OUTPUT: "{value} is {also}an output of the {whole}",
    Cause.NOT_FINITE: "its numbers are not finite there",
    Cause.NOT_SELECTED: "it was not selected",
    Cause.NO_RULE: "{operation} {stands}",
    Cause.OTHER_READERS: "{value} is also read by {readers}",
    Cause.PADDED_WITH_COMPUTED: "it is padded with a value computed from the input",
    Cause.PADDED_WITH_INFINITY: "it is padded with an infinite value",
    Cause.PADDED_WITH_NONZERO: "it is padded with a value other than zero",
    Cause.POOLED_OVER_BATCH: "it is pooled over the batch",
    Cause.RELU: "a ReLU stands in the way",
    Cause.REPLACED: "it is replaced by another value in places",
    Cause.REPLACED_BY_CONSTANT: "it is replaced by a constant in places",
    Cause.SCALE_ALONG_BOTH_FACTORS: "its scale differs along the axes of both factors of a matrix product",
    Cause.SCALE_ALONG_PADDING: "its scale differs along a padded axis",
    Cause.SCALE_BY_POSITION: "its scale differs by position, and a convolution's kernel does not",
    Cause.SCALE_IN_WINDOW: "its scale differs within a pooling window",
    Cause.SHIFT_IN_WINDOW: "its shift differs within a max-pool's window",
    Cause.SYMBOLIC_SIZE: "its numbers would depend on a size that is a symbol",
    Cause.TWO_COMPUTED_FACTORS: "both factors of its matrix product depend on the input",
    Cause.UNKNOWN_PARAMETER: "{operation} has the parameter {parameter}, for which there is no fold rule",
}


def reason(network: EditedGraph, index: int, refusal: Stuck | Impasse) -> str:
    """The sentence about a kept chain, to be read after "kept, because"."""
    if isinstance(refusal, Stuck):
        return _Obstacle(network, index, refusal, backward=True).sentence()
    before = _Obstacle(network, index, refusal.before, backward=True).sentence()
    after = _Obstacle(network, index, refusal.after, backward=False).sentence()
    readers = names_of(network, refusal.readers)
    if len(readers) > 1:
        after = f"not all of its readers ({listed(readers)}) can absorb it: {after}"
    return f"before it, {before}; after it, {after}"


def statistics_reason(network: EditedGraph, index: int) -> str:
    """The sentence about a BN whose statistics go into an operation that is no multiply-add."""
    record, node = network.record(index), network.sites[index]
    if record.control_flow:
        return f"it is inside {record.words}, whose body is left as it is"
    parameter = record.unknown_parameter(node.params)
    if record.affine is not None and parameter is not None:
        stuck = Stuck(Cause.UNKNOWN_PARAMETER, index, parameter=parameter)
        return _Obstacle(network, index, stuck, backward=True).filled()
    return f"its statistics go into {node.name}, which is no multiply-add"


@dataclass(frozen=True)
class _Obstacle:
    """One obstacle on the way of a chain, with the words for its sentence."""

    network: EditedGraph
    index: int
    stuck: Stuck
    backward: bool

    def sentence(self) -> str:
        """The obstacle and its place. An activation that spans the obstacle is named as a whole."""
        spanning = self.activation()
        text = f"{spanning} stands in the way" if spanning else self.filled()
        if self.stuck.operation is None:
            return text
        place = self.network.place(self.stuck.operation)
        return f"{text} (in {place})" if place and place not in text else text

    def activation(self) -> str:
        """The activation that refuses the affine, or that reads the value twice; '' if there is none."""
        sites, stuck = self.network.sites, self.stuck
        if stuck.operation is not None:
            return activation(sites[stuck.operation])
        asking = {activation(sites[index]) for index, _ in stuck.asking} - {""}
        return min(asking) if asking & {activation(sites[index]) for index, _ in stuck.readers} else ""

    def filled(self) -> str:
        """The cause in words, without the place."""
        return SENTENCES[self.stuck.cause].format(
            also="also " if self.backward else "",
            operand=self.operand(),
            operation=self.operation(),
            parameter=repr(self.stuck.parameter),
            readers=listed(names_of(self.network, self.stuck.readers)),
            stands=self.stands(),
            value=self.value(),
            whole=self.network.whole,
        )

    def operand(self) -> str:
        """The operand concerned."""
        slot = self.stuck.operation, self.stuck.operand
        return "" if slot[0] is None or slot[1] is None else operand(self.network, (slot[0], slot[1]))

    def operation(self) -> str:
        """The kind of operation that refuses the affine."""
        index = self.stuck.operation
        return "" if index is None else self.network.record(index).words or self.network.sites[index].name

    def stands(self) -> str:
        """The part that an operation without a rule plays: its record, if it has one, knows it as an obstacle."""
        index = self.stuck.operation
        if index is None or not self.network.record(index).words:
            return "stands in the way, for which there is no fold rule"
        if self.network.record(index).control_flow:
            return "makes it" if self.backward else "reads it"
        return "stands in the way"

    def value(self) -> str:
        """The value concerned, and the part it plays for the BN if it is the BN's own input or output."""
        value = self.stuck.value
        if value is None:
            return ""
        chain = self.network.chains[self.index]
        if not self.backward and value == chain.output:
            return "its output"
        name = output_of(self.network, value)
        return f"its input, {name}," if self.backward and value == chain.source else name
