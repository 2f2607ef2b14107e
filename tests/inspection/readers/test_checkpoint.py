"""What the checkpoint adds to its variables: ε, momentum, the order, and whether a ReLU follows."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from bncli import checkpoint
from bncli.inspection.readers.checkpoint import read_checkpoint
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
    layers = read_checkpoint(copied, step="last").layers
    assert [layer.name for layer in layers] == ["BatchNorm_0", "BatchNorm_1"]
    assert {(layer.epsilon, layer.momentum, layer.relu_follows) for layer in layers} == {(0.25, 0.75, relu_follows)}


def test_the_step_that_is_asked_for_is_read(trained):
    steps = [str(step) for step in checkpoint.complete_steps(trained.out)]
    earlier, last = (read_checkpoint(trained.out, step=step) for step in (steps[0], steps[-1]))
    assert (earlier.layers[0].mean != last.layers[0].mean).any()
