"""The timed function: every kind of network computes the same, and only comparable networks are compared."""

import json

import jax
import numpy as np
import pytest

import bncli
from bncli.config.document import sealed
from bncli.errors import CheckpointError, RuntimeCheckError, UsageError
from bncli.jobs.bench import Target, open_network, random_images, read_target
from bncli.jobs.bench.networks import first_call


@pytest.mark.parametrize("kind", ["trained", "folded", "onnx"])
def test_a_call_makes_logits_on_the_host_whatever_the_kind(kinds, target, trained, kind):
    images = random_images(target, 5)
    checkpoint = bncli.load(trained.out)
    expected = checkpoint.apply_fn(checkpoint.variables, images)
    network = open_network(kinds[kind])
    logits = network.call(images)
    assert isinstance(logits, np.ndarray)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert network.kind == kind
    assert network.step == checkpoint.step


def test_onnxruntime_is_called_directly_and_not_through_jax(kinds, target, monkeypatch):
    network = open_network(kinds["onnx"])
    monkeypatch.setattr(jax, "pure_callback", None)
    monkeypatch.setattr(jax, "jit", None)
    assert network.call(random_images(target, 2)).shape == (2, 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_images_are_normalised_in_the_precision_and_always_the_same(precision):
    target = Target((8, 6, 3), precision)
    images = random_images(target, 64)
    assert images.shape == (64, 8, 6, 3)
    assert images.dtype.name == precision
    assert abs(images.astype(np.float32).mean()) < 0.05
    assert abs(images.astype(np.float32).std() - 1) < 0.05
    np.testing.assert_array_equal(images, random_images(target, 64))


def test_the_target_is_that_of_every_kind(kinds):
    assert read_target(list(kinds.values())) == Target((8, 8, 1), "float32")


def changed(directory, section, field, value):
    """A copy of the checkpoint with a changed value in its ``config.json``."""
    path = directory / "config.json"
    document = json.loads(path.read_text())
    place = document
    for key in section.split("."):
        place = place[key]
    place[field] = value
    path.write_text(sealed(document))
    return directory


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("preprocessing", "size", [9, 8], ["(8, 8, 1)", "(9, 8, 1)"]),
        ("run.training", "precision", "bfloat16", ["float32", "bfloat16"]),
    ],
)
def test_networks_that_cannot_be_compared_are_named(trained, copied, section, field, value, words):
    other = changed(copied, section, field, value)
    with pytest.raises(UsageError) as caught:
        read_target([trained.out, trained.out, other])
    for word in (str(trained.out), str(other), *words):
        assert word in caught.value.message


def test_what_is_no_checkpoint_is_named(trained, tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        read_target([trained.out, tmp_path / "missing"])


def test_a_file_that_no_description_helps_is_named_before_one_is_asked_for(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="holds no network that bncli can run") as caught:
        read_target([tmp_path / "net.keras"])
    assert "bncli.fold(model, example)" in caught.value.remedy


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_a_batch_too_large_for_the_memory_is_an_error_with_a_remedy(error):
    def call(images):
        raise error

    with pytest.raises(RuntimeCheckError, match="batch of 7") as caught:
        first_call(call, np.zeros((7, 1, 1, 1)))
    assert "--batch-sizes" in caught.value.remedy


def test_any_other_error_of_jax_is_left_alone():
    def call(images):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        first_call(call, np.zeros((7, 1, 1, 1)))
