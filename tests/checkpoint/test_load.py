"""An opened checkpoint: the variables and the network the run ended with, and no code run that was not trained."""

import importlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from support.tiny import CNN, run_config, train

from bncli import checkpoint
from bncli.config.settings import ModelConfig
from bncli.errors import DataError, ModelError, UsageError
from bncli.inspection import inspect_stats
from bncli.models import build_own_network, model_file_sha256
from bncli.training.assembly import checkpoint_config


def test_a_trained_checkpoint_has_the_variables_the_run_ended_with(trained):
    loaded = checkpoint.load(trained.out, step="last")
    assert checkpoint.load(trained.out, step=loaded.step).step == loaded.step
    assert checkpoint.sha256_tree(loaded.variables["params"]) == trained.sha256.params
    assert checkpoint.sha256_tree(loaded.variables["batch_stats"]) == trained.sha256.batch_stats
    assert loaded.config == trained.config
    assert loaded.model.features == (4,)
    assert loaded.progress["best"]["epoch"] == trained.best.epoch
    images = np.zeros((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(
        loaded.apply_fn(loaded.variables, images), loaded.model.apply(loaded.variables, images, train=False)
    )


@pytest.mark.parametrize("batch_size", [64, 4])
def test_logits_are_those_of_the_network_on_normalized_images(trained, dataset, batch_size):
    loaded = checkpoint.load(trained.out)
    images = dataset.test.images[:10]
    logits = loaded.logits(images, batch_size=batch_size)
    assert (logits.shape, logits.dtype) == ((10, 3), np.float32)
    expected = loaded.model.apply(loaded.variables, loaded.preprocessor(images), train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 9, 1), np.uint8), np.zeros((0, 8, 8, 1), np.uint8)]
)
def test_logits_of_other_images_are_refused(trained, images):
    with pytest.raises(UsageError, match=r"not uint8 \[N, H, W, C\] with \[H, W, C\] = \[8, 8, 1\]"):
        checkpoint.load(trained.out).logits(images)


