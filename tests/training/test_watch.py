"""Signs of a run that will not end well: each is told when it shows, once, and a healthy run is told nothing."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import CNN, run_config, train

from bncli import checkpoint
from bncli.jobs.evaluate import evaluate_checkpoint
from bncli.measure.score import summarize
from bncli.training import assembly, run
from bncli.training.progress import EpochResult, Notice, last_of_the_best
from bncli.training.watch import Guess, Watch

GUESS = Guess(loss=math.log(5), accuracy=0.2, num_val=100)


def rows(*losses, train_accuracy=0.2, val_accuracy=0.2, val_statistics="running"):
    """A history with these (training, validation) losses."""
    return [
        EpochResult(
            epoch=number,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            lr=0.1,
            seconds=1.0,
            images_per_second=1.0,
            val_statistics=val_statistics,
        )
        for number, (train_loss, val_loss) in enumerate(losses, 1)
    ]


def never():
    raise AssertionError("batch statistics were not needed")


def by_batch(accuracy):
    labels = np.zeros(100, np.int64)
    predictions = (np.arange(100) >= 100 * accuracy).astype(np.int64)
    return lambda: summarize(
        losses=np.zeros(100), predictions=predictions, in_top5=predictions == 0, labels=labels, class_names=("a", "b")
    )


def told(history, *, score_by_batch=never, epochs=99, steps_per_epoch=20, **sections):
    config = run_config(training={"epochs": epochs} | sections.pop("training", {}), **sections)
    watch = Watch(config, steps_per_epoch, GUESS)
    return [notice.message for notice in watch.notices(history, score_by_batch)]


def test_a_loss_that_explodes_in_training_names_the_learning_rate():
    (message,) = told(rows((5123, 35018)))
    assert "epoch 1" in message
    assert "35,018 in validation" in message
    assert "--learning-rate 0.05 is too high: lower it or add --clip-norm 1" in message
    (message,) = told(rows((5123, 35018)), optimizer={"clip_norm": 1.0})
    assert "--clip-norm" not in message


def test_a_loss_that_explodes_in_validation_alone_names_the_running_statistics():
    (message,) = told(rows((0.4, 16219)), model={"bn_momentum": 0.99})
    assert "momentum is 0.99 at 20 steps an epoch" in message
    assert "--precise-bn" in message
    (message,) = told(rows((3.2, 1161)), optimizer={"learning_rate": 10.0, "clip_norm": 1.0})
    assert "--learning-rate 10 is too high" in message
    for section in ({"model": {"bn": False}}, {"training": {"precise_bn": True}}, {"training": {"ema_decay": 0.9}}):
        (message,) = told(rows((0.4, 16219)), **section)
        assert "--learning-rate" in message


def test_each_sign_is_told_when_it_begins():
    history = rows((5123, 35018), (4000, 9000))
    assert told(history[:1])
    assert not told(history)
    stuck = rows(*[(math.log(5), 1.7)] * 4)
    assert not told(stuck[:2], steps_per_epoch=50)
    (message,) = told(stuck[:3], steps_per_epoch=50)
    assert "epochs 1 to 3: the training loss, now 1.61, is no better than that of guessing, 1.61" in message
    assert not told(stuck, steps_per_epoch=50)
    (message,) = told(rows(*[(5.5, 1.7)] * 3), steps_per_epoch=50)
    assert "now 5.5, is no better than that of guessing, 1.61" in message


def test_three_epochs_of_few_steps_say_nothing():
    assert not told(rows(*[(math.log(5), 1.7)] * 3), steps_per_epoch=49)


def test_a_loss_like_guessing_is_not_stuck_while_the_accuracy_rises():
    losses = [(math.log(5), 1.5)] * 3
    assert told(rows(*losses, train_accuracy=0.23), steps_per_epoch=50)
    assert not told(rows(*losses, train_accuracy=0.25), steps_per_epoch=50)


def test_broken_statistics_are_told_at_the_end_with_what_mends_them():
    history = rows((0.1, 3.0), train_accuracy=1.0, val_accuracy=0.5)
    (message,) = told(history, epochs=1, score_by_batch=by_batch(1.0))
    assert "0.5000 with BN's running statistics and 1.0000 with those of each batch" in message
    assert "bncli recalibrate" in message
    assert told(history, epochs=1, score_by_batch=by_batch(0.55)) == []
    assert told(history, epochs=2) == []


def test_statistics_that_lag_for_two_epochs_are_told_once_and_for_one_if_it_is_the_last():
    history = rows((0.1, 0.2), (0.1, 0.2), (0.1, 0.2), train_accuracy=1.0, val_accuracy=0.9, val_statistics="measured")
    (message,) = told(history[:2], model={"bn_momentum": 0.99})
    assert "momentum is 0.99 at 20 steps an epoch" in message
    assert "taken anew" in message
    assert told(history[:1]) == told(history) == []
    assert len(told(history[:1], epochs=1)) == 1
    assert told(history[:2], training={"precise_bn": True}) == []
    healthy = rows((0.1, 0.2), train_accuracy=1.0, val_accuracy=0.9)
    assert told([*history[:1], *healthy]) == []


def test_a_run_that_never_beats_guessing_is_told_so_at_the_end():
    (message,) = told(rows((0.5, 1.7), (0.3, 1.8)), epochs=2, score_by_batch=by_batch(0.2))
    assert "no epoch is better on the validation images than guessing (0.2000)" in message
    assert "the labels do not belong to the images, or the images are too few" in message
    (message,) = told(rows((1.6, 1.7), (1.6, 1.8)), epochs=2, score_by_batch=by_batch(0.2))
    assert "--learning-rate 0.05 is too high" in message


def test_the_best_of_many_epochs_needs_more_than_luck():
    """Of 80 epochs that guess, the best has 0.3 of 100 images right in most runs, and 0.36 in few."""
    for epochs, accuracy, is_told in ((1, 0.3, False), (80, 0.3, True), (80, 0.36, False)):
        history = rows(*[(1.6, 1.7)] * epochs)
        history[0] = replace(history[0], val_accuracy=accuracy)
        found = told(history, epochs=epochs, score_by_batch=by_batch(0.2))
        assert any("no epoch is better" in message for message in found) == is_told


def test_learning_by_heart_is_told_once_when_it_begins():
    history = rows(*[(1.0, 2.5)] * 6, train_accuracy=0.6)
    (message,) = told(history[:3])
    assert "epochs 1 to 3: the training accuracy reaches 0.60, the validation accuracy 0.20" in message
    assert "by heart" in message
    assert told(history[:2]) == told(history) == []
    learns = [*history[:2], *rows((1.0, 1.2), train_accuracy=0.6)]
    assert told(learns) == []
    assert told(rows(*[(1.0, 2.5)] * 3, train_accuracy=0.6, val_accuracy=0.5)) == []
    assert told(rows(*[(1.5, 2.5)] * 3, train_accuracy=0.3)) == []


@given(losses=st.lists(st.tuples(st.floats(0.01, 1.5), st.floats(0.01, 1.5)), min_size=1, max_size=5))
def test_a_run_that_learns_is_told_nothing(losses):
    history = rows(*losses, train_accuracy=0.7, val_accuracy=0.7)
    for end in range(1, len(history) + 1):
        assert told(history[:end], epochs=len(history), score_by_batch=by_batch(0.7)) == []


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_guessing_has_the_entropy_of_the_labels(labels):
    labels = np.array(labels)
    guess = Guess.of_labels(labels, labels)
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    assert guess.loss == pytest.approx(np.log(1 / shares) @ shares)
    assert guess.accuracy == pytest.approx(shares.max())
    assert guess.accuracy <= guess.good_luck() <= guess.good_luck(50)


def test_shuffled_labels_and_a_hopeless_learning_rate_are_told_in_a_real_run(dataset, tmp_path):
    shuffled = np.random.default_rng(0).permutation(dataset.train.labels)
    hopeless = replace(dataset, train=replace(dataset.train, labels=shuffled))
    config = run_config(optimizer={"learning_rate": 10.0}, training={"epochs": 3, "batch_size": 4})
    trainer = assembly.create_trainer(config, hopeless, tmp_path / "ckpt", compile_ahead=False)
    run.start(trainer, overwrite=False)
    messages = [event.message for event in trainer.epochs() if isinstance(event, Notice)]
    assert any("--learning-rate 10 is too high" in message for message in messages)


def test_the_best_epoch_is_the_one_with_the_best_weights_though_running_statistics_lag(dataset, tmp_path):
    """At momentum 0.9999, a dozen steps leave the statistics that were planted: with those, every epoch guesses."""
    config = run_config(
        model=CNN | {"bn_momentum": 0.9999}, data={"augment": False}, training={"epochs": 4, "batch_size": 28}
    )
    trainer = assembly.create_trainer(config, dataset, tmp_path / "ckpt")
    run.start(trainer, overwrite=False)
    broken = jax.tree.map(lambda array: array + 100, trainer.state.batch_stats)
    trainer.position = replace(trainer.position, state=replace(trainer.state, batch_stats=broken))
    events = list(trainer.epochs())
    result = run.finish(trainer, epochs_before=0)
    assert sum("lag behind" in event.message for event in events if isinstance(event, Notice)) == 1
    assert result.history[-1].val_statistics == "measured"
    assert result.best.val_accuracy > 0.9
    assert result.precise is not None
    assert result.test.accuracy > 0.9
    saved = checkpoint.load(result.out)
    assert saved.has_population_statistics
    scored = evaluate_checkpoint(saved, dataset.test, class_names=dataset.class_names, stats="running", batch_size=8)
    assert scored.accuracy == result.test.accuracy


@pytest.mark.parametrize(
    ("num_val", "right", "best"),
    [
        (3, (0, 1, 2, 2, 2), 5),
        (3, (1, 3, 2, 2, 1), 4),  # one image is luck, of all right too
        (3, (3, 0, 0, 0, 0), 1),
        (3, (0, 0, 0, 0, 3), 5),
        (3, (2, 3, 1, 1, 1), 2),
        (400, (200, 360, 355, 354, 353), 4),  # an error of 6 images
        (400, (395, 393, 392, 200, 200), 2),  # an error of 2
    ],
)
def test_the_last_epoch_within_an_error_of_the_highest_accuracy_is_the_best(num_val, right, best):
    history = [replace(row, val_accuracy=n / num_val) for row, n in zip(rows(*[(1, 1)] * 5), right, strict=True)]
    found = None
    for number in range(1, 6):
        found = last_of_the_best(found, history[:number], 10 * number, num_val=num_val)
    assert (found.epoch, found.step, found.val_accuracy) == (best, 10 * best, right[best - 1] / num_val)
    nan = replace(history[-1], epoch=6, val_accuracy=1.0, val_loss=math.nan)
    assert last_of_the_best(found, [*history, nan], 60, num_val=num_val) == found


def test_a_run_with_few_validation_images_says_so_at_its_end():
    watch = Watch(run_config(training={"epochs": 1}), 20, replace(GUESS, num_val=3))
    (notice,) = watch.notices(rows((0.1, 0.2), train_accuracy=1.0, val_accuracy=1.0), never)
    assert "3 validation images cannot tell epochs apart" in notice.message
    assert "--val-fraction" in notice.message


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("training", "model", "statistics"),
    [
        ({}, {}, "running"),
        ({"ema_decay": 0.9}, {}, "measured"),
        pytest.param({"precise_bn": True}, {}, "measured", marks=pytest.mark.broad),
        pytest.param({}, {"bn": False}, None, marks=pytest.mark.broad),
    ],
)
def test_an_epoch_says_which_statistics_its_validation_used(dataset, tmp_path, training, model, statistics):
    result = train(run_config(training=training, model=model), dataset, tmp_path / "ckpt")
    assert {row.val_statistics for row in result.history[1:]} == {statistics}


@pytest.mark.parametrize("precise_bn", [True, False])
def test_epochs_are_compared_with_the_statistics_that_the_best_one_will_have(precise_bn, dataset, tmp_path):
    config = run_config(training={"precise_bn": precise_bn})
    trainer = assembly.create_trainer(config, dataset, tmp_path / "ckpt", compile_ahead=False)
    variables = trainer.state.variables
    broken = variables | {"batch_stats": jax.tree.map(lambda array: array + 100, variables["batch_stats"])}
    losses = [trainer.evaluation.validate(each, dataset.val).loss for each in (variables, broken)]
    assert (losses[0] == pytest.approx(losses[1])) == precise_bn
