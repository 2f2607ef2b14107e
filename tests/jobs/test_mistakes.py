"""Mistakes: counted as ``eval`` counts them, the worst first, each with its own image and file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bncli.checkpoint import load
from bncli.data import Split
from bncli.errors import DataError
from bncli.jobs.evaluate import evaluate_checkpoint
from bncli.jobs.mistakes import MAX_PER_PAIR, MAX_WORST, find_mistakes


@pytest.fixture(scope="module")
def opened(trained):
    return load(trained.out)


@pytest.fixture(scope="module")
def hard(dataset):
    """The training images with labels that are wrong for every third: so many mistakes are sure."""
    labels = dataset.train.labels.copy()
    labels[::3] = (labels[::3] + 1) % 3
    files = tuple(Path(f"{number}.png") for number in range(len(labels)))
    return Split(dataset.train.images, labels, files)


@pytest.fixture(scope="module")
def mistakes(opened, hard, dataset):
    return find_mistakes(opened, hard, dataset.class_names)


def test_scores_are_those_of_eval(opened, hard, dataset, mistakes):
    expected = evaluate_checkpoint(opened, hard, class_names=dataset.class_names, stats="running", batch_size=32)
    np.testing.assert_array_equal(mistakes.result.confusion, expected.confusion)
    assert mistakes.result.predictions_sha256 == expected.predictions_sha256
    assert mistakes.result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert mistakes.count == round((1 - expected.accuracy) * len(hard))


def test_the_worst_are_wrong_and_the_least_probable_come_first(mistakes, hard):
    assert len(mistakes.worst) == min(MAX_WORST, mistakes.count)
    chances = [example.label_probability for example in mistakes.worst]
    assert chances == sorted(chances)
    for example in mistakes.worst:
        assert example.label != example.prediction
        assert example.label_probability <= example.probability
        np.testing.assert_array_equal(example.image, hard.images[example.index])
        assert example.label == hard.labels[example.index]
        assert example.file == hard.files[example.index]


def test_pairs_are_the_largest_cells_off_the_diagonal(mistakes):
    confusion = mistakes.result.confusion
    counts = [pair.count for pair in mistakes.pairs]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == mistakes.count  # of three classes, all pairs are listed
    for pair in mistakes.pairs:
        assert pair.count == confusion[pair.label, pair.prediction]
        assert pair.share == pytest.approx(pair.count / confusion[pair.label].sum())
        assert len(pair.examples) == min(MAX_PER_PAIR, pair.count)
        assert all((row.label, row.prediction) == (pair.label, pair.prediction) for row in pair.examples)


def test_without_a_mistake_the_least_certain_are_shown(opened, hard, dataset):
    predictions = find_mistakes(opened, hard, dataset.class_names).result.predictions
    found = find_mistakes(opened, replace(hard, labels=predictions), dataset.class_names)
    assert found.count == 0
    assert found.pairs == ()
    chances = [example.label_probability for example in found.worst]
    assert chances == sorted(chances)
    assert len(chances) == MAX_WORST


def test_another_number_of_classes_is_refused(opened, hard):
    with pytest.raises(DataError, match="3 outputs"):
        find_mistakes(opened, hard, ("a", "b"))
