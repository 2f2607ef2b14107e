"""A whole run: data, network and state, the loop, and the test split once at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from bncli import checkpoint
from bncli.config.settings import CheckpointConfig, DatasetRecord, RunConfig
from bncli.data import Augmentation, Dataset, Preprocessor, epoch_order, steps_per_epoch
from bncli.errors import CheckpointError, ModelError
from bncli.frameworks.linen import Network, Variables
from bncli.measure.batches import ImageBatches
from bncli.measure.eval_step import make_eval_step
from bncli.measure.logits import count_classes
from bncli.measure.population import BATCHES, batch_statistics_of, recalibrate_measured
from bncli.measure.score import EvalResult, score
from bncli.models import build_network, model_file_sha256
from bncli.process.flags import once_compiler_options
from bncli.process.hardware import versions
from bncli.process.mesh import check_batch_size, make_mesh, replicated
from bncli.training.divergence import first_not_finite
from bncli.training.execution import StepExecution
from bncli.training.loop import Trainer
from bncli.training.observation import IMAGES as OBSERVED_IMAGES
from bncli.training.observation import LayerObserver
from bncli.training.optimizer import create_learning_rate_fn, create_optimizer
from bncli.training.progress import Best, EpochResult
from bncli.training.saving import RunSaver, restore
from bncli.training.state import TrainState, create_train_state
from bncli.training.steps import StepSettings, make_train_step

# Batches of training images that the BN statistics of averaged parameters are taken from, after each epoch: at 128
# images 2 % of an epoch's time on CIFAR-10. `--precise-bn` takes more at the end.
EMA_BATCHES = 20


@dataclass(frozen=True)
class Hashes:
    """SHA-256 over the leaves of each part of the final state."""

    params: str
    batch_stats: str
    opt_state: str
    ema: str | None  # None where no moving average is kept


@dataclass(frozen=True)
class Seconds:
    """Where the run's wall time went; ``total`` includes loading data, compiling, saving and testing."""

    compile: float
    train: float
    total: float


