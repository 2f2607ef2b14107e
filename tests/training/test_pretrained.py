"""A run from pretrained weights: it begins with them, and a resumed one is the same to the byte."""

import shutil

import numpy as np
import pytest
from support.breadth import broad
from support.tiny import CNN, make_dataset

import bncli
from bncli.errors import CheckpointError
from bncli.training.progress import StepProgress


class StoppedError(Exception):
    """Ends a run in the middle."""


def settings(weights, **training):
    return {
        "model": {"weights": str(weights)},
        "data": {"augment": False},
        "training": {"epochs": 2, "batch_size": 28, **training},
        "optimizer": {"learning_rate": 0.01},
    }


@pytest.fixture(scope="module")
def other():
    """Data of other pixels, with the same classes."""
    return make_dataset(seed=5)


def test_the_network_and_its_preprocessing_are_those_of_the_weights(trained, other, tmp_path):
    result = bncli.train(settings(trained.out, epochs=1), other, tmp_path / "ckpt")
    assert result.config.run.model.name == CNN["name"]
    assert result.config.preprocessing.mean == trained.config.preprocessing.mean
    assert result.config.weights.sha256 == result.weights.pretrained.record.sha256
    assert len(result.weights.taken) > 0
    assert result.weights.new == ()
    assert result.best.val_accuracy > 0.9  # an epoch alone does not get there


@pytest.mark.broad
@pytest.mark.parametrize("ema_decay", broad([None, 0.9], lambda decay: decay is not None))
def test_a_run_that_goes_on_needs_no_weights_and_ends_in_the_same_bytes(trained, other, tmp_path, ema_decay):
    weights = shutil.copytree(trained.out, tmp_path / "weights")
    whole = bncli.train(settings(weights, ema_decay=ema_decay), other, tmp_path / "whole")

    def stop(event):
        if isinstance(event, StepProgress) and event.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        bncli.train(settings(weights, ema_decay=ema_decay), other, tmp_path / "part", on_event=stop)
    shutil.rmtree(weights)
    resumed = bncli.train(settings(weights, ema_decay=ema_decay), other, tmp_path / "part", resume=True)
    assert resumed.sha256 == whole.sha256
    assert resumed.config.weights == whole.config.weights
    assert resumed.weights is None


def test_weights_that_have_changed_before_the_first_save_are_noticed(trained, other, tmp_path):
    def stop(event):
        raise StoppedError

    weights = shutil.copytree(trained.out, tmp_path / "weights")
    with pytest.raises(StoppedError):
        bncli.train(settings(weights), other, tmp_path / "part", on_event=stop)
    shutil.rmtree(tmp_path / "part" / "steps")
    shutil.rmtree(weights)
    bncli.train(settings(trained.out, epochs=1), other, weights)
    with pytest.raises(CheckpointError, match="has changed since the run in"):
        bncli.train(settings(weights), other, tmp_path / "part", resume=True)


def test_other_classes_get_a_new_head(trained, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=np.arange(60) % 4)
    result = bncli.train(settings(trained.out, epochs=1), tmp_path / "data.npz", tmp_path / "ckpt")
    assert {row.target for row in result.weights.new} == {"params/Dense_0/kernel", "params/Dense_0/bias"}
    assert bncli.load(tmp_path / "ckpt").variables["params"]["Dense_0"]["bias"].shape == (4,)


def test_a_network_of_the_old_padding_computes_what_it_did(dataset):
    """A ``config.json`` of an earlier version has no padding."""
    from bncli.config.settings import ModelConfig
    from bncli.models import build_network

    def module(**args):
        config = ModelConfig(name="resnet18", args=args)
        return build_network(config, num_classes=3, image_shape=(8, 8, 1)).module

    assert module() == module(padding="same")
    assert module() != module(padding="symmetric")
