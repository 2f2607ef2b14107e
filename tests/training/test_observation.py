"""What is kept of each layer after an epoch: percentiles of what it hands on, and of its running statistics."""

from __future__ import annotations

import json
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from bncli import checkpoint
from bncli.config.settings import ModelConfig
from bncli.errors import BncliWarning, CheckpointError, TrainingInterruptedError
from bncli.frameworks.linen import as_network
from bncli.models import build_network
from bncli.training.observation import PERCENTILES, LayerObserver

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8, 8, 1)), jnp.float32)


def network_of(**model):
    network = build_network(ModelConfig(**tiny.CNN | model), num_classes=3, image_shape=(8, 8, 1))
    return network, network.init(jax.random.key(0), (8, 8, 1))


def test_percentiles_of_bn_layers_in_train_mode():
    network, variables = network_of()
    variables["batch_stats"]["BatchNorm_0"]["mean"] += jnp.arange(4.0)
    rows = LayerObserver(network, IMAGES)(variables)
    assert [row.name for row in rows] == ["BatchNorm_0", "BatchNorm_1"]
    # Normalised by the batch: a standard Gaussian, near enough, whatever the running statistics are.
    low, middle, high = rows[0].output
    assert low == pytest.approx(-1.0, abs=0.2)
    assert middle == pytest.approx(0.0, abs=0.1)
    assert high == pytest.approx(1.0, abs=0.2)
    np.testing.assert_allclose(rows[0].mean, np.percentile([0.0, 1.0, 2.0, 3.0], PERCENTILES))
    assert rows[0].var == (1.0, 1.0, 1.0)


def test_without_bn_the_convolutions_and_dense_layers_are_looked_at():
    network, variables = network_of(bn=False)
    rows = LayerObserver(network, IMAGES)(variables)
    assert [row.name for row in rows] == ["Conv_0", "Conv_1", "Dense_0"]
    assert all(row.mean is None and row.var is None for row in rows)
    logits = network.logits(variables, IMAGES)
    np.testing.assert_allclose(rows[-1].output, np.percentile(logits, PERCENTILES), rtol=1e-5, atol=1e-6)


def test_training_keeps_one_row_an_epoch(trained):
    rows = checkpoint.read_layers(trained.out)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [layer["name"] for layer in rows[0]["layers"]] == ["BatchNorm_0", "BatchNorm_1"]
    assert rows[0]["layers"][0]["mean"] != rows[3]["layers"][0]["mean"]


@pytest.mark.broad
def test_a_resumed_run_has_each_epoch_once_and_the_same_numbers(dataset, tmp_path):
    config = tiny.run_config(training={"epochs": 3})
    tiny.train(config, dataset, tmp_path / "whole")
    with pytest.raises(TrainingInterruptedError):
        tiny.train(config, dataset, tmp_path / "stopped", stop_after=(2, 1))
    # As after a crash between the row and the save: the row of an epoch that is done again.
    checkpoint.append_layers(tmp_path / "stopped", {"epoch": 3, "layers": []})
    tiny.train(config, dataset, tmp_path / "stopped", resume=True)
    assert checkpoint.read_layers(tmp_path / "stopped") == checkpoint.read_layers(tmp_path / "whole")


@pytest.mark.parametrize("line", ["{", '{"epoch": 1}', "[]", '{"epoch": "x", "layers": []}'])
def test_a_damaged_row_is_named(tmp_path, line):
    checkpoint.append_layers(tmp_path, {"epoch": 1, "layers": []})
    with (tmp_path / "layers.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CheckpointError, match=r"layers\.jsonl: line 2 is damaged"):
        checkpoint.read_layers(tmp_path)


@pytest.mark.broad
def test_precise_statistics_are_read_and_training_goes_on_from_the_others(dataset, tmp_path):
    """A run with --precise-bn that is extended ends where one without it ends."""
    runs = {}
    for precise in (False, True):
        out = tmp_path / str(precise)
        short = tiny.run_config(optimizer={"schedule_epochs": 3}, training={"epochs": 2, "precise_bn": precise})
        first = tiny.train(short, dataset, out)
        assert (first.precise is not None) == precise
        step = first.best.step
        raw = json.loads(json.dumps(checkpoint.has_precise_statistics(out, step)))
        assert raw == precise
        long = tiny.run_config(optimizer={"schedule_epochs": 3}, training={"epochs": 3, "precise_bn": precise})
        runs[precise] = tiny.train(long, dataset, out, resume=True)
    assert runs[True].sha256 == runs[False].sha256
    step = runs[True].best.step
    stats = [checkpoint.load_variables(tmp_path / str(precise), step) for precise in (False, True)]
    assert checkpoint.sha256_tree(stats[0]["params"]) == checkpoint.sha256_tree(stats[1]["params"])
    assert checkpoint.sha256_tree(stats[0]["batch_stats"]) != checkpoint.sha256_tree(stats[1]["batch_stats"])
    assert runs[True].precise.num_examples == len(dataset.train)


def test_precise_statistics_of_a_network_without_bn_are_none(dataset, tmp_path):
    config = tiny.run_config(model={"bn": False}, training={"epochs": 1, "precise_bn": True})
    assert tiny.train(config, dataset, tmp_path / "out").precise is None


class Block(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x, _=None):
        return nn.relu(x + nn.BatchNorm(use_running_average=not self.train)(nn.Conv(4, (3, 3))(x))), None


def scanned(train):
    axes = {"params": 0, "batch_stats": 0}
    return nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=2)(train)


def mapped(train):
    axes = {"params": 0, "batch_stats": 0}
    return lambda x, _: (
        nn.vmap(Block, in_axes=None, variable_axes=axes, split_rngs={"params": True}, axis_size=2)(train)(x)[0][0],
        None,
    )


LOOPS = {
    "nn.scan": scanned,
    "nn.vmap": mapped,
    "nn.remat": lambda train: nn.remat(Block)(train),
    "nn.jit": lambda train: nn.jit(Block)(train),
}


class Looping(nn.Module):
    """A network with one BN outside of a loop and one inside."""

    loop: str
    with_outer: bool = True

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        if self.with_outer:
            x = nn.BatchNorm(use_running_average=not train, name="outer")(x)
        x, _ = LOOPS[self.loop](train)(x, None)
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.mark.sample(1)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("with_outer", [True, False])
def test_layers_inside_a_transformation_are_left_out_with_one_warning(loop, with_outer):
    network = as_network(Looping(loop, with_outer))
    variables = network.init(jax.random.key(0), (8, 8, 1))
    observer = LayerObserver(network, IMAGES)
    with pytest.warns(BncliWarning, match=r"BatchNorm_0: inside a loop .*layers\.jsonl leaves out such layers") as told:
        rows = observer(variables)
    assert len(told) == 1
    assert [row.name for row in rows] == ["outer"] * with_outer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert observer(variables) == rows


@pytest.mark.broad
def test_a_network_with_a_loop_trains_to_the_end(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("bncli.training.assembly.build_network", lambda *_, **__: as_network(Looping("nn.scan")))
    config = tiny.run_config(training={"epochs": 1, "precise_bn": True})
    with pytest.warns(BncliWarning) as told:
        result = tiny.train(config, dataset, tmp_path / "ckpt")
    assert [str(warning.message).partition(":")[0] for warning in told] == [
        "ScanBlock_0/BatchNorm_0",
        "--precise-bn was left out",
    ]
    assert (result.epochs_run, result.precise) == (1, None)
    (row,) = checkpoint.read_layers(tmp_path / "ckpt")
    assert [layer["name"] for layer in row["layers"]] == ["outer"]
