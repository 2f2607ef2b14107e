"""Folding a checkpoint: what the proof is made on, and what the written forward pass can do."""

import io
import json
import shutil
from dataclasses import replace

import jax
import jax.export
import numpy as np
import pytest
from rich.console import Console
from support import tiny
from support.breadth import broad
from support.foreign_files import IMAGE_SHAPE, make_state, make_variables, save_msgpack, save_standard, write_net

import bncli
from bncli import checkpoint
from bncli.cli import render
from bncli.config.settings import ModelConfig
from bncli.data import Augmentation
from bncli.data.dataset import RawDataset, build_dataset
from bncli.errors import FoldError
from bncli.jobs.fold import FoldOptions, fold_checkpoint


@pytest.fixture(scope="module")
def folded(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("folded") / "out"
    fold_checkpoint(bncli.load(trained.out), out)
    return out


def test_without_the_data_random_images_are_used_and_said_so(trained, tmp_path):
    # The fixture's data set lies nowhere on disk: its source is "a test".
    result = fold_checkpoint(bncli.load(trained.out), tmp_path / "out")
    assert "random images" in result.examples
    assert result.verification.passed
    assert json.loads((tmp_path / "out" / "fold_report.json").read_text()) == render.fold_json(result)


@pytest.mark.sample(1)
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_forward_pass_takes_any_batch_and_equals_the_original(trained, folded, batch_size):
    original, after = bncli.load(trained.out), bncli.load(folded)
    images = np.random.default_rng(batch_size).normal(size=(batch_size, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(
        after.apply_fn(after.variables, images), original.apply_fn(original.variables, images), rtol=1e-4, atol=1e-5
    )
    assert after.model is None
    assert "batch_stats" not in after.variables


def test_forward_pass_is_read_without_bncli(folded):
    exported = jax.export.deserialize(bytearray((folded / checkpoint.FORWARD).read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    images = np.zeros((2, 8, 8, 1), np.float32)
    assert exported.call(bncli.load(folded).variables, images).shape == (2, 3)


def test_bad_statistics_are_refused_by_name_and_nothing_is_written(trained, tmp_path):
    source = shutil.copytree(trained.out, tmp_path / "ckpt")
    step = checkpoint.find_step(source, "best")
    variables = checkpoint.load_variables(source, step)
    variables["batch_stats"]["BatchNorm_0"]["var"][1] = np.nan
    checkpoint.save(
        source,
        step,
        variables=variables,
        optimizer={"step": np.int32(step)},
        progress=checkpoint.read_progress(source, step),
    )
    with pytest.raises(FoldError, match="BatchNorm_0"):
        fold_checkpoint(bncli.load(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def with_dead_layer(trained, tmp_path, name):
    """The trained checkpoint with a BN whose outputs are far below zero: the ReLU behind it lets nothing pass."""
    source = shutil.copytree(trained.out, tmp_path / "ckpt")
    step = checkpoint.find_step(source, "best")
    variables = checkpoint.load_variables(source, step)
    variables["params"][name]["bias"] -= 30
    checkpoint.save(
        source,
        step,
        variables=variables,
        optimizer={"step": np.int32(step)},
        progress=checkpoint.read_progress(source, step),
    )
    return bncli.load(source)


def test_where_all_logits_are_equal_values_inside_are_compared(trained, tmp_path):
    last = max(bncli.load(trained.out).variables["batch_stats"])
    result = fold_checkpoint(with_dead_layer(trained, tmp_path, last), tmp_path / "out", dry_run=True)
    assert (result.verification.status, result.verification.passed) == ("proved", True)
    assert result.verification.note == "the outputs do not show every fold, so values inside were compared too"


def test_a_fold_that_no_image_shows_is_not_proved_and_said_so(trained, tmp_path):
    result = fold_checkpoint(with_dead_layer(trained, tmp_path, "BatchNorm_0"), tmp_path / "out", dry_run=True)
    assert (result.verification.status, result.verification.passed) == ("not proved", False)
    document = render.fold_json(result)["verification"]
    assert (document["status"], document["passed"]) == ("not proved", False)
    console = Console(width=200, file=io.StringIO())
    console.print(render.fold_text(result))
    text = console.file.getvalue()
    assert "not proved on " in text
    assert "no value that varies with the input shows the fold of BatchNorm_1" in text


@pytest.mark.parametrize("size", broad([9, 14], lambda size: False))
def test_odd_sizes_before_a_pool_fold_completely(tmp_path, size):
    rng = np.random.default_rng(0)
    raw = RawDataset(
        name="noise",
        class_names=("a", "b", "c"),
        train=tiny.make_split(30, seed=0, size=size),
        val=tiny.make_split(9, seed=1, size=size),
        test=tiny.make_split(9, seed=2, size=size),
        augmentation=Augmentation(max_shift=1),
        source="a test",
    )
    dataset = build_dataset(raw, val_fraction=0.1, seed=0)
    config = tiny.run_config(
        model=tiny.CNN | {"args": {"features": [4, 4]}, "bn_placement": "post"}, training={"epochs": 1}
    )
    tiny.train(config, dataset, tmp_path / "ckpt")
    result = fold_checkpoint(bncli.load(tmp_path / "ckpt"), tmp_path / "out")
    assert (result.report.folded, result.report.kept) == (4, 0)
    folded = bncli.load(tmp_path / "out")
    assert folded.apply_fn(folded.variables, rng.normal(size=(5, size, size, 1)).astype(np.float32)).shape == (5, 3)


@pytest.mark.broad
def test_a_model_that_indexes_its_input_still_folds(dataset, tmp_path):
    # x[:, 1:] is traced differently under a symbolic batch size.
    (tmp_path / "net.py").write_text(
        "import flax.linen as nn\n"
        "class Net(nn.Module):\n"
        "    num_classes: int\n"
        "    @nn.compact\n"
        "    def __call__(self, x, train):\n"
        "        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Conv(4, (3, 3))(x[:, 1:, :-1]))\n"
        "        return nn.Dense(self.num_classes)(nn.relu(x).reshape(x.shape[0], -1))\n"
    )
    config = tiny.run_config(model={"name": f"{tmp_path}/net.py:Net", "args": {}}, training={"epochs": 1})
    tiny.train(config, dataset, tmp_path / "ckpt")
    result = fold_checkpoint(bncli.load(tmp_path / "ckpt"), tmp_path / "out")
    assert result.report.folded == 1
    original, folded = bncli.load(tmp_path / "ckpt"), bncli.load(tmp_path / "out")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(
        folded.apply_fn(folded.variables, images), original.apply_fn(original.variables, images), rtol=1e-4, atol=1e-5
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("save", [save_msgpack, save_standard])
def test_another_programs_checkpoint_becomes_one_like_any_other(save, tmp_path):
    save(tmp_path / "saved", make_state(make_variables()))
    model = ModelConfig(name=write_net(tmp_path))
    original = checkpoint.open_foreign(tmp_path / "saved", model=model, image_shape=IMAGE_SHAPE, std=(0.5,))
    result = fold_checkpoint(original, tmp_path / "out")
    assert (result.report.folded, result.report.kept) == (1, 0)
    assert "random images" in result.examples
    assert result.notes == original.notes
    assert json.loads((tmp_path / "out" / "fold_report.json").read_text()) == render.fold_json(result)
    folded = bncli.load(tmp_path / "out")
    assert "batch_stats" not in folded.variables
    assert (folded.config.folded_from.checkpoint, folded.config.folded_from.step) == (str(tmp_path / "saved"), 0)
    assert folded.config.preprocessing == original.config.preprocessing
    images = np.random.default_rng(0).normal(size=(5, *IMAGE_SHAPE)).astype(np.float32)
    np.testing.assert_allclose(
        folded.apply_fn(folded.variables, images), original.apply_fn(original.variables, images), rtol=1e-4, atol=1e-5
    )


@pytest.mark.broad
def test_dead_channels_leave_the_checkpoint_and_its_exports(trained, tmp_path):
    original = bncli.load(trained.out)
    variables = jax.tree.map(np.array, original.variables)
    variables["params"]["BatchNorm_0"]["scale"][1] = 0
    variables["params"]["BatchNorm_0"]["bias"][1] = -0.5
    planted = replace(original, variables=variables)
    plain = fold_checkpoint(planted, tmp_path / "plain")
    result = fold_checkpoint(
        planted, tmp_path / "out", FoldOptions(prune_dead=True, exports=("stablehlo", "safetensors"))
    )
    assert result.pruned is not None
    (row,) = result.pruned.layers
    assert (row.layers, row.removed, row.zero) == (("Conv_0",), (1,), 1)
    assert result.verification.passed
    assert all(export.verification is None or export.verification.passed for export in result.exports)
    assert plain.pruned is None
    before, after = bncli.load(tmp_path / "plain"), bncli.load(tmp_path / "out")
    assert before.variables["params"]["Conv_0"]["kernel"].shape[-1] == 4
    assert after.variables["params"]["Conv_0"]["kernel"].shape[-1] == 3
    for number in (1, 5):
        images = np.random.default_rng(number).integers(0, 256, (number, 8, 8, 1), dtype=np.uint8)
        np.testing.assert_allclose(after.logits(images), before.logits(images), rtol=1e-4, atol=1e-5)
    document = json.loads((tmp_path / "out" / "fold_report.json").read_text())["pruned"]
    assert document["removed"] == 1
    assert document["parameters"]["after"] < document["parameters"]["before"]


def test_without_a_dead_channel_pruning_says_so_and_changes_nothing(trained, tmp_path):
    original = bncli.load(trained.out)
    plain = fold_checkpoint(original, tmp_path / "plain")
    pruned = fold_checkpoint(original, tmp_path / "out", FoldOptions(prune_dead=True))
    assert pruned.pruned is not None
    assert pruned.pruned.removed == 0
    assert plain.verification == pruned.verification
