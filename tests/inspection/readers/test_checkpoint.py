"""What the checkpoint adds to its variables: ε, momentum, the order, and whether a ReLU follows."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from bncli import checkpoint
from bncli.errors import FoldError
from bncli.inspection.readers import Asked
from bncli.inspection.readers.checkpoint import read
from bncli.jobs.recalibrate import Sampling, recalibrate_checkpoint
from bncli.models import build_network


@pytest.mark.parametrize(("placement", "relu_follows"), [("pre", True), ("post", False)])
def test_the_settings_are_those_of_the_model(copied, placement, relu_follows):
    config = checkpoint.read_config(copied)
    model = replace(config.run.model, bn_placement=placement, bn_epsilon=0.25, bn_momentum=0.75)
    checkpoint.write_config(copied, replace(config, run=replace(config.run, model=model)))
    network = build_network(model, num_classes=3, image_shape=(8, 8, 1))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (8, 8, 1)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    checkpoint.save(copied, 99, variables=variables, optimizer={"step": np.int32(99)}, progress={"best": None})
    layers = read(copied, Asked(step="last")).layers
    assert [layer.name for layer in layers] == ["BatchNorm_0", "BatchNorm_1"]
    assert {(layer.epsilon, layer.momentum, layer.relu_follows) for layer in layers} == {(0.25, 0.75, relu_follows)}


def test_the_step_that_is_asked_for_is_read(trained):
    steps = [str(step) for step in checkpoint.complete_steps(trained.out)]
    earlier, last = (read(trained.out, Asked(step=step)) for step in (steps[0], steps[-1]))
    assert (earlier.layers[0].mean != last.layers[0].mean).any()


def test_it_says_how_often_running_averages_were_updated_and_which_are_none(copied, dataset, tmp_path):
    assert {(layer.updates, layer.measured) for layer in read(copied, Asked(step="12")).layers} == {(12, False)}
    recalibrate_checkpoint(checkpoint.load(copied), tmp_path / "out", dataset, Sampling(num_batches=None))
    layers = read(tmp_path / "out", Asked(step="best")).layers
    assert {(layer.updates, layer.measured) for layer in layers} == {(None, True)}


def test_a_network_that_no_fold_takes_is_noted(copied, monkeypatch):
    def refuse(apply_fn, variables, example, *, verify):
        raise FoldError("BatchNorm_0 normalises with the statistics of the batch")

    monkeypatch.setattr("bncli.inspection.readers.checkpoint.fold", refuse)
    contents = read(copied, Asked(step="best"))
    assert {layer.kept for layer in contents.layers} == {None}
    assert contents.notes == (
        "bncli fold refuses this network: BatchNorm_0 normalises with the statistics of the batch",
    )
