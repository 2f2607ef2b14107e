"""Prediction on files is evaluation on arrays, whatever the number of files."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from bncli import checkpoint
from bncli.data import normalize
from bncli.errors import DataError
from bncli.jobs import predict as prediction


@pytest.fixture(scope="module")
def loaded(trained):
    return checkpoint.load(trained.out)


@pytest.fixture
def files(dataset, tmp_path):
    """The first ten test images as files."""
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for path, image in zip(paths, dataset.test.images[:10], strict=True):
        Image.fromarray(image[..., 0]).save(path)
    return paths


def test_the_most_probable_classes_come_first_with_their_softmax(loaded, dataset, files):
    inputs = normalize(dataset.test.images[:10], loaded.config.preprocessing.mean, loaded.config.preprocessing.std)
    expected = np.asarray(jax.nn.softmax(loaded.apply_fn(loaded.variables, inputs)))
    predictions = prediction.predict(loaded, files, top=3)
    assert [row.path for row in predictions] == files
    for row, probabilities in zip(predictions, expected, strict=True):
        order = np.argsort(-probabilities)
        assert [entry.name for entry in row.classes] == [dataset.class_names[k] for k in order]
        np.testing.assert_allclose([entry.probability for entry in row.classes], probabilities[order], rtol=1e-4)
        assert sum(entry.probability for entry in row.classes) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("top", "expected"), [(1, 1), (2, 2), (9, 3)])
def test_as_many_classes_as_asked_for_or_as_there_are(loaded, files, top, expected):
    (row,) = prediction.predict(loaded, files[:1], top=top)
    assert len(row.classes) == expected


def test_an_image_is_brought_to_the_size_and_channels_of_training(loaded, dataset, tmp_path):
    large = Image.fromarray(dataset.test.images[0, ..., 0]).resize((16, 16), Image.Resampling.NEAREST).convert("RGB")
    large.save(tmp_path / "large.png")
    Image.fromarray(dataset.test.images[0, ..., 0]).save(tmp_path / "own.png")
    large, own = prediction.predict(loaded, [tmp_path / "large.png", tmp_path / "own.png"], top=1)
    assert large.classes[0].name == own.classes[0].name
    assert large.classes[0].probability == pytest.approx(own.classes[0].probability, abs=0.05)


def test_a_file_that_is_no_image_is_named(loaded, files, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png"):
        prediction.predict(loaded, [*files, tmp_path / "text.png"], top=1)


def test_classes_whose_names_are_not_known_are_called_by_their_numbers(loaded, dataset, files):
    unnamed = replace(loaded, config=replace(loaded.config, dataset=None))
    (named,), (numbered,) = (prediction.predict(opened, files[:1], top=3) for opened in (loaded, unnamed))
    assert [dataset.class_names[int(row.name)] for row in numbered.classes] == [row.name for row in named.classes]
