"""The evaluation of a run: which variables of its state are scored and saved, on which batches, looking at what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from bncli.data import Preprocessor, Split
from bncli.data.augment import normalize
from bncli.frameworks.network import Network, Variables
from bncli.measure.eval_step import EvalStep, ExampleOutcome, LogitsFn, make_eval_step
from bncli.measure.score import EvalResult, score
from bncli.process import distributed
from bncli.process.flags import jit_inference
from bncli.process.mesh import put_whole
from bncli.process.shared_programs import shared
from bncli.training.observation import LayerObserver, LayerRow
from bncli.training.state import ArrayTree, TrainState
from bncli.training.steps import all_finite

Pixels: TypeAlias = tuple[jax.Array, jax.Array]  # mean and std, float32 [C] each
PixelStep: TypeAlias = Callable[[Pixels, Variables, jax.Array, jax.Array, jax.Array], ExampleOutcome]


class EvalProgram(NamedTuple):
    """The network of an evaluation step, and the preprocessor, whose mean and std are arguments of its program."""

    network: Network
    preprocessor: Preprocessor

    @property
    def neutral(self) -> EvalProgram:
        """Everything that the compiled step depends on: equal ones share a program."""
        return self._replace(preprocessor=self.preprocessor.neutral)

    @property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std of the images."""
        settings = self.preprocessor.settings
        return np.array(settings.mean, np.float32), np.array(settings.std, np.float32)


@shared
def jitted_eval_step(program: EvalProgram) -> PixelStep:
    """The evaluation step of a network in eval mode, jitted."""
    return _jitted(program, lambda variables, images, mask: program.network.logits(variables, images))


@shared
def jitted_eval_step_by_batch(program: EvalProgram) -> PixelStep:
    """The same where each BN normalizes by the statistics of the batch."""
    network = program.network
    return _jitted(program, lambda variables, images, mask: network.logits_by_batch_stats(variables, images, mask=mask))


def _jitted(program: EvalProgram, logits_fn: LogitsFn) -> PixelStep:
    precision, dtype = program.preprocessor.precision, program.preprocessor.dtype

    def eval_step(
        pixels: Pixels, variables: Variables, images: jax.Array, labels: jax.Array, mask: jax.Array
    ) -> ExampleOutcome:
        step = make_eval_step(logits_fn, lambda images: normalize(images, *pixels, dtype=dtype))
        return step(variables, images, labels, mask)

    jitted: PixelStep = distributed.InStep(jit_inference(eval_step, precision))
    return jitted


@dataclass
class Evaluation:
    """Scores the network of a run.

    Attributes:
        program: of the evaluation step.
        class_names: [K].
        batch_size: examples per evaluation step.
        mesh: the devices.
        observe: reads the layers.
        with_statistics: gives weights of a network the BN statistics that belong to them, from some batches of training
            images; frozen layers keep theirs.
        precise: True if the best epoch gets such statistics at the end, so that epochs are compared with them.
        averages: True if moving averages of the weights are scored, which have no statistics of their own.
    """

    program: EvalProgram
    class_names: tuple[str, ...]
    batch_size: int
    mesh: jax.sharding.Mesh
    observe: LayerObserver
    with_statistics: Callable[[Network, Variables], Variables]
    precise: bool = False
    averages: bool = False
    _averaged: tuple[ArrayTree, Variables] | None = None  # the last moving average, and the variables made of it

    def follow(self, network: Network) -> None:
        """Score this network from now on: which BN layers are frozen may change with the epoch."""
        if network != self.program.network:
            self.program = self.program._replace(network=network)
            self.observe = self.observe.following(network)
            self.__dict__.pop("_eval_step_by_batch", None)

    def variables(self, state: TrainState) -> Variables:
        """The variables that a state is scored and saved by: the trained ones or, with EMA, the averaged ones."""
        if not state.ema:
            return state.variables
        if self._averaged is None or self._averaged[0] is not state.ema:
            self._averaged = state.ema, self._average(state)
        return self._averaged[1]

    def validate(self, variables: Variables, split: Split) -> EvalResult:
        """The result on the validation split by which epochs are compared, with the statistics that will be used."""
        return self.score(self._measured(variables) if self.precise else variables, split)

    def validate_anew(self, variables: Variables, split: Split) -> EvalResult:
        """The same with statistics taken anew from training images."""
        return self.score(self._measured(variables), split)

    def score(self, variables: Variables, split: Split) -> EvalResult:
        """The result of the network with these variables on a whole split."""
        return self._score(self.eval_step, variables, split)

    def score_by_batch(self, variables: Variables, split: Split) -> EvalResult:
        """The same where each BN normalizes by the statistics of the batch."""
        return self._score(self._eval_step_by_batch, variables, split)

    @property
    def measures(self) -> bool:
        """True if the validation scores are with measured statistics in every epoch: with EMA and ``--precise-bn``."""
        return self.precise or self.averages

    @cached_property
    def eval_step(self) -> EvalStep:
        """The evaluation step; kept, since a program that cannot be hashed would be compiled anew at each call."""
        unfrozen = replace(self.program.network, frozen=frozenset())
        return self._bound(jitted_eval_step(self.program.neutral._replace(network=unfrozen)))

    @cached_property
    def _eval_step_by_batch(self) -> EvalStep:
        return self._bound(jitted_eval_step_by_batch(self.program.neutral))

    def _bound(self, step: PixelStep) -> EvalStep:
        """A step with the mean and std of the run."""
        pixels: Pixels = put_whole(self.program.pixels, self.mesh)
        return partial(step, pixels)

    def _score(self, eval_step: EvalStep, variables: Variables, split: Split) -> EvalResult:
        return score(
            eval_step,
            variables,
            split,
            class_names=self.class_names,
            batch_size=self.batch_size,
            mesh=self.mesh,
        )

    def layers(self, variables: Variables) -> list[LayerRow]:
        """One row for each layer, in the order of the forward pass."""
        return self.observe(variables)

    def _average(self, state: TrainState) -> Variables:
        return self._measured({"batch_stats": state.batch_stats, "params": state.ema})

    def _measured(self, variables: Variables) -> Variables:
        with np.errstate(over="ignore", invalid="ignore"):
            measured = self.with_statistics(self.program.network, variables)
        # Weights on their way to infinity have statistics beyond it, which no save may hold.
        return measured if bool(_are_finite(measured)) else variables


_are_finite = jax.jit(all_finite)  # one program, where its operations one by one would be a dozen
