"""A step that is not finite: its cause is named, it never reaches the state, and ``--on-nan`` decides what follows."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest
from support.tiny import run_config, train

from bncli import checkpoint
from bncli.errors import BncliError
from bncli.training import assembly, run
from bncli.training.progress import EpochResult, Notice
from bncli.training.recovery import MAX_ROLLBACKS, MAX_SKIPPED_IN_A_ROW


def config_of(*, on_nan="stop", optimizer=None, model=None, **training):
    """6 steps an epoch."""
    return run_config(
        model=model,
        data={"augment": False},
        optimizer={"schedule": "constant", "warmup_epochs": 0} | (optimizer or {}),
        training={"epochs": 3, "batch_size": 14, "on_nan": on_nan} | training,
    )


def events_of(config, dataset, out):
    """(notices, epochs) of a run, and the error that ended it, or None."""
    trainer = assembly.create_trainer(config, dataset, out)
    run.start(trainer, overwrite=False)
    notices, epochs = [], []
    try:
        for event in trainer.epochs():
            notices += [event.message] if isinstance(event, Notice) else []
            epochs += [event] if isinstance(event, EpochResult) else []
    except BncliError as error:
        return trainer, notices, epochs, error
    return trainer, notices, epochs, None


def all_on_disk_is_finite(out):
    steps = checkpoint.complete_steps(out)
    for step in steps:
        leaves = jax.tree.leaves(checkpoint.load_variables(out, step))
        assert all(np.all(np.isfinite(leaf)) for leaf in leaves), step
    return bool(steps) and checkpoint.load(out, step="last").step == steps[-1]


EXPLODING = {"learning_rate": 1e38}


@pytest.mark.sample(1)
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_an_exploding_learning_rate_stops_with_the_state_before_it(dataset, tmp_path, ema_decay):
    config = config_of(optimizer=EXPLODING, ema_decay=ema_decay)
    trainer, notices, epochs, error = events_of(config, dataset, tmp_path / "ckpt")
    assert "is not finite: the training has diverged." in error.message
    assert error.message.startswith("step ")
    step = int(trainer.state.step)
    assert error.message.startswith(f"step {step + 1} (epoch 1): ")
    assert f"The save of step {step} holds the state before it." in error.message
    assert "--learning-rate (it was 1e+38)" in error.remedy
    assert (notices, epochs) == ([], [])
    assert all_on_disk_is_finite(tmp_path / "ckpt")


def test_skipped_steps_are_bounded(dataset, tmp_path):
    config = config_of(on_nan="skip", optimizer=EXPLODING, epochs=9)
    trainer, notices, _, error = events_of(config, dataset, tmp_path / "ckpt")
    assert sum(notice.endswith("; step skipped") for notice in notices) == MAX_SKIPPED_IN_A_ROW
    assert "has diverged" in error.message
    assert trainer.progress.skipped[-MAX_SKIPPED_IN_A_ROW:] == tuple(
        range(trainer.progress.skipped[0], trainer.progress.skipped[0] + MAX_SKIPPED_IN_A_ROW)
    )
    assert all_on_disk_is_finite(tmp_path / "ckpt")


def test_going_back_halves_the_learning_rate_and_is_bounded(dataset, tmp_path):
    config = config_of(on_nan="rollback", optimizer=EXPLODING)
    trainer, notices, _, error = events_of(config, dataset, tmp_path / "ckpt")
    assert [notice.split("; ")[1] for notice in notices] == [
        f"back to the start, learning rate × {0.5**n:g}" for n in range(1, MAX_ROLLBACKS + 1)
    ]
    assert "has diverged" in error.message
    assert float(trainer.state.rate_scale) == 0.5**MAX_ROLLBACKS
    assert all_on_disk_is_finite(tmp_path / "ckpt")


@pytest.fixture
def inf_pixel(dataset):
    """Data with one infinite pixel."""
    images = dataset.train.images.astype(np.float32)
    images[5, 3, 3, 0] = np.inf
    train = copy.copy(dataset.train)
    object.__setattr__(train, "images", images)  # no reader makes such a split: pixels are bytes
    return replace(dataset, train=train)


@pytest.mark.parametrize(("on_nan", "told"), [("stop", 0), ("rollback", MAX_ROLLBACKS)])
def test_an_infinite_pixel_is_named_by_the_first_layer_that_it_reaches(inf_pixel, tmp_path, on_nan, told):
    _, notices, epochs, error = events_of(config_of(on_nan=on_nan), inf_pixel, tmp_path / "ckpt")
    assert all(": the output of Dense_0 is not finite" in message for message in (*notices, error.message))
    assert all_on_disk_is_finite(tmp_path / "ckpt")
    assert (len(notices), epochs) == (told, [])  # the pixel is still there, however often the run goes back


def test_the_step_with_an_infinite_pixel_is_skipped_and_the_run_is_the_same_each_time(inf_pixel, tmp_path):
    runs = [events_of(config_of(on_nan="skip"), inf_pixel, tmp_path / name) for name in ("a", "b")]
    for trainer, notices, epochs, error in runs:
        assert error is None
        assert len(notices) == len(trainer.progress.skipped) == 3  # once an epoch
        assert len(epochs) == 3
        assert all(np.isfinite(row.train_loss) for row in epochs)
    hashes = [checkpoint.sha256_tree(trainer.state.params) for trainer, *_ in runs]
    assert hashes[0] == hashes[1]
    assert all_on_disk_is_finite(tmp_path / "a")


def test_a_run_goes_back_to_its_last_save(dataset, tmp_path):
    """The learning rate is right for an epoch; then, resumed, it is not."""
    out = tmp_path / "ckpt"
    train(config_of(epochs=1), dataset, out)
    config = config_of(on_nan="rollback", optimizer={"learning_rate": 1e38})
    trainer = assembly.create_trainer(config, dataset, out)
    run.resume(trainer)
    notices = []
    with pytest.raises(BncliError, match="has diverged"):
        notices = [event.message for event in trainer.epochs() if isinstance(event, Notice)]
    assert notices == []
    assert trainer.progress.rollbacks == MAX_ROLLBACKS
    assert trainer.progress.epochs_done == 1
    assert all_on_disk_is_finite(out)


def test_a_channel_without_variance_and_a_tiny_epsilon(dataset, tmp_path):
    """γ·(x − μ)/√(σ² + ε) of a constant channel: its gradient is 0·∞."""
    black = replace(dataset.train, images=np.zeros_like(dataset.train.images))
    constant = replace(dataset, train=black)
    for on_nan in ("stop", "skip", "rollback"):
        config = config_of(on_nan=on_nan, model={"bn_epsilon": 1e-44})
        _, _, _, error = events_of(config, constant, tmp_path / on_nan)
        assert "the training has diverged" in error.message
        assert on_nan == "skip" or "BatchNorm_0" in error.message
        assert all_on_disk_is_finite(tmp_path / on_nan)
