"""Weights in a network: all of them, or all but the head."""

import jax
import numpy as np
import pytest
from support.networks import network_of

from bncli.errors import CheckpointError
from bncli.weights import fitted, read

SHAPE = (8, 8, 1)


def variables_of(trained, *, num_classes, shape=SHAPE):
    model = trained.config.run.model
    network = network_of(shape, num_classes=num_classes, name=model.name, args=model.args)
    return network.init(jax.random.key(3), shape)


def leaves(variables):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def test_with_the_same_classes_every_array_is_taken(trained):
    pretrained = read(str(trained.out))
    variables = variables_of(trained, num_classes=3)
    found = fitted(pretrained, variables, num_classes=3)
    assert not found.new
    filled = leaves(found.into(variables))
    for name, leaf in leaves(bncli_variables(trained)).items():
        np.testing.assert_array_equal(filled[name], leaf)


def bncli_variables(trained):
    import bncli

    return bncli.load(trained.out).variables


@pytest.mark.parametrize("num_classes", [2, 5])
def test_with_other_classes_the_head_is_new(trained, num_classes):
    pretrained = read(str(trained.out))
    variables = variables_of(trained, num_classes=num_classes)
    found = fitted(pretrained, variables, num_classes=num_classes)
    assert {row.target for row in found.new} == {"params/Dense_0/bias", "params/Dense_0/kernel"}
    assert {row.reason for row in found.new} == {
        f"the head is new and begins at 0: {num_classes} classes in place of 3"
    }
    before, after = leaves(variables), leaves(found.into(variables))
    head = {name for name in before if "Dense" in name}
    assert all(not np.any(after[name]) and after[name].shape == before[name].shape for name in head)
    kernel = "['params']['Conv_0']['kernel']"
    assert not np.array_equal(before[kernel], after[kernel])
    assert len(found.taken) + len(found.new) == len(before)


def test_an_array_of_another_shape_is_named_on_both_sides(trained):
    pretrained = read(str(trained.out))
    with pytest.raises(CheckpointError, match="of another shape: params/Dense_0/kernel") as caught:
        fitted(pretrained, variables_of(trained, num_classes=3, shape=(16, 16, 1)), num_classes=3)
    assert "in the network" in caught.value.message
    assert "--image-size" in caught.value.remedy


def test_what_the_source_lacks_and_what_has_no_place_is_named(trained):
    pretrained = read(str(trained.out))
    network = network_of(SHAPE, name="mlp", args={"features": [8]})
    with pytest.raises(CheckpointError, match=r"missing: .*; without a place: "):
        fitted(pretrained, network.init(jax.random.key(0), SHAPE), num_classes=3)
