"""What the checkpoint adds to its variables: ε, momentum, the order, and whether a ReLU follows."""

from dataclasses import replace

import pytest

from bncli import checkpoint
from bncli.inspection.readers.checkpoint import read_checkpoint


@pytest.mark.parametrize(("placement", "relu_follows"), [("pre", True), ("post", False)])
def test_the_settings_are_those_of_the_model(copied, placement, relu_follows):
    config = checkpoint.read_config(copied)
    model = replace(config.run.model, bn_placement=placement, bn_epsilon=0.25, bn_momentum=0.75)
    checkpoint.write_config(copied, replace(config, run=replace(config.run, model=model)))
    if placement == "post":  # its convolutions have a bias, which the save lacks: only eps, order and names are asked
        with pytest.raises(Exception, match="bias"):
            read_checkpoint(copied, step="best")
        return
    layers = read_checkpoint(copied, step="best").layers
    assert [(layer.epsilon, layer.momentum, layer.relu_follows) for layer in layers] == [(0.25, 0.75, relu_follows)] * 2


def test_the_step_that_is_asked_for_is_read(trained):
    first, last = (
        read_checkpoint(trained.out, step=str(step)) for step in (checkpoint.complete_steps(trained.out)[0], 12)
    )
    assert (first.layers[0].mean != last.layers[0].mean).any()