@dataclass(frozen=True)
class PreciseStatistics:
    """What population statistics over ``num_examples`` training images did to the best epoch's validation scores."""

    num_examples: int
    val_accuracy: float
    val_loss: float


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        out: the checkpoint directory.
        epochs_run: epochs in the history, earlier runs' included.
        best: the epoch the test was scored on.
        precise: with ``--precise-bn``, what that came to.
        test: of the best epoch, on the test split; with its population statistics where it has them.
        images_per_second: of the training steps, mean over this run's epochs; None where there were none.
        seconds: this run's.
        sha256: of the last state.
        history: one row an epoch.
        stopped_early: whether patience ended the run.
        config: what was asked for, and what data and machine added: the content of ``config.json``.
    """

    out: Path
    epochs_run: int
    best: Best
    precise: PreciseStatistics | None
    test: EvalResult
    images_per_second: float | None
    seconds: Seconds
    sha256: Hashes
    history: tuple[EpochResult, ...]
    stopped_early: bool
    config: CheckpointConfig


def create_trainer(config: RunConfig, dataset: Dataset, out: Path, *, compile_ahead: bool = False) -> Trainer:
    """A trainer at the start of its run; ``out`` is not touched yet.

    Args:
        config: what the user asked for.
        dataset: that it trains on.
        out: the checkpoint directory.
        compile_ahead: whether the training step is compiled from now on, beside what else a run does before its first
            step; for a run that is known to make one.

    Raises:
        UsageError: an unknown model, or a batch that does not divide over the devices.
        ModelError: the network does not fit the images or the classes.
    """
    mesh = make_mesh()
    check_batch_size(config.training.batch_size, mesh)
    network = build_network(
        config.model,
        num_classes=len(dataset.class_names),
        image_shape=dataset.image_shape,
        precision=config.training.precision,
    )
    learning_rate = create_learning_rate_fn(
        config.optimizer,
        steps_per_epoch=steps_per_epoch(len(dataset.train), config.training.batch_size),
        epochs=config.training.epochs,
    )
    optimizer = create_optimizer(config.optimizer, learning_rate)
    preprocessor = Preprocessor.of_dataset(dataset, config.training.precision)
    settings = StepSettings(
        network=network,
        optimizer=optimizer,
        preprocessing=preprocessor.settings,
        augmentation=dataset.augmentation if config.data.augment else Augmentation.none(),
        label_smoothing=config.optimizer.label_smoothing,
        precision=config.training.precision,
        seed=config.training.seed,
        ema_decay=config.training.ema_decay,
    )
    eval_step = jax.jit(make_eval_step(lambda variables, images, mask: network.logits(variables, images), preprocessor))

    initial_state = jax.jit(
        lambda: create_train_state(
            network,
            optimizer,
            image_shape=dataset.image_shape,
            seed=config.training.seed,
            keep_ema=config.training.ema_decay is not None,
        ),
        compiler_options=once_compiler_options(),
    )
    execution = StepExecution(make_train_step(settings), training=config.training, dataset=dataset, mesh=mesh)
    traced = initial_state.trace()
    if compile_ahead:
        execution.compile_ahead(traced.out_info)
    state: TrainState = traced.lower().compile()()
    _check_classes(network, state.variables, preprocessor, dataset, name=config.model.name)
    return Trainer(
        config=config,
        dataset=dataset,
        out=out,
        mesh=mesh,
        execution=execution,
        eval_step=eval_step,
        learning_rate=learning_rate,
        network=network,
        observe=LayerObserver(network, _observed_images(preprocessor, dataset, mesh, seed=config.training.seed)),
        find_cause=partial(first_not_finite, settings),
        initial_state=initial_state,
        saver=RunSaver(out, config.training),
        averaged=_statistics_of_averages(config, dataset, network, state.variables),
        state=state,
    )


def _observed_images(preprocessor: Preprocessor, dataset: Dataset, mesh: jax.sharding.Mesh, *, seed: int) -> jax.Array:
    """The training images on which the layers are observed, normalized and not augmented."""
    some = epoch_order(seed, 0, len(dataset.train))[:OBSERVED_IMAGES]
    return preprocessor(jax.device_put(dataset.train.images[some], replicated(mesh)))


def _statistics_of_averages(
    config: RunConfig, dataset: Dataset, network: Network, variables: Variables
) -> Callable[[Variables], Variables]:
    """Gives averaged parameters the BN statistics that belong to them: those of some batches of training images.

    Averaged batch_stats would not do: they belong to the weights of each step, not to the average of the weights.
    """
    if not variables["batch_stats"]:
        return lambda variables: variables
    size = min(config.training.batch_size, len(dataset.train))
    batches = ImageBatches.training(
        checkpoint_config(config, dataset), dataset, num_batches=EMA_BATCHES, batch_size=size
    )
    return batch_statistics_of(network, dataset.image_shape, variables, batches)


def _check_classes(
    network: Network, variables: Variables, preprocessor: Preprocessor, dataset: Dataset, *, name: str
) -> None:
    """Raise ModelError unless the network makes one logit per class."""
    num_logits = count_classes(network.logits, variables, preprocessor.input_spec(2), name=name)
    if num_logits != dataset.num_classes:
        raise ModelError(
            f"{name} makes {num_logits} logits per image, and {dataset.name} has {dataset.num_classes} classes",
            remedy="Give its number of classes by --model-arg, or call the field num_classes.",
        )


def start(trainer: Trainer, *, overwrite: bool) -> None:
    """Makes the output directory ready for a new run and records the run's configuration there."""
    config = checkpoint_config(trainer.config, trainer.dataset)
    checkpoint.create_output(trainer.out, overwrite=overwrite, config=config)
    checkpoint.write_metrics(trainer.out, [])
    checkpoint.keep_layers(trainer.out, epochs=0)


