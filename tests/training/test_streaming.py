"""A streamed training is the training in memory: the same bytes, stopped and resumed too."""

import pytest
from support.tiny import CNN, run_config, train

from bncli import checkpoint
from bncli.errors import BncliWarning, TrainingInterruptedError
from bncli.training import assembly

pytestmark = pytest.mark.optimised


def config(*, epochs=2, workers=0, batch_size=16):
    """Augmentation, dropout and a padded batch at the end of each epoch."""
    return run_config(
        model={**CNN, "dropout": 0.2},
        data={"workers": workers},
        training={"epochs": epochs, "batch_size": batch_size},
        optimizer={"schedule_epochs": 2},
    )


@pytest.fixture(scope="module")
def in_memory(dataset, tmp_path_factory):
    return train(config(), dataset, tmp_path_factory.mktemp("memory") / "ckpt")


@pytest.mark.broad
@pytest.mark.parametrize(
    "workers", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_streamed_images_train_the_same_bytes(in_memory, dataset, tmp_path, workers):
    streamed = train(config(workers=workers), dataset.streamed(), tmp_path / "ckpt")
    assert streamed.sha256 == in_memory.sha256
    assert streamed.test.predictions_sha256 == in_memory.test.predictions_sha256


EVERYTHING = {
    "random_resized_crop": 0.3,
    "hflip": 0.5,
    "color_jitter": 0.4,
    "randaugment": 1,
    "random_erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
}


@pytest.mark.slow
def test_every_augmentation_is_the_same_streamed_or_not(dataset, tmp_path):
    settings = run_config(data=EVERYTHING, training={"epochs": 1})
    kept = train(settings, dataset, tmp_path / "kept")
    streamed = train(settings, dataset.streamed(), tmp_path / "streamed")
    assert streamed.sha256 == kept.sha256


def test_a_streamed_training_resumes_at_its_step_in_memory_or_not(in_memory, dataset, tmp_path):
    out = tmp_path / "ckpt"
    with pytest.raises(TrainingInterruptedError):
        train(config(), dataset.streamed(), out, stop_after=(2, 1))
    assert checkpoint.complete_steps(out)
    resumed = train(config(), dataset.streamed(), out, resume=True)
    assert resumed.sha256 == in_memory.sha256


def test_workers_without_a_stream_are_noted(dataset, tmp_path):
    with pytest.warns(BncliWarning, match=r"--workers 1 has no effect: the images are kept in memory"):
        assembly.create_trainer(config(workers=1), dataset, tmp_path)
