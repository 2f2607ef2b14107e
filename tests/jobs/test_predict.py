"""Prediction on files is evaluation on arrays, whatever the number of files."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from bncli import checkpoint
from bncli.data import normalize
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
    predictions = prediction.predict(loaded, files, top=3).rows
    assert [row.path for row in predictions] == files
    for row, probabilities in zip(predictions, expected, strict=True):
        order = np.argsort(-probabilities)
        assert [entry.name for entry in row.classes] == [dataset.class_names[k] for k in order]
        np.testing.assert_allclose([entry.probability for entry in row.classes], probabilities[order], rtol=1e-4)
        assert sum(entry.probability for entry in row.classes) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("top", "expected"), [(1, 1), (2, 2), (9, 3)])
def test_as_many_classes_as_asked_for_or_as_there_are(loaded, files, top, expected):
    (row,) = prediction.predict(loaded, files[:1], top=top).rows
    assert len(row.classes) == expected


def test_an_image_is_brought_to_the_size_and_channels_of_training(loaded, dataset, tmp_path):
    large = Image.fromarray(dataset.test.images[0, ..., 0]).resize((16, 16), Image.Resampling.NEAREST).convert("RGB")
    large.save(tmp_path / "large.png")
    Image.fromarray(dataset.test.images[0, ..., 0]).save(tmp_path / "own.png")
    large, own = prediction.predict(loaded, [tmp_path / "large.png", tmp_path / "own.png"], top=1).rows
    assert large.classes[0].name == own.classes[0].name
    assert large.classes[0].probability == pytest.approx(own.classes[0].probability, abs=0.05)


def test_a_file_that_is_no_image_is_named_and_the_others_are_predicted(loaded, files, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    alone = prediction.predict(loaded, files, top=3)
    mixed = prediction.predict(loaded, [files[0], tmp_path / "text.png", tmp_path / "gone.png", *files[1:]], top=3)
    assert mixed.rows == alone.rows
    assert [failure.path.name for failure in mixed.failures] == ["text.png", "gone.png"]
    assert alone.error is None
    assert "2 of 12 have no prediction" in mixed.error.message
    assert f"{tmp_path / 'text.png'}: not an image" in mixed.error.message
    assert f"{tmp_path / 'gone.png'}: No such file" in mixed.error.message


def test_a_file_that_is_named_twice_has_two_rows(loaded, files):
    first, second = prediction.predict(loaded, [files[0], files[0]], top=3).rows
    assert first.path == second.path == files[0]


def test_clipped_pixels_are_said(loaded, tmp_path):
    ranged = replace(loaded.config.preprocessing, pixel_range=(0, 4095))
    opened = replace(loaded, config=replace(loaded.config, preprocessing=ranged))
    for name, largest in (("inside.png", 4095), ("outside.png", 4096)):
        Image.fromarray(np.full((8, 8), largest, np.uint16)).save(tmp_path / name)
    predictions = prediction.predict(opened, [tmp_path], top=1)
    assert [row.path.name for row in predictions.rows] == ["inside.png", "outside.png"]
    (note,) = predictions.notes
    assert "outside.png: pixels outside the range of the training images were clipped" in note


def test_batches_do_not_change_the_predictions(loaded, files, monkeypatch):
    whole = prediction.predict(loaded, files, top=3)
    calls = []
    monkeypatch.setattr(prediction, "_BATCH_VALUES", 3 * 64)  # three images of 8×8
    in_batches = prediction.predict(loaded, files, top=3, progress=lambda *call: calls.append(call))
    assert [call[1:] for call in calls] == [(3, 10), (6, 10), (9, 10), (10, 10)]
    assert [row.path for row in in_batches.rows] == [row.path for row in whole.rows]
    for row, expected in zip(in_batches.rows, whole.rows, strict=True):
        probabilities = [entry.probability for entry in expected.classes]
        assert [entry.probability for entry in row.classes] == pytest.approx(probabilities, rel=1e-4)


def test_a_folder_stands_for_the_images_below_in_natural_order(loaded, files, tmp_path):
    (tmp_path / "sub").mkdir()
    files[2].rename(tmp_path / "sub" / "1.png")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    predictions = prediction.predict(loaded, [tmp_path, tmp_path / "empty"], top=1)
    names = [str(row.path.relative_to(tmp_path)) for row in predictions.rows]
    assert names == [*(f"{k}.png" for k in range(10) if k != 2), "sub/1.png"]
    assert [str(failure.path) for failure in predictions.failures] == [str(tmp_path / "empty")]
    assert any("notes.txt" in note for note in predictions.notes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_failures(loaded, files, value):
    bias = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full_like(leaf, value) if "bias" in str(path[-1]) else leaf, loaded.variables
    )
    predictions = prediction.predict(replace(loaded, variables=bias), files, top=1)
    assert not predictions.rows
    assert {failure.reason for failure in predictions.failures} == {"the network's outputs are NaN or infinite"}
    assert "10 of 10 have no prediction" in predictions.error.message
    assert "inspect-stats" in predictions.error.remedy


def test_classes_whose_names_are_not_known_are_called_by_their_numbers(loaded, dataset, files):
    unnamed = replace(loaded, config=replace(loaded.config, dataset=None))
    (named,), (numbered,) = (prediction.predict(opened, files[:1], top=3).rows for opened in (loaded, unnamed))
    assert [dataset.class_names[int(row.name)] for row in numbered.classes] == [row.name for row in named.classes]
