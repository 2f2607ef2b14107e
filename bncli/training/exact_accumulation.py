"""Gradient accumulation that is one large batch, BN statistics included.

A BN layer normalizes by the mean and variance over the whole batch, so all micro-batches must reach it before any goes
on. The network is cut at its BN layers (``segments``):

1. *Statistics.* Segment by segment, each micro-batch goes from one set of BN layers to the next and adds its moments.
   The values at some of these places are kept, for all micro-batches.
2. *Gradients.* From the last segment back, each micro-batch is computed again from what was kept, and differentiated.
   The gradient of the statistics is summed over the micro-batches before the segment that made them is reached::

       dL/ds = Σₖ ∂Lₖ/∂s    and then, in the segment before,    dL/dθ += Σₖ (∂mₖ/∂θ)ᵀ · dm,   dm = (∂s/∂m)ᵀ · dL/ds

The forward pass is done three times instead of once: about 1.7 times the operations of the one large batch. Of J
segments, the inputs of about 2√J are in memory for the whole batch, and all else for one micro-batch.

Letters: K micro-batches, B examples in one, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from bncli.errors import ModelError
from bncli.frameworks.linen import LinenNetwork, PartOfBatch
from bncli.frameworks.network import Network, Variables
from bncli.measure.moments import batch_norm_stats
from bncli.ops import GhostBatchNorm, Number, momentum_pair
from bncli.training.micro_batches import (
    Accumulation,
    Carry,
    Inputs,
    LossAndGrads,
    Losses,
    Micro,
    MicroBatches,
    Micros,
    Normalize,
    Tree,
    counted_sum,
    each,
    num_real,
)
from bncli.training.segments import Cut, Segment, cut

_REMEDY = "Take the usual approximation: --accumulate-bn micro."
Momentum: TypeAlias = tuple[Number, Number]  # (m, 1 − m)
Statistics: TypeAlias = tuple[jax.Array, jax.Array]  # mean and variance, or E[x] and E[x²]; [C] each


def make_exact(accumulation: Accumulation, network: Network, normalize: Normalize, losses: Losses) -> LossAndGrads:
    """The mean loss over a batch and its gradient, as of the whole batch; see ``make_accumulated``."""
    micro_batches = MicroBatches(accumulation)

    def loss_and_grads(
        params: Tree, batch_stats: Variables, inputs: Inputs
    ) -> tuple[tuple[jax.Array, tuple[jax.Array, Variables]], Tree]:
        micros = micro_batches.split(inputs)
        fixed = _Fixed(num_real(inputs), jax.random.key_data(inputs.dropout_key))
        function = _Forward(accumulation, network, normalize, losses, batch_stats, inputs.dropout_key)
        example = _described(micros[0] if isinstance(micros, list) else jax.tree.map(lambda x: x[0], micros))
        layers = function.layers(_described(params), example)
        statistics = {name: _statistics_in(batch_stats, name) for name in layers}
        parts = cut(function, _described(params), _described(statistics), _described(fixed), example)
        passes = _Passes(parts, params, statistics, fixed, micros, unrolled=accumulation.unrolled)
        measured = passes.forward()
        loss, logits = jax.tree.unflatten(parts.results, passes.results)
        new = _moved(batch_stats, measured, layers)
        return (loss, (micro_batches.joined(logits), new)), passes.backward()

    return loss_and_grads


class _Fixed(NamedTuple):
    """The inputs of all micro-batches that are not differentiated."""

    total: jax.Array  # float32 [], examples of the whole batch that count
    dropout_key: jax.Array  # uint32, the data of the key


@dataclass(frozen=True, eq=False)
class _Forward:
    """The forward pass of one micro-batch by given statistics, as ``segments.cut`` takes it."""

    accumulation: Accumulation
    network: Network
    normalize: Normalize
    losses: Losses
    batch_stats: Variables
    dropout_key: jax.Array

    def __call__(
        self, params: Tree, statistics: Mapping[str, Tree], fixed: _Fixed, micro: Micro
    ) -> tuple[dict[str, tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]]:
        """({layer: its part of E[x] and E[x²]}, (its part of the loss, logits))."""
        moments: dict[str, tuple[jax.Array, jax.Array]] = {}
        # Statistics of layers in eval mode are no argument: they are constants of the trace.
        batch_stats = _with_statistics(self.batch_stats, statistics)

        def look(norm: nn.BatchNorm, x: jax.Array) -> None:
            moments["/".join(norm.path)] = _moments(norm, x, micro.mask, fixed.total, self.accumulation.steps)

        logits = self._logits(params, batch_stats, fixed, micro, look)
        return moments, (counted_sum(self.losses(logits, micro.labels), micro.mask) / fixed.total, logits)

    def layers(self, params: Tree, micro: Micro) -> dict[str, Momentum]:
        """The momentum m of each BN layer whose statistics are those of the batch, as (m, 1 − m).

        Raises:
            ModelError: such a layer cannot be measured.
        """
        found: dict[str, Momentum] = {}
        given = self.network.given if isinstance(self.network, LinenNetwork) else None

        def look(norm: nn.BatchNorm, x: jax.Array) -> None:
            name = "/".join(norm.path)
            if name in found:
                raise _refusal(name, "is called twice, each time with other statistics")
            if isinstance(norm, GhostBatchNorm):
                raise _refusal(name, "normalizes over parts of a batch (ghost BN)")
            found[name] = momentum_pair(norm.momentum, given)

        def trace(params: Tree, micro: Micro) -> jax.Array:
            fixed = _Fixed(jnp.ones(()), jax.random.key_data(jax.random.key(0, impl=self._implementation)))
            return self._logits(params, self.batch_stats, fixed, micro, look)

        jax.eval_shape(trace, params, micro)
        _check_all_known(self.batch_stats, {*found, *self.network.frozen})
        return found

    @property
    def _implementation(self) -> str:
        return str(jax.random.key_impl(self.dropout_key))

    def _logits(
        self,
        params: Tree,
        batch_stats: Variables,
        fixed: _Fixed,
        micro: Micro,
        look: Callable[[nn.BatchNorm, jax.Array], None],
    ) -> jax.Array:
        if not isinstance(self.network, LinenNetwork):
            raise ModelError(
                "--accumulate: the BN statistics of all micro-batches together need a network of flax.linen",
                remedy=_REMEDY,
            )
        size = micro.images.shape[0]
        part = PartOfBatch(
            size=size,
            batch_size=size * self.accumulation.steps,
            look=look,
            rows=lambda x: MicroBatches(self.accumulation).rows(x, micro.number),
            hide=_refuse_hidden,
        )
        return self.network.logits_by_given_stats(
            {"params": params, "batch_stats": batch_stats},
            self.normalize(micro.images),
            part,
            dropout_key=jax.random.wrap_key_data(fixed.dropout_key, impl=self._implementation),
        )


def _refuse_hidden(norm: nn.BatchNorm) -> None:
    raise _refusal("/".join(norm.path), "is inside a loop or another transformation (nn.scan, nn.remat, nn.vmap)")


def _refusal(layer: str, reason: str) -> ModelError:
    return ModelError(f"--accumulate: {layer} {reason}, so its statistics cannot be those of all", remedy=_REMEDY)


def _check_all_known(batch_stats: Variables, layers: set[str]) -> None:
    """Raise ModelError if something other than ``nn.BatchNorm`` keeps statistics."""
    for keys, _ in jax.tree_util.tree_leaves_with_path(batch_stats):
        owner = jax.tree_util.keystr(keys[:-1], simple=True, separator="/")
        if owner not in layers:
            raise _refusal(owner, "keeps statistics and is no flax.linen.BatchNorm, or is in eval mode")


def _moments(
    norm: nn.BatchNorm, x: jax.Array, mask: jax.Array | None, total: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
    """The part of a micro-batch in E[x] and E[x²] over the whole batch, [C] each."""
    given = (norm.axis,) if isinstance(norm.axis, int) else tuple(norm.axis)
    features = {axis % x.ndim for axis in given}
    axes = tuple(axis for axis in range(x.ndim) if axis not in features)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    values = math.prod(x.shape[axis] for axis in axes)
    # Under vmap or after a reshape, BN may see another leading axis; the mask does not apply to that.
    if mask is None or mask.shape[0] != x.shape[0]:
        return wide.sum(axes) / (values * steps), (wide * wide).sum(axes) / (values * steps)
    weights = mask.reshape(-1, *[1] * (x.ndim - 1)).astype(wide.dtype)
    count = total * (values // x.shape[0])
    return (wide * weights).sum(axes) / count, (wide * wide * weights).sum(axes) / count


def _variance(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, variance) from E[x] and E[x²]; like nn.BatchNorm, which clips what rounding makes negative."""
    return first, jnp.maximum(0.0, second - first * first)