def test_nothing_is_pickled(trained, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a checkpoint was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    checkpoint.load(trained.out)
    assert not [path for path in trained.out.rglob("*") if path.suffix in (".pkl", ".pickle")]


# The user's own model.

NET = """
import flax.linen as nn

class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))
"""


@pytest.fixture
def of_custom_model(copied, dataset, tmp_path):
    """(checkpoint directory, model file) of a model of the user's own, which was run before; never trained."""
    file = tmp_path / "net.py"
    file.write_text(NET)
    build_own_network(f"{file}:Net", {"num_classes": 3})
    config = checkpoint_config(run_config(model={**CNN, "args": {}, "name": f"{file}:Net"}), dataset)
    checkpoint.write_config(copied, config)
    return copied, file


def test_the_users_model_is_loaded_while_its_file_is_what_was_trained(of_custom_model):
    out, file = of_custom_model
    assert type(checkpoint.load(out).model).__name__ == "Net"
    assert checkpoint.read_config(out).model_sha256 == model_file_sha256(f"{file}:Net")


@pytest.mark.parametrize("change", ["changed", "missing"])
def test_other_code_is_not_run_unless_it_is_named(of_custom_model, change):
    out, file = of_custom_model
    trap = file.with_name("was_run")
    if change == "missing":
        file.unlink()
    else:
        file.write_text(f"open({str(trap)!r}, 'w').close()\n" + NET)
    with pytest.raises(ModelError, match=r"net\.py:Net is missing or has changed since training") as caught:
        checkpoint.load(out)
    assert f"--model {file}:Net" in caught.value.remedy
    assert not trap.exists()
    if change == "changed":
        assert checkpoint.load(out, model=f"{file}:Net").model is not None
        assert trap.exists()


def test_code_that_comes_with_a_checkpoint_is_not_run_unless_it_is_named(copied, dataset):
    trap = copied / "was_run"
    file = copied / "net.py"
    file.write_text(f"open({str(trap)!r}, 'w').close()\n" + NET)
    checkpoint.write_config(
        copied, checkpoint_config(run_config(model={**CNN, "args": {}, "name": f"{file}:Net"}), dataset)
    )
    with pytest.raises(ModelError, match="lies inside the checkpoint"):
        checkpoint.load(copied)
    assert not trap.exists()
    assert checkpoint.load(copied, model=f"{file}:Net").model is not None


@pytest.mark.parametrize("place", ["beside the checkpoint", "elsewhere"])
def test_code_that_the_user_never_ran_is_not_run_though_its_hash_is_right(copied, dataset, place, tmp_path):
    """Who makes a checkpoint writes any hash into it, and knows where the files he sends along will lie."""
    file = (copied.parent if place == "beside the checkpoint" else tmp_path / "downloads") / "sent_along.py"
    file.parent.mkdir(exist_ok=True)
    trap = tmp_path / "was_run"
    file.write_text(f"open({str(trap)!r}, 'w').close()\n" + NET)
    name = f"{file}:Net"
    checkpoint.write_config(copied, checkpoint_config(run_config(model={**CNN, "args": {}, "name": name}), dataset))
    for read in (checkpoint.load, inspect_stats):
        with pytest.raises(ModelError, match="was not run by you before") as caught:
            read(copied)
        assert caught.value.remedy == f"If you trust it, name it: --model {name}"
    assert not trap.exists()
    checkpoint.load(copied, model=name)
    assert trap.exists()
    assert checkpoint.load(copied).model is not None  # the user has chosen it, once for all


def test_a_copy_of_code_that_the_user_ran_is_other_code(of_custom_model, dataset, tmp_path):
    """Beside it may lie other modules that it imports."""
    out, file = of_custom_model
    copy = tmp_path / "elsewhere" / "net.py"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    model = {**CNN, "args": {}, "name": f"{copy}:Net"}
    checkpoint.write_config(out, checkpoint_config(run_config(model=model), dataset))
    with pytest.raises(ModelError, match="was not run by you before"):
        checkpoint.load(out)


@pytest.mark.parametrize("name", ["antigravity:Net", "ctypes.util:Net", "no_such_package.net:Net", "sys:Net", ":Net"])
def test_no_module_is_imported_because_a_checkpoint_names_it(copied, dataset, name, monkeypatch):
    def import_module(name):
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(importlib, "import_module", import_module)
    checkpoint.write_config(copied, checkpoint_config(run_config(model={**CNN, "args": {}, "name": name}), dataset))
    with pytest.raises(ModelError, match=r"--model|missing|not run by you"):
        checkpoint.load(copied)


def test_a_known_model_has_no_code_of_its_own(copied):
    config = checkpoint.read_config(copied)
    checkpoint.write_config(copied, replace(config, model_sha256="0" * 64))
    with pytest.raises(ModelError, match="missing or has changed"):
        checkpoint.load(copied)


def test_what_training_ran_is_trusted(dataset, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NET)
    train(
        run_config(model={**CNN, "args": {}, "name": f"{file}:Net"}, training={"epochs": 1}), dataset, tmp_path / "ckpt"
    )
    assert checkpoint.load(tmp_path / "ckpt").model is not None


def test_a_model_that_has_moved_is_loaded_from_where_it_is_named(of_custom_model, tmp_path):
    out, file = of_custom_model
    moved = file.rename(tmp_path / "moved.py")
    assert type(checkpoint.load(out, model=f"{moved}:Net").model).__name__ == "Net"


def test_a_configuration_that_names_an_unknown_model_is_refused(copied):
    config = checkpoint.read_config(copied)
    checkpoint.write_config(copied, replace(config, run=replace(config.run, model=ModelConfig(name=":Net"))))
    with pytest.raises(ModelError):
        checkpoint.load(copied)


@pytest.mark.parametrize("side", [30_000, 65_535])
def test_a_size_that_no_memory_holds_is_refused_before_the_network_is_built(copied, monkeypatch, side):
    monkeypatch.setattr("bncli.process.memory.available_memory", lambda: 4 << 30)
    config = checkpoint.read_config(copied)
    preprocessing = replace(config.preprocessing, size=(side, side))
    checkpoint.write_config(copied, replace(config, preprocessing=preprocessing))
    with pytest.raises(DataError, match=f"config.json: an image of {side}x{side}x1: .* of memory needed"):
        checkpoint.load(copied)
