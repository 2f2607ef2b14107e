"""Laws of one step: the same call gives the same bytes, padding counts for nothing, a scan is so many calls."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.tiny import MLP

from bncli.checkpoint import sha256_tree
from bncli.config.document import Preprocessing
from bncli.config.settings import ModelConfig, OptimizerConfig
from bncli.data import Augmentation, Preprocessor
from bncli.data.batches import example_keys
from bncli.measure.eval_step import make_eval_step, smoothed_cross_entropy
from bncli.models import build_network
from bncli.training.examples import DeviceSplit
from bncli.training.state import create_train_state
from bncli.training.step_settings import StepSettings
from bncli.training.steps import make_train_on, make_train_step, scan_steps

SHAPE = (8, 8, 1)
PREPROCESSING = Preprocessing(size=SHAPE[:2], channels=1, mean=(0.3,), std=(0.2,))


@pytest.fixture(scope="module")
def split(dataset):
    return DeviceSplit(jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels))


def settings_of(*, dropout=0.0, label_smoothing=0.0, augmentation=None):
    """(the first state, the settings of the step)."""
    network = build_network(ModelConfig(**MLP, dropout=dropout), num_classes=3, image_shape=SHAPE)
    optimizer = OptimizerConfig(
        learning_rate=0.1, schedule="constant", warmup_epochs=0, label_smoothing=label_smoothing
    )
    settings = StepSettings(
        network=network,
        optimizer=optimizer,
        steps_per_epoch=10,
        schedule_epochs=1,
        preprocessor=Preprocessor(PREPROCESSING, "float32"),
        augmentation=augmentation or Augmentation.none(),
        seed=0,
    )
    state = create_train_state(network, settings.make_optimizer(), image_shape=SHAPE, seed_key=jax.random.key(0))
    return state, settings


def start(**changes):
    """(the first state, the jitted train step)."""
    state, settings = settings_of(**changes)
    return state, partial(_with_hyperparameters, jax.jit(make_train_step(settings)), settings.hyperparameters.at())


def _with_hyperparameters(step, hyperparameters, *arguments):
    return step(*arguments, hyperparameters)


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


def test_a_step_is_a_function_of_its_arguments(split):
    state, step = start(dropout=0.3, augmentation=Augmentation(max_shift=1, horizontal_flip=True))
    indices = jnp.arange(8, dtype=jnp.int32)
    first, again = (step(state, split, 1, indices, None) for _ in range(2))
    assert sha256_tree(first) == sha256_tree(again)
    assert int(first[0].step) == 1
    other_epoch = step(state, split, 2, indices, None)  # other augmentation
    assert sha256_tree(first) != sha256_tree(other_epoch)


@pytest.mark.broad
@pytest.mark.optimised
def test_arrays_from_anywhere_train_like_those_gathered_from_the_split(split):
    state, settings = settings_of(dropout=0.3, augmentation=Augmentation(max_shift=1, horizontal_flip=True))
    indices, mask = jnp.array([5, 3, 9, 20, 7, 1, 40, 41], jnp.int32), jnp.arange(8) < 6
    hyperparameters = settings.hyperparameters.at()
    gathered = jax.jit(make_train_step(settings))(state, split, 1, indices, mask, hyperparameters)
    keys = example_keys(jax.random.key(settings.seed), 1, indices)
    streamed = jax.jit(make_train_on(settings))(
        state, split.images[indices], split.labels[indices], keys, mask, hyperparameters
    )
    assert sha256_tree(streamed) == sha256_tree(gathered)


def test_each_step_drops_other_units(split):
    state, step = start(dropout=0.5)
    indices = jnp.arange(8, dtype=jnp.int32)
    losses = {
        float(step(state.replace(step=jnp.int32(number)), split, 0, indices, None)[1].loss) for number in range(4)
    }
    assert len(losses) == 4


def test_padding_changes_neither_weights_nor_statistics_nor_metrics(split):
    state, step = start(label_smoothing=0.1, augmentation=Augmentation(max_shift=2))
    indices = jnp.array([5, 3, 9, 20, 7, 1], jnp.int32)
    alone = step(state, split, 0, indices, None)
    padded = jnp.concatenate([indices, jnp.array([40, 41], jnp.int32)])
    assert_close(step(state, split, 0, padded, jnp.arange(8) < 6), alone)
    assert int(alone[0].metrics.num_examples) == 6
    unmasked, _ = step(state, split, 0, padded, None)
    assert not np.allclose(unmasked.batch_stats["BatchNorm_0"]["mean"], alone[0].batch_stats["BatchNorm_0"]["mean"])


def test_the_order_within_a_batch_does_not_matter(split):
    state, step = start(augmentation=Augmentation(max_shift=2))
    indices = jnp.arange(8, dtype=jnp.int32)
    assert_close(step(state, split, 0, indices[::-1], None), step(state, split, 0, indices, None))


def test_a_scan_is_so_many_calls(split):
    state, step = start(dropout=0.3, augmentation=Augmentation(max_shift=1))
    indices = jnp.arange(24, dtype=jnp.int32).reshape(3, 8)
    expected, metrics = state, None
    for row in indices:
        expected, metrics = step(expected, split, 0, row, None)
    settings = settings_of(dropout=0.3, augmentation=Augmentation(max_shift=1))[1]
    scanned = jax.jit(scan_steps(make_train_step(settings)))
    hyperparameters = settings.hyperparameters.at(np.arange(3))
    assert_close(scanned(state, split, 0, indices, None, hyperparameters), (expected, metrics))


def test_metrics_are_averages_over_the_examples_of_the_epoch_so_far(split):
    state, step = start()
    rows = [(np.arange(8), None), (np.arange(8, 16), np.arange(8) < 3)]
    losses, correct = [], []
    for indices, mask in rows:
        network = build_network(ModelConfig(**MLP), num_classes=3, image_shape=SHAPE)
        inputs = (split.images[indices].astype(jnp.float32) / 255 - 0.3) / 0.2
        logits = network.logits_by_batch_stats(state.variables, inputs, mask=mask)
        real = slice(None) if mask is None else mask
        labels = split.labels[indices]
        losses += (-jax.nn.log_softmax(logits)[np.arange(8), labels][real]).tolist()
        correct += (logits.argmax(-1) == labels)[real].tolist()
        state, metrics = step(state, split, 0, jnp.asarray(indices, jnp.int32), mask)
        assert float(metrics.loss) == pytest.approx(np.mean(losses), rel=1e-4)
        assert float(metrics.accuracy) == pytest.approx(np.mean(correct))


LOGITS = hnp.arrays(np.float32, (4, 5), elements=st.floats(-20, 20, width=32))


@settings(deadline=None, max_examples=30)
@given(logits=LOGITS, labels=st.lists(st.integers(0, 4), min_size=4, max_size=4), smoothing=st.floats(0, 0.9))
def test_cross_entropy_is_against_a_target_of_which_a_share_is_spread(logits, labels, smoothing):
    exact = logits.astype(np.float64)
    shifted = exact - exact.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    targets = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    expected = -(targets * log_probabilities).sum(axis=1)
    actual = smoothed_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def outcome_of(logits, labels):
    preprocessor = Preprocessor(PREPROCESSING, "float32")
    step = make_eval_step(lambda variables, images, mask: jnp.asarray(logits, jnp.float32), preprocessor)
    images = np.zeros((len(labels), *SHAPE), np.uint8)
    return step({}, images, jnp.asarray(labels), np.ones(len(labels), bool))


def test_the_outcome_is_loss_prediction_and_whether_the_label_is_in_the_top_five():
    logits = np.random.default_rng(0).normal(size=(50, 9))
    labels = np.arange(50) % 9
    outcome = outcome_of(logits, labels)
    order = np.argsort(-logits, axis=1)
    np.testing.assert_array_equal(outcome.prediction, order[:, 0])
    np.testing.assert_array_equal(
        outcome.in_top5, [label in row for label, row in zip(labels, order[:, :5], strict=True)]
    )
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(50), labels]
    np.testing.assert_allclose(outcome.loss, expected, rtol=1e-5)


def test_fewer_than_five_classes_are_all_in_the_top_five():
    assert outcome_of(np.eye(3), [2, 0, 1]).in_top5.all()


def test_the_first_of_equal_logits_is_predicted():
    np.testing.assert_array_equal(outcome_of(np.zeros((1, 4)), [1]).prediction, [0])


def test_images_are_normalised_before_the_network_sees_them():
    seen = []
    step = make_eval_step(
        lambda variables, images, mask: (seen.append(images), images.reshape(2, -1))[1],
        Preprocessor(PREPROCESSING, "bfloat16"),
    )
    step({}, np.full((2, *SHAPE), 51, np.uint8), jnp.zeros(2, jnp.int32), np.ones(2, bool))
    images = seen[-1]  # the calls before it trace
    assert images.dtype == jnp.bfloat16
    np.testing.assert_allclose(images.astype(jnp.float32), (51 / 255 - 0.3) / 0.2, rtol=1e-2)