class _Passes:
    """The forward and the backward pass over all micro-batches.

    Attributes:
        results: sums over the micro-batches of the loss, and the logits of each, as leaves; after ``forward``.
    """

    def __init__(
        self, parts: Cut, params: Tree, statistics: Mapping[str, Tree], fixed: _Fixed, micros: Micros, *, unrolled: bool
    ) -> None:
        self.results: list[Tree] = []
        self._cut = parts
        self._unrolled = unrolled
        self._micros = _leaves(micros)
        self._params, self._params_tree = jax.tree.flatten(params)
        self._fixed = jax.tree.leaves(fixed)
        self._statistics: dict[str, Statistics] = {
            name: jax.tree.map(jnp.zeros_like, pair) for name, pair in statistics.items()
        }
        self._moments: dict[str, Statistics] = {}
        self._stride = max(1, math.isqrt(len(parts.segments)))
        self._kept: dict[int, Tree] = {}  # segment -> the values that enter it, of all micro-batches

    def forward(self) -> Mapping[str, Statistics]:
        """The statistics of each layer over the whole batch."""
        entering: Tree = [[] for _ in self._micros] if self._unrolled else []
        for number, segment in enumerate(self._cut.segments):
            if number % self._stride == 0:
                self._kept[number] = entering
            entering, sums, logits = self._run(segment, entering)
            for layer, first in zip(self._cut.layers[number], _layer_places(segment, self._cut), strict=True):
                self._moments[layer] = (sums[first], sums[first + 1])
                self._statistics[layer] = _variance(*self._moments[layer])
            self._collect(segment, sums, logits)
        return self._statistics

    def backward(self) -> Tree:
        """The gradient of the loss with respect to the parameters."""
        gradients = [jnp.zeros_like(array) for array in (*self._params, *self._flat_statistics())]
        leaving: Tree = [[] for _ in self._micros] if self._unrolled else []  # gradients of the values that leave
        for first in reversed(range(0, len(self._cut.segments), self._stride)):
            numbers = range(first, min(first + self._stride, len(self._cut.segments)))
            entering = self._recomputed(numbers)
            for number in reversed(numbers):
                gradients, leaving = self._differentiate(number, entering[number], leaving, gradients)
        return jax.tree.unflatten(self._params_tree, gradients[: len(self._params)])

    def _run(self, segment: Segment, entering: Tree) -> tuple[Tree, dict[int, jax.Array], Tree]:
        """(the values that leave, the sums of moments and loss by place, the logits of each micro-batch)."""
        shared = self._shared(segment)
        summed = [place for place in segment.places if place != self._logits_place]

        def one(sums: list[jax.Array], values: Tree) -> tuple[list[jax.Array], Tree]:
            leaving, results = segment.run(shared, *values)
            by_place = dict(zip(segment.places, results, strict=True))
            sums = [total + by_place[place] for total, place in zip(sums, summed, strict=True)]
            return sums, (leaving, by_place.get(self._logits_place, ()))

        shapes = jax.eval_shape(lambda values: segment.run(shared, *values)[1], self._first((self._micros, entering)))
        zeros = [
            jnp.zeros(shape.shape, shape.dtype)
            for shape, place in zip(shapes, segment.places, strict=True)
            if place in summed
        ]
        sums, made = self._loop(one, zeros, (self._micros, entering))
        leaving, logits = _unzipped(made) if self._unrolled else made
        return leaving, dict(zip(summed, sums, strict=True)), logits

    def _collect(self, segment: Segment, sums: Mapping[int, jax.Array], logits: Tree) -> None:
        for place in segment.places:
            if place == self._logits_place:
                self.results.append(logits)
            elif place == self._logits_place - 1:
                self.results.append(sums[place])

    @property
    def _logits_place(self) -> int:
        """The place of the logits among the outputs: after the moments and the loss."""
        return 2 * len(self._cut.names) + 1

    def _recomputed(self, numbers: range) -> dict[int, Tree]:
        """The values that enter some consecutive segments, computed again from those that were kept."""
        # Behind a barrier, or XLA keeps the values of the first time instead of computing them again.
        found = {numbers[0]: lax.optimization_barrier(self._kept.pop(numbers[0]))}
        for number in numbers[:-1]:
            found[number + 1] = self._run(self._cut.segments[number], found[number])[0]
        return found

    def _differentiate(
        self, number: int, entering: Tree, leaving: Tree, gradients: list[jax.Array]
    ) -> tuple[list[jax.Array], Tree]:
        """(the gradients with those of one segment added, the gradients of the values that enter it)."""
        segment = self._cut.segments[number]
        shared = self._shared(segment)
        to_results = self._gradients_of_results(segment, gradients)
        trained = [i for i, place in enumerate(segment.reads) if place < len(gradients)]

        def one(sums: list[jax.Array], values: Tree) -> tuple[list[jax.Array], Tree]:
            micro, entered, to_leaving = values

            def run(own: list[jax.Array], floats: list[jax.Array]) -> tuple[Tree, Tree]:
                arguments = list(shared)
                for place, array in zip(trained, own, strict=True):
                    arguments[place] = array
                left, results = segment.run(arguments, micro, _merged(entered, floats))
                by_place = dict(zip(segment.places, results, strict=True))
                return _floats(left), [by_place[place] for place in to_results]

            _, pullback = jax.vjp(run, [shared[i] for i in trained], _floats(entered))
            to_own, to_entered = pullback((to_leaving, list(to_results.values())))
            return [total + new for total, new in zip(sums, to_own, strict=True)], to_entered

        own = [gradients[segment.reads[i]] for i in trained]
        own, to_entering = self._loop(one, own, (lax.optimization_barrier(self._micros), entering, leaving))
        for i, gradient in zip(trained, own, strict=True):
            gradients[segment.reads[i]] = gradient
        return gradients, to_entering

    def _gradients_of_results(self, segment: Segment, gradients: list[jax.Array]) -> dict[int, jax.Array]:
        """The gradient of each moment and of the loss that a segment computes, by place."""
        found: dict[int, jax.Array] = {}
        for first in _layer_places(segment, self._cut):
            layer = self._cut.names[first // 2]
            _, pullback = jax.vjp(_variance, *self._moments[layer])
            place = len(self._params) + first
            found[first], found[first + 1] = pullback((gradients[place], gradients[place + 1]))
        loss = self._logits_place - 1
        if loss in segment.places:
            found[loss] = jnp.ones_like(self.results[0])
        return found

    def _shared(self, segment: Segment) -> list[jax.Array]:
        everything = [*self._params, *self._flat_statistics(), *self._fixed]
        return [everything[place] for place in segment.reads]

    def _flat_statistics(self) -> list[jax.Array]:
        return [array for name in self._cut.names for array in self._statistics[name]]

    def _first(self, values: tuple[Tree, ...]) -> Tree:
        """The values of the first micro-batch."""
        if self._unrolled:
            return tuple(part[0] for part in values)
        return jax.tree.map(lambda x: x[0], values)

    def _loop(self, one: Callable[[Carry, Tree], tuple[Carry, Tree]], carry: Carry, values: Tree) -> tuple[Carry, Tree]:
        together = list(zip(*values, strict=True)) if self._unrolled else values
        return each(one, carry, together, unrolled=self._unrolled)


def _layer_places(segment: Segment, parts: Cut) -> list[int]:
    """The places of the first moments that a segment computes."""
    return [place for place in segment.places if place < 2 * len(parts.names) and place % 2 == 0]


def _leaves(micros: Micros) -> Tree:
    return [jax.tree.leaves(micro) for micro in micros] if isinstance(micros, list) else jax.tree.leaves(micros)


def _unzipped(pairs: Sequence[tuple[Tree, Tree]]) -> tuple[list[Tree], list[Tree]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def _floats(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays that have a gradient."""
    return [array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact)]


def _merged(arrays: Sequence[jax.Array], floats: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays with others in place of those that have a gradient."""
    others = iter(floats)
    return [next(others) if jnp.issubdtype(array.dtype, jnp.inexact) else array for array in arrays]


def _described(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _statistics_in(batch_stats: Variables, layer: str) -> tuple[jax.Array, jax.Array]:
    """The running mean and variance of a layer."""
    stats = batch_norm_stats(batch_stats, layer)
    return stats["mean"], stats["var"]


def _with_statistics(batch_stats: Variables, statistics: Mapping[str, Sequence[jax.Array]]) -> Variables:
    """The batch_stats with these means and variances."""
    flat = traverse_util.flatten_dict(dict(batch_stats))
    for layer, (mean, var) in statistics.items():
        path = layer.split("/") if layer else ()
        flat[*path, "mean"], flat[*path, "var"] = mean, var
    nested: Variables = traverse_util.unflatten_dict(flat)
    return nested


def _moved(
    batch_stats: Variables, measured: Mapping[str, tuple[jax.Array, jax.Array]], momentum: Mapping[str, Momentum]
) -> Variables:
    """The running statistics one step closer to the measured ones."""
    moved = {
        layer: [
            momentum[layer][0] * old + momentum[layer][1] * new
            for old, new in zip(_statistics_in(batch_stats, layer), statistics, strict=True)
        ]
        for layer, statistics in measured.items()
    }
    return _with_statistics(batch_stats, moved)
