"""Make a run's trainer from its settings and data, and the content of its ``config.json``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from bncli.config.document import CheckpointConfig, DatasetRecord, WeightsRecord
from bncli.config.options import options
from bncli.config.settings import RunConfig, TrainingConfig
from bncli.data import Dataset, Preprocessor, epoch_order, steps_per_epoch
from bncli.data.configured import augmentation_of
from bncli.errors import BncliWarning, ModelError, UsageError
from bncli.frameworks.network import Network, Variables
from bncli.measure.logits import count_classes
from bncli.models import (
    build_network,
    model_file_sha256,
    whitens_patches,
    with_given_numbers,
    with_local_statistics,
)
from bncli.process import distributed
from bncli.process.compilations import compilations
from bncli.process.hardware import versions
from bncli.process.mesh import check_batch_size, fitting_batch_size, make_mesh, put_whole
from bncli.process.phase_clock import PhaseClock
from bncli.training.divergence import first_non_finite
from bncli.training.evaluation import EvalProgram, Evaluation
from bncli.training.examples import Examples
from bncli.training.execution import StepExecution
from bncli.training.loop import Trainer
from bncli.training.micro_batches import Accumulation
from bncli.training.observation import IMAGES as OBSERVED_IMAGES
from bncli.training.observation import LayerObserver
from bncli.training.pretrained import starting_state
from bncli.training.programs import initial_state
from bncli.training.progress import Position, RunProgress
from bncli.training.recovery import Recovery
from bncli.training.run_log import RunLog
from bncli.training.saving import RunSaver
from bncli.training.state import TrainState
from bncli.training.statistics import BatchStatistics
from bncli.training.step_settings import StepSettings
from bncli.training.tuning import tuning_of
from bncli.training.watch import Guess, Watch
from bncli.training.whitening import whitened_state
from bncli.weights import Fitted, Pretrained, fitted

_PLACES = ("data.source", "data.data_dir")  # they may differ between machines


def create_trainer(
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    pretrained: Pretrained | None = None,
    compile_ahead: bool = False,
    clock: PhaseClock | None = None,
) -> Trainer:
    """Make a trainer at the start of its run; ``out`` is not touched yet.

    Args:
        config: the user's settings.
        dataset: to train on.
        out: the checkpoint directory.
        pretrained: the weights to start from; None starts from random ones.
        compile_ahead: compile the training step from now on, while a run does what comes before its first step; for a
            run that is known to make one.
        clock: of the run; None for one that starts now.

    Raises:
        UsageError: an unknown model, or a batch that does not divide over the devices.
        ModelError: the network does not fit the images or the classes.
        CheckpointError: the weights do not fit the network.
    """
    compilations().listen()
    clock = clock or PhaseClock()
    distributed.check_same(_facts(config, dataset))
    mesh = make_mesh()
    check_batch_size(config.training.batch_size, mesh)
    _warn_of_single_step(config.training, len(dataset.train), mesh)
    settings = step_settings(config, dataset, mesh)
    weights = _fitted(pretrained, settings, dataset)
    make_state = starting_state(partial(initial_state(settings), settings.seed), weights)
    if weights is None and whitens_patches(config.model):
        make_state = whitened_state(make_state, dataset.train, settings.preprocessor, seed=settings.seed)
    execution = StepExecution(
        settings,
        dataset.train,
        batch_size=config.training.step_size,
        mesh=mesh,
        deterministic=config.training.deterministic,
        workers=config.data.workers,
        clock=clock,
    )
    if config.data.workers and not execution.is_fed:
        message = (
            f"--workers {config.data.workers} has no effect: the images are kept in memory (--stream changes this)"
        )
        warnings.warn(message, BncliWarning, stacklevel=2)
    if compile_ahead and distributed.is_alone():  # else the processes would compile in different orders
        execution.compile_ahead()
    with clock.phase("compile"):
        state = make_state()
    _check_classes(settings, state.variables, dataset, name=config.model.name)
    evaluation = _evaluation(config, dataset, settings, state, mesh)
    saver = RunSaver(RunLog(out), config.training, evaluation.variables)
    return Trainer(
        config=config,
        dataset=dataset,
        execution=execution,
        evaluation=evaluation,
        saver=saver,
        recovery=Recovery(config, execution, saver, make_state, _find_cause(settings)),
        watch=_watch(config, dataset, settings),
        position=Position(state, RunProgress()),
        weights=weights,
        record=None if pretrained is None else pretrained.record,
        clock=clock,
    )


def _fitted(pretrained: Pretrained | None, settings: StepSettings, dataset: Dataset) -> Fitted | None:
    """The weights to start from, fitted to the network; None for a start from random ones."""
    if pretrained is None:
        return None
    return fitted(pretrained, initial_state(settings).shapes.variables, num_classes=dataset.num_classes)


def _facts(config: RunConfig, dataset: Dataset) -> dict[str, str]:
    """The facts that must be the same in all processes, for ``distributed.check_same``."""
    settings = {option: getattr(getattr(config, option.section), option.field) for option in options()}
    facts = {name: version for name, version in versions().items() if name in ("bncli", "flax", "jax", "jaxlib")}
    return {
        **{f"version of {name}": version for name, version in facts.items()},
        **{f"--{option.flag}": repr(value) for option, value in settings.items() if option.key not in _PLACES},
        "code of the model": model_file_sha256(config.model.name) or "",
        "data": dataset.sha256,
    }


def _warn_of_single_step(training: TrainingConfig, num_examples: int, mesh: jax.sharding.Mesh) -> None:
    batch_size = training.step_size
    if fitting_batch_size(batch_size, num_examples, mesh, parts=training.accumulate) != batch_size:
        times = f" × --accumulate {training.accumulate}" if training.accumulate > 1 else ""
        message = (
            f"--batch-size {training.batch_size}{times} is more than the {num_examples:,} training images: "
            "each epoch is one step on all of them"
        )
        warnings.warn(message, BncliWarning, stacklevel=2)


def _find_cause(settings: StepSettings) -> Callable[[TrainState, Examples], str]:
    """A function that names what in a step is not finite."""

    def find(state: TrainState, examples: Examples) -> str:
        epoch = int(state.step) // settings.steps_per_epoch
        return first_non_finite(settings.at_epoch(epoch), state, examples)

    return find


def _watch(config: RunConfig, dataset: Dataset, settings: StepSettings) -> Watch:
    guess = Guess.of_labels(dataset.train.labels, dataset.val.labels)
    return Watch(config, settings.steps_per_epoch, guess)


def step_settings(config: RunConfig, dataset: Dataset, mesh: jax.sharding.Mesh) -> StepSettings:
    """The settings of a run's training step, at its first epoch.

    Raises:
        UsageError: there is no such model, or options contradict each other.
        ModelError: the network does not fit the images, or the user's own cannot be built.
    """
    network = build_network(
        config.model,
        num_classes=len(dataset.class_names),
        image_shape=dataset.image_shape,
        precision=config.training.precision,
    )
    if config.training.bn_sync == "local":
        network = with_local_statistics(network, mesh.size, name=config.model.name)
    given, layers = with_given_numbers(network, name=config.model.name)
    settings = StepSettings(
        network=given,
        layers=layers,
        optimizer=config.optimizer,
        steps_per_epoch=steps_per_epoch(len(dataset.train), config.training.step_size),
        schedule_epochs=config.optimizer.schedule_epochs or config.training.epochs,
        preprocessor=Preprocessor.of_dataset(dataset, config.training.precision),
        augmentation=augmentation_of(config.data, dataset),
        seed=config.training.seed,
        ema_decay=config.training.ema_decay,
        tuning=tuning_of(config, network, dataset.image_shape),
        accumulation=_accumulation(config.training, mesh),
    )
    return settings.at_epoch(0)


def _accumulation(training: TrainingConfig, mesh: jax.sharding.Mesh) -> Accumulation | None:
    if training.accumulate == 1:
        return None
    if training.bn_sync == "local" and training.accumulate_bn == "exact":
        raise UsageError(
            "--bn-sync local: each device has statistics of its own, and --accumulate-bn exact those of all",
            remedy="Add --accumulate-bn micro.",
        )
    return Accumulation(
        steps=training.accumulate,
        bn=training.accumulate_bn,
        num_devices=mesh.size,
        unrolled=mesh.devices.flat[0].platform == "cpu",
    )


def _evaluation(
    config: RunConfig, dataset: Dataset, settings: StepSettings, state: TrainState, mesh: jax.sharding.Mesh
) -> Evaluation:
    network = settings.network
    return Evaluation(
        program=EvalProgram(network, settings.preprocessor),
        class_names=dataset.class_names,
        batch_size=config.training.batch_size,
        mesh=mesh,
        observe=LayerObserver(network, _observed_images(settings, dataset, mesh)),
        with_statistics=_batch_statistics(config, dataset, network, state.variables),
        precise=config.training.precise_bn and config.training.ema_decay is None,
        averages=config.training.ema_decay is not None,
    )


def _observed_images(settings: StepSettings, dataset: Dataset, mesh: jax.sharding.Mesh) -> jax.Array:
    """The training images that the layers are observed with, normalised and not augmented."""
    some = epoch_order(settings.seed, 0, len(dataset.train))[:OBSERVED_IMAGES]
    images: jax.Array = put_whole(settings.preprocessor.on_host(dataset.train.images[some]), mesh)
    return images


def _batch_statistics(config: RunConfig, dataset: Dataset, network: Network, variables: Variables) -> BatchStatistics:
    """The statistics of weights that have none.

    Raises:
        ModelError: a run with EMA, which needs them, has a BN layer in a loop, where they cannot be measured.
    """
    statistics = BatchStatistics(checkpoint_config(config, dataset), dataset, variables)
    if config.training.ema_decay is not None and variables["batch_stats"]:
        statistics.of(network)
    return statistics


def _check_classes(settings: StepSettings, variables: Variables, dataset: Dataset, *, name: str) -> None:
    """Raise ModelError unless the network makes one logit per class."""
    num_logits = count_classes(settings.network.logits, variables, settings.preprocessor.input_spec(2), name=name)
    if num_logits != dataset.num_classes:
        raise ModelError(
            f"{name} makes {num_logits} logits per image, and {dataset.name} has {dataset.num_classes} classes",
            remedy="Give its number of classes by --model-arg, or call the field num_classes.",
        )


def checkpoint_config(config: RunConfig, dataset: Dataset, weights: WeightsRecord | None = None) -> CheckpointConfig:
    """The content of a run's ``config.json``; ``weights`` are those that it began with."""
    return CheckpointConfig(
        run=config,
        preprocessing=Preprocessor.of_dataset(dataset, config.training.precision).settings,
        dataset=DatasetRecord(
            name=dataset.name,
            source=dataset.source,
            sha256=dataset.sha256,
            class_names=dataset.class_names,
            num_train=len(dataset.train),
            num_val=len(dataset.val),
            num_test=len(dataset.test),
        ),
        versions=versions(),
        model_sha256=model_file_sha256(config.model.name),
        weights=weights,
    )
