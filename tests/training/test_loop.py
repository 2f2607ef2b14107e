"""Laws of the loop: any stop and resume gives the same bytes, the best is the best, and nothing is lost on the way."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import run_config, train

from bncli import checkpoint
from bncli.checkpoint import sha256_tree
from bncli.errors import BncliError, TrainingInterruptedError
from bncli.training import assembly, run
from bncli.training.progress import Best, EpochResult, RunProgress, StepProgress, highest
from bncli.training.saving import split_state

TIMINGS = {"seconds", "images_per_second"}


def without_timings(rows):
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def metrics_of(out):
    """The rows of ``metrics.jsonl`` without their timings."""
    return without_timings(json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())


def config_of(epochs):
    """Everything is on: augmentation, dropout, averaged weights; 11 steps an epoch, the last of them padded."""
    return run_config(
        model={"dropout": 0.2},
        optimizer={"schedule_epochs": 4, "label_smoothing": 0.1, "clip_norm": 1.0},
        training={"epochs": epochs, "batch_size": 8, "ema_decay": 0.9},
    )


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """Four epochs without a stop."""
    return train(config_of(4), dataset, tmp_path_factory.mktemp("straight") / "ckpt")


def test_any_stop_and_resume_gives_the_same_bytes(straight, dataset, tmp_path):
    """Stopped in the middle of epoch 2, resumed to the end of 3, whose save is lost, and then extended to 4."""
    out = tmp_path / "ckpt"
    with pytest.raises(TrainingInterruptedError, match=r"interrupted in epoch 2; saved at step 13 ") as caught:
        train(config_of(3), dataset, out, stop_after=(2, 1))
    assert "--resume" in caught.value.remedy
    assert checkpoint.complete_steps(out) == [11, 13]
    assert [row["epoch"] for row in metrics_of(out)] == [1]
    train(config_of(3), dataset, out, resume=True)
    (out / "steps" / "33.sha256").unlink()  # as if killed before the save was whole: epoch 3 is done again
    resumed = train(config_of(4), dataset, out, resume=True)
    assert resumed.sha256 == straight.sha256
    assert without_timings(map(asdict, resumed.history)) == without_timings(map(asdict, straight.history))
    assert metrics_of(out) == metrics_of(straight.out) == without_timings(map(asdict, straight.history))
    assert [row["epoch"] for row in metrics_of(out)] == [1, 2, 3, 4]
    assert resumed.best == straight.best
    assert resumed.test.predictions_sha256 == straight.test.predictions_sha256


def test_a_finished_run_resumes_to_nothing(straight, dataset, tmp_path):
    out = shutil.copytree(straight.out, tmp_path / "ckpt")
    again = train(config_of(4), dataset, out, resume=True)
    assert again.sha256 == straight.sha256
    assert again.images_per_second is None
    assert metrics_of(out) == metrics_of(straight.out)


def test_events_come_in_order(dataset, tmp_path):
    trainer = assembly.create_trainer(run_config(), dataset, tmp_path / "ckpt")
    run.start(trainer, overwrite=False)
    events = list(trainer.epochs())
    steps = [(event.epoch, event.step) for event in events if isinstance(event, StepProgress)]
    assert steps == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert {event.steps for event in events if isinstance(event, StepProgress)} == {trainer.steps_per_epoch}
    results = [event for event in events if isinstance(event, EpochResult)]
    assert [events.index(result) for result in results] == [3, 7]
    assert results == list(trainer.progress.history)
    for result, last_step in zip(results, (events[2], events[6]), strict=True):
        assert result.train_loss == pytest.approx(last_step.loss, rel=1e-5)
        assert result.train_accuracy == pytest.approx(last_step.accuracy, rel=1e-5)
    assert [result.lr for result in results] == [trainer.execution.learning_rate(step) for step in (2, 5)]


class Watched:
    """A test split that counts how often its images and labels are read."""

    def __init__(self, split):
        self._split, self.reads = split, Counter()

    def __len__(self):
        return len(self._split)

    def __getattr__(self, name):
        self.reads[name] += 1
        return getattr(self._split, name)


def test_the_test_split_is_not_touched_before_the_end(dataset, tmp_path):
    test = Watched(dataset.test)
    config = run_config(training={"epochs": 1, "batch_size": 28})
    trainer = assembly.create_trainer(config, replace(dataset, test=test), tmp_path / "ckpt")
    run.start(trainer, overwrite=False)
    for _ in trainer.epochs():
        pass
    assert not test.reads
    run.finish(trainer, epochs_before=0)
    assert test.reads["images"] == 1  # it has one batch


ROWS = st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.7]), st.sampled_from([1.0, 2.0, 3.0])), min_size=1, max_size=8)


def best_of(rows):
    best = None
    for epoch, (accuracy, loss) in enumerate(rows, start=1):
        result = EpochResult(epoch, 0.0, 0.0, loss, accuracy, 0.0, 0.0, 0.0)
        best = highest(best, result, 10 * epoch)
    return best


@given(rows=ROWS)
def test_the_best_has_the_highest_accuracy_then_the_lowest_loss_then_came_first(rows):
    accuracy, negative_loss, negative_epoch = max((a, -loss, -epoch) for epoch, (a, loss) in enumerate(rows, start=1))
    assert best_of(rows) == Best(-negative_epoch, -10 * negative_epoch, accuracy, -negative_loss)


@pytest.mark.parametrize("rows", [[(0.5, 1.0), (0.5, float("nan"))], [(0.5, float("nan")), (0.5, 1.0)]])
def test_an_epoch_whose_validation_loss_is_nan_is_not_the_best(rows):
    assert best_of(rows).val_loss == 1.0


def frozen_config(**training):
    """No update is large enough to move a float32 weight, and there is no BN: each epoch ties with the first."""
    return run_config(model={"bn": False}, optimizer={"learning_rate": 1e-30}, training={"batch_size": 28} | training)


def test_patience_ends_a_run_that_does_not_get_better_and_keeps_the_first_of_equals(dataset, tmp_path):
    result = train(frozen_config(epochs=9, patience=2, keep=1), dataset, tmp_path / "ckpt")
    assert result.stopped_early
    assert result.epochs_run == 3
    assert (result.best.epoch, result.best.step) == (1, 3)
    assert len({(row.val_accuracy, row.val_loss) for row in result.history}) == 1
    assert checkpoint.complete_steps(tmp_path / "ckpt") == [3, 9]  # the best and the last


def test_a_run_that_ends_by_its_epochs_has_not_stopped_early(straight):
    assert not straight.stopped_early


def test_the_last_saves_and_the_best_are_kept(straight):
    assert checkpoint.complete_steps(straight.out) == sorted({33, 44, straight.best.step})


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_saves(straight, dataset, tmp_path):
    out = shutil.copytree(straight.out, tmp_path / "ckpt")
    before = checkpoint.complete_steps(out)
    config = config_of(5)
    huge = replace(config.optimizer, learning_rate=1e30, warmup_epochs=0, schedule="constant")
    config = replace(config, optimizer=huge)
    with pytest.raises(BncliError, match=r"step 46 \(epoch 5\): .* is not finite.*The save of step 45 ") as caught:
        train(config, dataset, out, resume=True)
    assert "--learning-rate (it was 1e+30)" in caught.value.remedy
    assert checkpoint.complete_steps(out)[-2:] == [before[-1], 45]
    for step in checkpoint.complete_steps(out):
        checkpoint.verify(out, step)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(checkpoint.load_variables(out, step)))
    assert len(metrics_of(out)) == 4


def test_a_run_without_bn_is_saved_and_resumed(dataset, tmp_path):
    config = run_config(model={"bn": False}, training={"epochs": 1, "batch_size": 28})
    trained = train(config, dataset, tmp_path / "ckpt")
    resumed = train(config, dataset, tmp_path / "ckpt", resume=True)
    assert resumed.sha256 == trained.sha256
    assert checkpoint.load(tmp_path / "ckpt").variables["batch_stats"] == {}


def test_progress_comes_back_from_json(straight):
    progress = RunProgress(steps_into_epoch=2, best=straight.best, history=straight.history)
    assert RunProgress.from_json(json.loads(json.dumps(progress.to_json()))) == progress
    assert RunProgress.from_json(json.loads(json.dumps(RunProgress().to_json()))) == RunProgress()
    assert progress.epochs_done == 4


def test_a_save_holds_all_of_the_state(dataset, tmp_path):
    state = assembly.create_trainer(run_config(), dataset, tmp_path).state
    parts = split_state(state, scored=state.variables)
    assert len(jax.tree.leaves(parts)) == len(jax.tree.leaves(state))


def test_averaged_weights_are_what_is_saved_with_statistics_of_their_own(straight, dataset, tmp_path):
    trainer = assembly.create_trainer(config_of(4), dataset, shutil.copytree(straight.out, tmp_path / "ckpt"))
    run.resume(trainer)
    saved = checkpoint.load(straight.out, step="last").variables
    jax.tree.map(np.testing.assert_array_equal, saved["params"], trainer.state.ema)
    assert sha256_tree(trainer.state.ema) == straight.sha256.ema != straight.sha256.params
    # The first BN's inputs by hand: its statistics are those of the averaged weights on training images.
    images = dataset.train.images.reshape(len(dataset.train), -1) / 255
    x = (images - dataset.mean[0]) / dataset.std[0]
    inputs = x @ np.asarray(saved["params"]["Dense_0"]["kernel"]) + np.asarray(saved["params"]["Dense_0"]["bias"])
    stats = saved["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], inputs.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], inputs.var(axis=0), rtol=1e-4)


ABANDONED = """
import sys
from pathlib import Path
from support.tiny import make_dataset, run_config
from bncli.training import assembly, run

trainer = assembly.create_trainer(run_config(), make_dataset(), Path(sys.argv[1]))
run.start(trainer, overwrite=False)
events = trainer.epochs()
print(next(events).step)
"""


@pytest.mark.broad
def test_a_script_that_leaves_its_training_ends_in_silence(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED, str(tmp_path / "ckpt")],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
