"""BN layers are found by each framework's own names, at any depth; nothing else is taken for one."""

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.inspection.readers.arrays import in_memory
from bncli.inspection.readers.conventions import CONVENTIONS
from bncli.inspection.readers.grouping import find_batch_norms

MEAN, VAR, SCALE, BIAS = (np.full(3, value, np.float32) for value in (1, 2, 3, 4))


def found_in(tree):
    """{label: {array: its value}} of the layers in a tree, in their order."""
    return {
        layer.label: {name: float(array.values()[0]) for name, array in layer.arrays.items()}
        for layer in find_batch_norms(in_memory(tree))
    }


def nest(flat):
    """{"a.b": array} as nested dicts."""
    tree = {}
    for name, array in flat.items():
        *parents, leaf = name.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = array
    return tree


WHOLE = {"mean": 1.0, "var": 2.0, "scale": 3.0, "bias": 4.0}
TORCH = {"running_mean": MEAN, "running_var": VAR, "weight": SCALE, "bias": BIAS, "num_batches_tracked": np.int64(7)}
KERAS = {"moving_mean": MEAN, "moving_variance": VAR, "gamma": SCALE, "beta": BIAS}
LINEN = {"batch_stats": {"norm": {"mean": MEAN, "var": VAR}}, "params": {"norm": {"scale": SCALE, "bias": BIAS}}}
AVERAGE = {"hidden": MEAN, "average": MEAN, "counter": np.int32(7)}
HAIKU = {
    "state": {
        "net/~/batch_norm/~/mean_ema": AVERAGE,
        "net/~/batch_norm/~/var_ema": AVERAGE | {"average": VAR},
    },
    "params": {"net/~/batch_norm": {"scale": SCALE, "offset": BIAS}},
}
NNX = {"bn1": {name: {"value": array} for name, array in zip(WHOLE, (MEAN, VAR, SCALE, BIAS), strict=True)}}

# what it is -> the tree; the layers' labels
TREES = {
    "Flax": (LINEN, ["norm"]),
    "Flax, in a state": ({"state": LINEN, "step": np.int32(1)}, ["norm"]),
    "Flax, an item for each collection": (
        {"a": {"batch_stats": LINEN["batch_stats"]}, "b": {"params": LINEN["params"]}},
        ["norm"],
    ),
    "Flax NNX": (NNX, ["bn1"]),
    "Haiku": (HAIKU, ["net/~/batch_norm"]),
    "Keras": ({"net": {"bn_1": KERAS}}, ["net/bn_1"]),
    "PyTorch": (nest({f"layer1.0.bn1.{name}": array for name, array in TORCH.items()}), ["layer1.0.bn1"]),
    "PyTorch, old names": (nest({"bn.gamma": SCALE, "bn.beta": BIAS} | nest({"bn": {}})), []),
}


@pytest.mark.parametrize("name", TREES)
def test_each_framework_s_names_are_known(name):
    tree, labels = TREES[name]
    assert found_in(tree) == dict.fromkeys(labels, WHOLE)


@pytest.mark.parametrize("missing", [("weight",), ("bias",), ("weight", "bias")])
def test_scale_and_bias_may_be_missing(missing):
    (layer,) = found_in({"bn": {name: array for name, array in TORCH.items() if name not in missing}}).values()
    assert layer == {name: value for name, value in WHOLE.items() if {"scale": "weight"}.get(name, name) not in missing}


@pytest.mark.parametrize(
    "tree",
    [
        {"params": {"norm": {"scale": SCALE, "bias": BIAS}}},  # LayerNorm
        {"conv": {"weight": SCALE, "bias": BIAS}},
        {"normalizer": {"mean": MEAN, "var": VAR}},  # of the input: no BN layer by its name, without γ and β
        {"bn": {"running_mean": MEAN}},
        {"bn": {"running_var": VAR}},
        {"batch_stats": {"count": {"mean": MEAN}}},
        {},
    ],
)
def test_nothing_else_is_a_bn_layer(tree):
    assert found_in(tree) == {}


def test_a_layer_may_itself_be_called_mean():
    assert found_in({"batch_stats": {"mean": {"mean": MEAN, "var": VAR}, "var": {"other": MEAN}}}) == {
        "mean": {"mean": 1.0, "var": 2.0}
    }


@pytest.mark.parametrize("freeze", [flax.core.freeze, lambda tree: tree])
def test_the_variables_of_a_module_that_is_itself_a_bn_layer_are_one(freeze):
    variables = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), jnp.ones((2, 3)))
    assert found_in(freeze(variables)) == {"": {"mean": 0.0, "var": 1.0, "scale": 1.0, "bias": 0.0}}


def test_layers_keep_the_order_of_the_file():
    assert list(found_in(dict.fromkeys(("z", "a", "m"), TORCH))) == ["z", "a", "m"]


def test_conventions_differ_in_where_statistics_stand():
    assert len({(convention.mean, convention.collections) for convention in CONVENTIONS}) == len(CONVENTIONS)