def resume(trainer: Trainer) -> None:
    """Puts the trainer where the run in its output directory was last saved: at its start, where it never was.

    Raises:
        CheckpointError: no save that is not damaged, or the run was on other data or of another network.
    """
    stored = checkpoint.read_config(trainer.out)
    if stored.recalibrated is not None:
        raise CheckpointError(
            f"{trainer.out} was recalibrated and holds no training state",
            remedy=f"Resume what it was made of: --out {stored.recalibrated.checkpoint}.",
        )
    before = stored.dataset
    if before is None or before.sha256 != trainer.dataset.sha256:
        was = "not known" if before is None else f"{before.name} (SHA-256 {before.sha256[:12]}…)"
        raise CheckpointError(
            f"{trainer.out} was trained on other data: {was}, "
            f"now {trainer.dataset.name} ({trainer.dataset.sha256[:12]}…)",
            remedy="Resume with the same data, or train into another --out.",
        )
    checkpoint.sweep(trainer.out)
    if checkpoint.complete_steps(trainer.out):
        step = checkpoint.find_step(trainer.out, "last")
        state = jax.device_put(trainer.state, replicated(trainer.mesh))  # its shapes and places
        trainer.state, trainer.progress = restore(trainer.out, step, state)
        trainer.saver.last_step, trainer.saver.best = step, trainer.progress.best
    checkpoint.write_config(trainer.out, checkpoint_config(trainer.config, trainer.dataset))
    checkpoint.write_metrics(trainer.out, trainer.progress.to_json()["history"])
    checkpoint.keep_layers(trainer.out, epochs=trainer.progress.epochs_done)


def finish(trainer: Trainer, *, started: float, epochs_before: int) -> TrainResult:
    """Scores the test split on the best epoch; called once, after the last epoch.

    Args:
        trainer: at the end of its run.
        started: ``time.perf_counter()`` when the command began.
        epochs_before: epochs that earlier runs had done.
    """
    best = trainer.progress.best
    assert best is not None  # there is at least one epoch
    precise = _precise_statistics(trainer, best.step) if trainer.config.training.precise_bn else None
    test = score(
        trainer.eval_step,
        checkpoint.load_variables(trainer.out, best.step),
        trainer.dataset.test,
        class_names=trainer.dataset.class_names,
        batch_size=trainer.config.training.batch_size,
        mesh=trainer.mesh,
    )
    rates = [row.images_per_second for row in trainer.progress.history[epochs_before:]]
    return TrainResult(
        out=trainer.out,
        epochs_run=trainer.progress.epochs_done,
        best=best,
        precise=precise,
        test=test,
        images_per_second=sum(rates) / len(rates) if rates else None,
        seconds=Seconds(trainer.execution.compile_seconds, trainer.train_seconds, time.perf_counter() - started),
        sha256=Hashes(
            params=checkpoint.sha256_tree(trainer.state.params),
            batch_stats=checkpoint.sha256_tree(trainer.state.batch_stats),
            opt_state=checkpoint.sha256_tree(trainer.state.opt_state),
            ema=checkpoint.sha256_tree(trainer.state.ema) if trainer.state.ema else None,
        ),
        history=trainer.progress.history,
        stopped_early=trainer.stopped_early,
        config=checkpoint_config(trainer.config, trainer.dataset),
    )


def _precise_statistics(trainer: Trainer, step: int) -> PreciseStatistics | None:
    """Gives a save population statistics; None where the network has no BN."""
    variables = checkpoint.load_variables(trainer.out, step)
    if not variables.get("batch_stats"):
        return None
    config = checkpoint_config(trainer.config, trainer.dataset)
    batch_size = trainer.config.training.batch_size
    batches = ImageBatches.training(config, trainer.dataset, num_batches=BATCHES, batch_size=batch_size)
    done = recalibrate_measured(trainer.network.logits, variables, batches)
    checkpoint.save_precise_statistics(trainer.out, step, done.variables["batch_stats"])
    val = score(
        trainer.eval_step,
        done.variables,
        trainer.dataset.val,
        class_names=trainer.dataset.class_names,
        batch_size=batch_size,
        mesh=trainer.mesh,
    )
    return PreciseStatistics(done.num_examples, val.accuracy, val.loss)


def checkpoint_config(config: RunConfig, dataset: Dataset) -> CheckpointConfig:
    """What ``config.json`` says of a run."""
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
    )
