"""Runs of the recipe ``fast``: the whitening kernel is frozen, and neither a stop nor a stream changes a byte."""

import numpy as np
import pytest
from support.tiny import run_config, train

from bncli import checkpoint
from bncli.config.recipes import FAST, named_recipe
from bncli.errors import TrainingInterruptedError
from bncli.models.whitening import whitening_kernel
from bncli.training import run

# Everything that the recipe sets, by section.
SECTIONS = {}
for key, value in named_recipe(FAST, data="").settings.items():
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


def test_the_kernel_whitens_the_training_images_and_is_frozen(whole, dataset, tmp_path):
    kernel = whitening_kernel(dataset.train.images, 3, mean=dataset.mean, std=dataset.std)  # all of so few
    start = run.create_trainer(config(), dataset, tmp_path / "ckpt").state
    np.testing.assert_array_equal(start.params["whiten"]["kernel"], kernel)
    np.testing.assert_array_equal(start.ema["whiten"]["kernel"], kernel)
    saved = checkpoint.load_variables(whole.out, whole.best.step)["params"]
    np.testing.assert_array_equal(saved["whiten"]["kernel"], kernel)
    np.testing.assert_array_equal(saved["BatchNorm_0"]["scale"], 1)
    assert np.any(saved["BatchNorm_0"]["bias"] != 0)
    assert np.any(saved["Conv_0"]["kernel"] != start.params["Conv_0"]["kernel"])


@pytest.mark.parametrize("stop", [(1, 2), pytest.param((2, 1), marks=pytest.mark.broad)])
def test_a_run_that_is_stopped_resumes_to_the_same_bytes(whole, dataset, tmp_path, stop):
    with pytest.raises(TrainingInterruptedError):
        train(config(), dataset, tmp_path / "ckpt", stop_after=stop)
    assert train(config(), dataset, tmp_path / "ckpt", resume=True).sha256 == whole.sha256


@pytest.mark.broad
def test_a_streamed_run_is_the_run_in_memory(whole, dataset, tmp_path):
    assert train(config(), dataset.streamed(), tmp_path / "ckpt").sha256 == whole.sha256


def test_a_network_without_whitening_has_no_such_kernel(dataset, tmp_path):
    assert "whiten" not in run.create_trainer(run_config(), dataset, tmp_path / "ckpt").state.params
