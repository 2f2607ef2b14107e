"""The smallest real runs: a data set that can be learnt, a network of a few channels, and what trains it."""

import time

import numpy as np

from bncli.config.settings import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig
from bncli.data import Augmentation, Split
from bncli.data.dataset import RawDataset, build_dataset
from bncli.training import run
from bncli.training.progress import StepProgress

CLASS_NAMES = ("top", "middle", "bottom")
# Momentum 0.5: after the dozen steps of such a run nothing is left of the running statistics' start.
MLP = {"name": "mlp", "args": {"features": [8]}, "bn_momentum": 0.5}
CNN = {"name": "cnn", "args": {"features": [4]}, "bn_momentum": 0.5}


def make_split(num_examples, *, seed, size=8, channels=1):
    """Noise with a bright band, whose height in the image is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_examples, dtype=np.int32) % len(CLASS_NAMES))
    images = rng.integers(0, 100, (num_examples, size, size, channels), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        start = int(label) * size // len(CLASS_NAMES)
        image[start : start + size // 3] += np.uint8(120)
    return Split(images, labels)


def make_dataset(*, seed=0, num_train=84):
    """84 training images by default: two full batches of 32 would leave 20, so the last two are padded."""
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


def run_config(*, model=None, data=None, optimizer=None, training=None):
    """Two epochs of an ``mlp`` with one hidden layer, quick to compile, with changes section by section."""
    return RunConfig(
        model=ModelConfig(**MLP | (model or {})),
        data=DataConfig(**(data or {})),
        optimizer=OptimizerConfig(**{"learning_rate": 0.05} | (optimizer or {})),
        training=TrainingConfig(**{"epochs": 2, "batch_size": 32} | (training or {})),
    )


def train(config, dataset, out, *, resume=False, stop_after=None):
    """The result of a run, new or resumed, driven as the command drives it.

    Args:
        stop_after: (epoch, step): a stop is requested when this step is reported.
    """
    trainer = run.create_trainer(config, dataset, out)
    if resume:
        run.resume(trainer)
    else:
        run.start(trainer, overwrite=False)
    epochs_before = trainer.progress.epochs_done
    for event in trainer.epochs():
        if isinstance(event, StepProgress) and (event.epoch, event.step) == stop_after:
            trainer.request_stop()
    return run.finish(trainer, started=time.perf_counter(), epochs_before=epochs_before)
