"""Laws of evaluation: the sums are those of scikit-learn, each example counts once, the batch size does not matter."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score

from bncli import checkpoint
from bncli.data import Split, normalize
from bncli.errors import DataError, UsageError
from bncli.jobs.evaluate import evaluate_checkpoint
from bncli.measure.eval_step import ExampleOutcome, averaged_over_flip
from bncli.measure.score import score as score_split
from bncli.measure.score import summarize
from bncli.process.mesh import make_mesh

NAMES = ("a", "b", "c", "d")
EXAMPLES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.floats(0, 9)), min_size=1, max_size=40
)


def test_flips_at_test_time_average_the_logits_of_both_images():
    images = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(4 * 5 * 2, 6)).astype(np.float32)

    def logits(variables, images, mask):
        return jnp.tanh(images.reshape(len(images), -1) @ variables)

    mirrored = np.stack([np.fliplr(image) for image in images])
    expected = (np.tanh(images.reshape(3, -1) @ weights) + np.tanh(mirrored.reshape(3, -1) @ weights)) / 2
    np.testing.assert_allclose(averaged_over_flip(logits)(weights, images, None), expected, rtol=1e-4, atol=1e-5)


@given(examples=EXAMPLES)
def test_the_summary_is_that_of_scikit_learn(examples):
    labels, predictions, in_top5, losses = (np.array(column) for column in zip(*examples, strict=True))
    labels, predictions = labels.astype(np.int32), predictions.astype(np.int32)
    result = summarize(losses=losses, predictions=predictions, in_top5=in_top5, labels=labels, class_names=NAMES)
    assert result.num_examples == len(examples)
    assert result.loss == pytest.approx(losses.mean())
    assert result.accuracy == pytest.approx((labels == predictions).mean())
    assert result.top5_accuracy == pytest.approx(in_top5.mean())
    np.testing.assert_array_equal(result.confusion, confusion_matrix(labels, predictions, labels=range(4)))
    recall = recall_score(labels, predictions, labels=range(4), average=None, zero_division=0)
    for k, row in enumerate(result.per_class):
        assert (row.name, row.count) == (NAMES[k], int((labels == k).sum()))
        assert row.accuracy == (pytest.approx(recall[k]) if row.count else None)


def summary_of(predictions):
    zeros = np.zeros(len(predictions))
    predictions = np.array(predictions)
    return summarize(losses=zeros, predictions=predictions, in_top5=zeros, labels=zeros.astype(int), class_names=NAMES)


def test_the_hash_is_of_the_predictions_alone():
    assert summary_of([0, 1]).predictions_sha256 == summary_of(np.array([0, 1], np.int64)).predictions_sha256
    assert summary_of([0, 1]).predictions_sha256 != summary_of([1, 0]).predictions_sha256


@pytest.mark.parametrize("batch_size", [1, 3, 10, 16])
def test_each_example_counts_once_and_in_order(batch_size):
    """The "network" reads its example's number from the image; padding would show as a number twice."""
    numbers = np.arange(10)
    split = Split(
        np.broadcast_to(numbers[:, None, None, None], (10, 2, 2, 1)).astype(np.uint8), (numbers % 4).astype(np.int32)
    )

    def eval_step(variables, images, labels, mask):
        number = images[:, 0, 0, 0].astype(jnp.int32)
        return ExampleOutcome(loss=number.astype(jnp.float32), prediction=number % 4, in_top5=number % 2 == 0)

    result = score_split(jax.jit(eval_step), {}, split, class_names=NAMES, batch_size=batch_size, mesh=make_mesh())
    assert result.num_examples == 10
    assert result.loss == 4.5
    assert result.accuracy == 1
    assert result.top5_accuracy == 0.5
    np.testing.assert_array_equal(result.predictions, numbers % 4)


@pytest.fixture(scope="module")
def loaded(trained):
    return checkpoint.load(trained.out)


def score(loaded, split, *, stats="running", batch_size=7):
    names = loaded.config.dataset.class_names
    return evaluate_checkpoint(loaded, split, class_names=names, stats=stats, batch_size=batch_size)


def inputs_of(loaded, images):
    return normalize(images, loaded.config.preprocessing.mean, loaded.config.preprocessing.std)


def test_running_statistics_give_the_result_of_one_example_at_a_time(loaded, dataset):
    split = dataset.test
    logits = np.concatenate(
        [loaded.apply_fn(loaded.variables, inputs_of(loaded, image[None])) for image in split.images]
    )
    losses = -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(split)), split.labels]
    for batch_size in (7, 24, 40):
        result = score(loaded, split, batch_size=batch_size)
        np.testing.assert_array_equal(result.predictions, logits.argmax(axis=1))
        assert result.loss == pytest.approx(losses.mean(), rel=1e-5)
        assert result.accuracy == (logits.argmax(axis=1) == split.labels).mean()
        assert result.top5_accuracy == 1  # there are three classes


def test_batch_statistics_are_those_of_each_batch_without_its_padding(loaded, dataset):
    split = dataset.test
    without_dropout = loaded.model.clone(dropout=0.0)
    losses = []
    for start in (0, 10, 20):  # 10, 10 and 4: the last is padded
        images, labels = split.images[start : start + 10], split.labels[start : start + 10]
        inputs = inputs_of(loaded, images)
        logits, _ = without_dropout.apply(loaded.variables, inputs, train=True, mutable=["batch_stats"])
        losses += (-jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]).tolist()
    by_batch = score(loaded, split, stats="batch", batch_size=10)
    assert by_batch.loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert by_batch.loss != pytest.approx(score(loaded, split).loss, rel=1e-4)


def test_a_class_without_examples_has_no_accuracy(loaded, dataset):
    chosen = dataset.test.labels != 1
    result = score(loaded, Split(dataset.test.images[chosen], dataset.test.labels[chosen]))
    assert [row.accuracy is None for row in result.per_class] == [False, True, False]


def test_a_folded_checkpoint_has_no_batch_statistics(loaded, dataset):
    with pytest.raises(UsageError, match=r"--stats batch: .* is folded") as caught:
        score(replace(loaded, network=None), dataset.test, stats="batch")
    assert "folded from" in caught.value.remedy


def test_the_network_must_have_an_output_for_each_class(loaded, dataset):
    with pytest.raises(DataError, match=r"the data have 2 classes, and .* has 3 outputs"):
        evaluate_checkpoint(loaded, dataset.test, class_names=("a", "b"), stats="running", batch_size=7)
