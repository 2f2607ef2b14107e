"""Runs of the recipe ``fast``: the whitening kernel is frozen, and neither a stop nor a stream changes a byte."""

import numpy as np
import pytest
from support.tiny import run_config, train

from bncli import checkpoint
from bncli.config.recipes import FAST, named_recipe
from bncli.data import Preprocessor
from bncli.errors import TrainingInterruptedError
from bncli.models.whitening import whitening_kernel
from bncli.training import assembly
from bncli.training.state import EpochMetrics, TrainState
from bncli.training.whitening import whitened_state

# Everything that the recipe sets, by section.
SECTIONS = {}
for key, value in named_recipe(FAST, {}).settings.items():
    SECTIONS.setdefault(key.split(".")[0], {})[key.split(".")[1]] = value


def config():
    """The recipe with few channels, for images of 8×8 pixels."""
    return run_config(
        model=SECTIONS["model"] | {"args": {"features": [4]}},
        data=SECTIONS["data"] | {"hflip": 0.5, "augment_shift": 1},
        optimizer=SECTIONS["optimizer"],
        training=SECTIONS["training"] | {"epochs": 2, "batch_size": 32},
        finetune=SECTIONS["finetune"],
    )


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    return train(config(), dataset, tmp_path_factory.mktemp("fast") / "ckpt")


def kernel_of(dataset):
    """All training images are looked at: they are few."""
    return whitening_kernel(dataset.train.images, 3, mean=dataset.mean, std=dataset.std)


def random_state(*, keep_ema):
    """A state with a whitening layer that does not whiten yet."""
    params = {"whiten": {"kernel": np.zeros((3, 3, 1, 18), np.float32)}, "Dense_0": {"kernel": np.ones((2, 2))}}
    return TrainState(
        step=np.int32(0),
        params=params,
        batch_stats={},
        opt_state=(),
        metrics=EpochMetrics.zero(),
        halted=np.bool_(False),
        rate_scale=np.float32(1),
        ema=params if keep_ema else {},
    )


@pytest.mark.parametrize("keep_ema", [True, False])
def test_the_kernel_of_the_training_images_takes_the_place_of_the_random_one(dataset, keep_ema):
    preprocessor = Preprocessor.of_dataset(dataset, "float32")
    before = random_state(keep_ema=keep_ema)
    after = whitened_state(lambda: before, dataset.train, preprocessor, seed=0)()
    for tree in (after.params, after.ema) if keep_ema else (after.params,):
        np.testing.assert_array_equal(tree["whiten"]["kernel"], kernel_of(dataset))
        assert tree["Dense_0"] is before.params["Dense_0"]
    assert bool(after.ema) == keep_ema


@pytest.mark.broad
def test_the_kernel_of_a_run_is_saved_as_it_was(whole, dataset, tmp_path):
    kernel = kernel_of(dataset)
    start = assembly.create_trainer(config(), dataset, tmp_path / "ckpt").state
    np.testing.assert_array_equal(start.params["whiten"]["kernel"], kernel)
    np.testing.assert_array_equal(start.ema["whiten"]["kernel"], kernel)
    saved = checkpoint.load_variables(whole.out, whole.best.step)["params"]
    np.testing.assert_array_equal(saved["whiten"]["kernel"], kernel)
    np.testing.assert_array_equal(saved["BatchNorm_0"]["scale"], 1)
    assert np.any(saved["BatchNorm_0"]["bias"] != 0)
    assert np.any(saved["Conv_0"]["kernel"] != start.params["Conv_0"]["kernel"])


@pytest.mark.broad
@pytest.mark.parametrize("stop", [(1, 2), (2, 1)])
def test_a_run_that_is_stopped_resumes_to_the_same_bytes(whole, dataset, tmp_path, stop):
    with pytest.raises(TrainingInterruptedError):
        train(config(), dataset, tmp_path / "ckpt", stop_after=stop)
    assert train(config(), dataset, tmp_path / "ckpt", resume=True).sha256 == whole.sha256


@pytest.mark.broad
def test_a_streamed_run_is_the_run_in_memory(whole, dataset, tmp_path):
    assert train(config(), dataset.streamed(), tmp_path / "ckpt").sha256 == whole.sha256


@pytest.mark.broad
def test_a_network_without_whitening_has_no_such_kernel(dataset, tmp_path):
    assert "whiten" not in assembly.create_trainer(run_config(), dataset, tmp_path / "ckpt").state.params
