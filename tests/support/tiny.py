"""The smallest real training runs: a data set that can be learnt, and networks of a few channels."""

from pathlib import Path
from typing import Any

import numpy as np

from bncli.config.settings import (
    DataConfig,
    FineTuneConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from bncli.data import Augmentation, Dataset, Split
from bncli.data.dataset import RawDataset, build_dataset
from bncli.training import assembly, run
from bncli.training.progress import StepProgress
from bncli.training.result import TrainResult

CLASS_NAMES = ("top", "middle", "bottom")
# With momentum 0.5, nothing is left of the initial running statistics after the dozen steps of such a run.
MLP: dict[str, Any] = {"name": "mlp", "args": {"features": [8]}, "bn_momentum": 0.5}
CNN: dict[str, Any] = {"name": "cnn", "args": {"features": [4]}, "bn_momentum": 0.5}
OPTIMIZER: dict[str, Any] = {"learning_rate": 0.05}
TRAINING: dict[str, Any] = {"epochs": 2, "batch_size": 32}


def make_split(num_examples: int, *, seed: int, size: int = 8, channels: int = 1) -> Split:
    """Noise with a bright band at a height that depends on the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_examples, dtype=np.int32) % len(CLASS_NAMES))
    images = rng.integers(0, 100, (num_examples, size, size, channels), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        start = int(label) * size // len(CLASS_NAMES)
        image[start : start + size // 3] += np.uint8(120)
    return Split(images, labels)


def make_dataset(*, seed: int = 0, num_train: int = 84) -> Dataset:
    """The bands. With 84 training images, two full batches of 32 would leave 20, so the last two are padded."""
    raw = RawDataset(
        name="bands",
        class_names=CLASS_NAMES,
        train=make_split(num_train, seed=seed),
        val=make_split(30, seed=seed + 1),
        test=make_split(24, seed=seed + 2),
        augmentation=Augmentation(max_shift=1),
        source="a test",
    )
    return build_dataset(raw, val_fraction=0.1, seed=0)


Section = dict[str, Any] | None


def run_config(
    *,
    model: Section = None,
    data: Section = None,
    optimizer: Section = None,
    training: Section = None,
    finetune: Section = None,
) -> RunConfig:
    """Two epochs of an ``mlp`` with one hidden layer, which compiles quickly, with changes section by section."""
    return RunConfig(
        model=ModelConfig(**MLP | (model or {})),
        data=DataConfig(**(data or {})),
        optimizer=OptimizerConfig(**OPTIMIZER | (optimizer or {})),
        training=TrainingConfig(**TRAINING | (training or {})),
        finetune=FineTuneConfig(**(finetune or {})),
    )


def train(
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    resume: bool = False,
    stop_after: tuple[int, int] | None = None,
) -> TrainResult:
    """Train as the command does, from the start or resumed, and return the result.

    Args:
        config: settings of the run.
        dataset: data to train on.
        out: directory of the checkpoint.
        resume: continue the run in ``out``.
        stop_after: (epoch, step); when this step is reported, request a stop.
    """
    trainer = assembly.create_trainer(config, dataset, out)
    if resume:
        run.resume(trainer)
    else:
        run.start(trainer, overwrite=False)
    epochs_before = trainer.progress.epochs_done
    for event in trainer.epochs():
        if isinstance(event, StepProgress) and (event.epoch, event.step) == stop_after:
            trainer.request_stop()
    return run.finish(trainer, epochs_before=epochs_before)
