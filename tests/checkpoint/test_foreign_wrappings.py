"""The network in a wrapped checkpoint is the one that was wrapped: fold reads whatever inspect-stats reads."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from support.foreign_files import IMAGE_SHAPE, make_state, make_variables, save_item, save_msgpack, write_net

from bncli.checkpoint import open_foreign, sha256_tree
from bncli.checkpoint.foreign_wrappings import count_replicas, unbox
from bncli.config.settings import ModelConfig
from bncli.errors import CheckpointError
from bncli.inspection import inspect_stats

VARIABLES = make_variables()
SAVES = {"msgpack": save_msgpack, "orbax": save_item}


def partitioned(tree):
    return jax.tree.map(lambda array: nn.Partitioned(array, names=(None,) * array.ndim), tree)


def logically_partitioned(tree):
    box = nn.LogicallyPartitioned
    return {**tree, "params": jax.tree.map(lambda array: box(array, names=(None,) * array.ndim), tree["params"])}


def replicated(tree):
    return jax.tree.map(lambda array: np.stack([array] * 4), tree)


def raw(tree):
    return jax.tree.map(lambda array: {"raw_value": array}, tree)


WRAPPINGS = {
    "Partitioned": partitioned,
    "LogicallyPartitioned": logically_partitioned,
    "replicas": replicated,
    "one replica": lambda tree: jax.tree.map(lambda array: array[None], tree),
    "raw values": raw,
    "boxes of replicas": lambda tree: raw(replicated(tree)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ModelConfig(name=write_net(tmp_path_factory.mktemp("net")))


def open_net(path, model):
    return open_foreign(path, model=model, image_shape=IMAGE_SHAPE)


@pytest.mark.sample(4)
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_network_is_the_one_that_was_wrapped(wrapping, save, model, tmp_path):
    SAVES[save](tmp_path / "saved", {"state": WRAPPINGS[wrapping](VARIABLES)})
    opened = open_net(tmp_path / "saved", model)
    assert sha256_tree(opened.variables) == sha256_tree(VARIABLES)
    (row,) = inspect_stats(tmp_path / "saved").layers
    mean = VARIABLES["batch_stats"]["BatchNorm_0"]["mean"]
    assert row.mean.max == pytest.approx(mean.max())


def test_a_replicated_training_state_is_read(model, tmp_path):
    save_msgpack(tmp_path / "saved", replicated(make_state(VARIABLES)))
    opened = open_net(tmp_path / "saved", model)
    assert sha256_tree(opened.variables) == sha256_tree(VARIABLES)
    assert "the first of 4 replicas is taken" in opened.notes


def test_statistics_that_differ_between_replicas_are_said(model, tmp_path):
    tree = replicated(VARIABLES)
    tree["batch_stats"]["BatchNorm_0"]["mean"][1:] += 1
    save_msgpack(tmp_path / "saved", tree)
    opened = open_net(tmp_path / "saved", model)
    assert sha256_tree(opened.variables) == sha256_tree(VARIABLES)
    assert any("whose BN statistics differ" in note for note in opened.notes)


def test_networks_side_by_side_are_refused(model, tmp_path):
    tree = replicated(VARIABLES)
    tree["params"]["Dense_0"]["kernel"][2] += 1
    save_msgpack(tmp_path / "saved", tree)
    with pytest.raises(CheckpointError, match=r"holds 4 networks side by side: .* params/Dense_0/kernel differs"):
        open_net(tmp_path / "saved", model)


def test_only_what_the_model_does_not_know_is_a_box():
    array = np.zeros(3)
    known = {("a", "value"): array, ("b",): array}
    assert unbox(known, {("a", "value"): (3,), ("b",): (3,)}) == known
    twice = {("a", "value"): array, ("a", "raw_value"): array}
    assert unbox(twice, {("a",): (3,)}) == twice


def test_replicas_need_one_number_in_all_arrays():
    expected = {("a",): (3,), ("b",): ()}
    assert count_replicas({("a",): np.zeros((2, 3)), ("b",): np.zeros(2)}, expected) == 2
    assert count_replicas({("a",): np.zeros((2, 3)), ("b",): np.zeros(3)}, expected) is None
    assert count_replicas({("a",): np.zeros((2, 3)), ("b",): np.zeros(())}, expected) is None
    assert count_replicas({("a",): np.zeros((0, 3)), ("b",): np.zeros(0)}, expected) is None
    assert count_replicas({("a",): np.zeros(3), ("b",): np.zeros(())}, expected) is None
