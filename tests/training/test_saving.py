"""Saves while the training goes on: within epochs, on a disk that fails, and beside those who read them."""

import json
import shutil
import threading
from dataclasses import replace

import pytest
from support.tiny import run_config, train

from bncli import checkpoint
from bncli.errors import BncliWarning, CheckpointError, TrainingInterruptedError
from bncli.training import assembly, run, saving
from bncli.training.progress import Best, EpochResult, Notice, Position, RunProgress
from bncli.training.run_log import RunLog
from bncli.training.saving import RunSaver


def config_of(**training):
    """Saves of 800 kB; 11 steps an epoch."""
    return run_config(
        model={"args": {"features": [1024]}}, training={"epochs": 3, "batch_size": 8, "keep": 9} | training
    )


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    return train(config_of(), dataset, tmp_path_factory.mktemp("straight") / "ckpt")


def rows_of(out):
    return [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.broad
def test_saves_within_epochs_change_nothing_and_each_can_be_gone_on_from(straight, dataset, tmp_path):
    out = tmp_path / "ckpt"
    result = train(config_of(save_every="4"), dataset, out)
    assert checkpoint.complete_steps(out) == [4, 8, 11, 15, 19, 22, 26, 30, 33]
    assert result.sha256 == straight.sha256
    for step in (33, 30):  # as if killed after the save of step 26
        (out / "steps" / f"{step}.sha256").unlink()
    assert train(config_of(), dataset, out, resume=True).sha256 == straight.sha256
    assert rows_of(out) == [1, 2, 3]


def saver_of(out, **training):
    return RunSaver(RunLog(out), config_of(**training).training, scored=lambda state: state.variables)


def test_seconds_are_of_the_clock(tmp_path):
    saver = saver_of(tmp_path, save_every="60s")
    assert not saver.is_due(5)
    saver._last_time -= 61
    assert saver.is_due(5)
    assert not saver.is_due(0)  # nothing was done since the last
    assert not saver_of(tmp_path).is_due(10**6)


@pytest.mark.broad
def test_a_full_disk_ends_the_run_and_leaves_the_last_save(straight, dataset, tmp_path, full_disk):
    out = tmp_path / "ckpt"
    with full_disk(), pytest.raises(CheckpointError, match=r"cannot save .*11: File too large"):
        train(config_of(), dataset, out)
    assert checkpoint.complete_steps(out) == []
    assert train(config_of(), dataset, out, resume=True).sha256 == straight.sha256


def test_a_full_disk_for_a_while_costs_a_save_and_no_epoch(straight, dataset, tmp_path, full_disk):
    out = tmp_path / "ckpt"
    config = config_of(on_save_error="continue")
    trainer = assembly.create_trainer(config, dataset, out)
    run.start(trainer, overwrite=False)
    notices = []
    events = trainer.epochs()
    for event in events:
        if isinstance(event, Notice):
            notices.append(event.message)
        if isinstance(event, EpochResult) and event.epoch == 1:
            trainer.saver.wait()
            with full_disk():
                for later in events:
                    if isinstance(later, EpochResult):
                        assert "File too large" in trainer.saver.wait().message
                        break
    assert checkpoint.complete_steps(out) == [11, 33]
    assert rows_of(out) == [1, 2, 3]
    assert trainer.progress.best.step in (11, 33)
    result = run.finish(trainer, epochs_before=0)
    assert result.sha256 == straight.sha256


@pytest.mark.broad
def test_each_failed_save_is_told_and_a_run_that_cannot_save_its_end_has_failed(dataset, tmp_path, full_disk):
    trainer = assembly.create_trainer(config_of(on_save_error="continue"), dataset, tmp_path / "ckpt")
    run.start(trainer, overwrite=False)
    notices = []

    def drive():
        for event in trainer.epochs():
            notices.extend([event.message] if isinstance(event, Notice) else [])

    with full_disk(), pytest.raises(CheckpointError, match="cannot save"):  # the last one, tried again
        drive()
    assert len(notices) == 3
    assert all(notice.endswith("File too large; the training continues") for notice in notices)
    assert checkpoint.complete_steps(tmp_path / "ckpt") == []


@pytest.mark.broad
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("orbax_leftovers")
def test_who_reads_while_a_training_saves_reads_a_whole_save(dataset, tmp_path):
    out, seen, errors, stop = tmp_path / "ckpt", [], [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                if checkpoint.complete_steps(out):
                    seen.append(checkpoint.load(out, step="last").step)
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    config = config_of(epochs=6, keep=1, save_every="5")
    try:
        result = train(replace(config, model=replace(config.model, args={"features": [64]})), dataset, out)
    finally:
        stop.set()
        reader.join()
    assert errors == []
    assert len(set(seen)) > 1
    assert result.epochs_run == 6


@pytest.mark.broad
def test_a_lost_save_is_never_the_best_of_a_later_one(dataset, tmp_path, full_disk):
    """Epoch 1, by far the best, is not saved; the saves after it name another."""
    out = tmp_path / "ckpt"
    config = config_of(on_save_error="continue", save_every="3")
    trainer = assembly.create_trainer(config, dataset, out)
    run.start(trainer, overwrite=False)
    validate, accuracies = trainer.evaluation.validate, iter([0.9, 0.1, 0.2])

    def validated(*args):
        return replace(validate(*args), accuracy=next(accuracies))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.evaluation, "validate", validated)
        patch.setattr(trainer.evaluation, "score_by_batch", lambda *args: replace(validate(*args), accuracy=0.0))
        events = trainer.epochs()
        with full_disk():
            for event in events:
                if isinstance(event, EpochResult):
                    trainer.saver._saver._pending.exception()  # it has failed, and was not told yet
                    break
        for _ in events:
            pass
    for step in checkpoint.complete_steps(out):
        best = checkpoint.read_progress(out, step)["best"]
        assert best is None or best["step"] in (22, 33), step
    assert trainer.progress.best.epoch == 3


def test_a_run_whose_best_save_is_damaged_or_gone_goes_on_without_it(straight, tmp_path):
    out = shutil.copytree(straight.out, tmp_path / "ckpt")
    best = Best(epoch=1, step=11, val_accuracy=1.0, val_loss=0.0)
    assert saving._best_on_disk(out, best) == best
    (out / "steps" / "11" / "progress" / "metadata").write_bytes(b"x")
    with pytest.warns(BncliWarning, match="steps/11/.* is damaged.*; epoch 1 is no longer the best"):
        assert saving._best_on_disk(out, best) is None
    (out / "steps" / "11.sha256").unlink()
    with pytest.warns(BncliWarning, match="epoch 1 is no longer the best"):
        assert saving._best_on_disk(out, best) is None
    assert saving._best_on_disk(out, None) is None


def test_a_failed_save_is_not_the_best_however_often_is_asked(straight, dataset, tmp_path, full_disk):
    trainer = assembly.create_trainer(config_of(on_save_error="continue"), dataset, tmp_path / "ckpt")
    run.start(trainer, overwrite=False)
    saver, first, second = trainer.saver, *(Best(epoch, 11 * epoch, 1.0, 0.0) for epoch in (1, 2))
    saver.start(Position(trainer.state, RunProgress(best=first)))
    assert saver.wait() is None
    assert saver.best == first
    with full_disk():
        saver.start(Position(trainer.state, RunProgress(best=second)))
        assert "File too large" in saver.wait().message
    assert (saver.failure(), saver.wait(), saver.best) == (None, None, first)


def test_what_was_saved_after_the_save_that_a_run_goes_on_from_is_gone(straight, dataset, tmp_path):
    """Damaged ones would be kept by ``prune`` in place of the new ones."""
    out = shutil.copytree(straight.out, tmp_path / "ckpt")
    for step in (22, 33):
        (out / "steps" / str(step) / "progress" / "metadata").write_bytes(b"x")
    with pytest.warns(BncliWarning), pytest.raises(TrainingInterruptedError, match="saved at step 15 "):
        train(config_of(keep=1, save_every="2"), dataset, out, resume=True, stop_after=(2, 3))
    assert 15 in checkpoint.complete_steps(out)
    assert max(checkpoint.complete_steps(out)) == 15
    checkpoint.verify(out, 15)
