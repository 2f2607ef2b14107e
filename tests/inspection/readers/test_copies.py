"""Several copies of one network: the weights themselves are looked at, and what is not is said."""

import numpy as np
import pytest

from bncli.inspection.readers.arrays import in_memory
from bncli.inspection.readers.assembly import contents_of
from bncli.inspection.readers.settings import Asked


def network(value, names=("bn1", "bn2")):
    array = np.full(2, value, np.float32)
    return {name: {"running_mean": array, "running_var": array, "weight": array, "bias": array} for name in names}


def read(tree):
    contents = contents_of(in_memory(tree), file_format="pytorch", asked=Asked())
    return {layer.name: layer.mean[0] for layer in contents.layers}, contents.notes


@pytest.mark.parametrize(
    ("tree", "note"),
    [
        ({"model": network(1), "model_ema": network(2)}, "read from model; model_ema holds the same layers again"),
        ({"ema": network(2), "net": network(1)}, "read from net; ema holds the same layers again"),
        ({**network(1), "module": network(2)}, "read from the top level; module holds the same layers again"),
        ({"state_dict": {"model": network(1), "model_ema": network(2)}}, "read from state_dict.model; "),
    ],
)
def test_the_weights_come_before_their_average(tree, note):
    layers, notes = read(tree)
    assert layers == {"bn1": 1.0, "bn2": 1.0}
    assert any(text.startswith(note) for text in notes)


@pytest.mark.parametrize("wrapper", ["state_dict", "module", "_orig_mod", "model"])
def test_what_a_network_is_wrapped_in_is_no_part_of_names_where_it_says_nothing(wrapper):
    layers, notes = read({wrapper: network(1)})
    assert set(layers) in ({"bn1", "bn2"}, {f"{wrapper}.bn1", f"{wrapper}.bn2"})
    assert not any("again" in note for note in notes)
    if wrapper in ("module", "_orig_mod"):  # DataParallel and torch.compile add them to every name
        assert set(layers) == {"bn1", "bn2"}


def noisy(seed, near=None, names=("bn1", "bn2")):
    """A network of random statistics, or those of another one a little later."""
    draw = np.random.default_rng(seed)
    layers = {}
    for name in names:
        mean, var = draw.normal(size=8), np.exp(draw.normal(size=8))
        if near is not None:
            mean, var = near[name]["running_mean"] + 0.1 * mean, near[name]["running_var"] * 1.1
        layers[name] = {"running_mean": mean, "running_var": var, "weight": np.ones(8), "bias": np.zeros(8)}
    return layers


def names_and_notes(tree):
    contents = contents_of(in_memory(tree), file_format="pytorch", asked=Asked())
    return [layer.name for layer in contents.layers], [note for note in contents.notes if "again" in note]


@pytest.mark.parametrize(
    ("place", "note"),
    [
        (lambda net, copy: {"mine": net, "smooth": copy}, "read from mine; smooth holds the same layers again"),
        (lambda net, copy: {"run": {"a": net, "b": copy}}, "read from run.a; run.b holds the same layers again"),
        (lambda net, copy: {**net, "slow": copy}, "read from the top level; slow holds the same layers again"),
        (lambda net, copy: {"ema": copy, "mine": net}, "read from mine; ema holds the same layers again"),
    ],
)
def test_a_copy_under_any_name_is_known_by_its_numbers(place, note):
    net = noisy(0)
    assert names_and_notes(place(net, noisy(1, near=net))) == (["bn1", "bn2"], [note])


def test_networks_alike_in_nothing_but_names_are_all_looked_at():
    names, notes = names_and_notes({"left": noisy(0), "right": noisy(1)})
    assert names == ["left.bn1", "left.bn2", "right.bn1", "right.bn2"]
    assert notes == []
    untrained = {"running_mean": np.zeros(8), "running_var": np.ones(8)}
    names, notes = names_and_notes({"left": {"bn": untrained}, "right": {"bn": untrained}})
    assert (names, notes) == (["left.bn", "right.bn"], [])


@pytest.mark.parametrize("keys", ["01", ("layer1", "layer2"), ("net", "net2")])
def test_a_numbered_series_is_an_ensemble_or_one_network_however_alike_its_members(keys):
    net = noisy(0)
    names, notes = names_and_notes(dict(zip(keys, (net, noisy(1, near=net)), strict=True)))
    assert (len(names), notes) == (4, [])


def linen(prefix="", factor=1.0):
    array = np.arange(1.0, 5.0) * factor
    return {
        f"{prefix}batch_stats": {"BatchNorm_0": {"mean": array, "var": array}},
        f"{prefix}params": {"BatchNorm_0": {"scale": array, "bias": array}},
    }


@pytest.mark.parametrize("prefix", ["ema_", "polyak_"])
def test_collections_of_a_copy_are_no_layers_of_the_network(prefix):
    contents = contents_of(in_memory(linen() | linen(prefix, 1.1)), file_format="orbax", asked=Asked())
    (layer,) = contents.layers
    assert layer.name == "BatchNorm_0"
    np.testing.assert_array_equal(layer.scale, np.arange(1.0, 5.0))
    assert f"read from the top level; {prefix}batch_stats holds the same layers again" in contents.notes
    (alone,) = contents_of(in_memory(linen("ema_", 3.0)), file_format="orbax", asked=Asked()).layers
    np.testing.assert_array_equal(alone.scale, 3 * np.arange(1.0, 5.0))


def test_two_networks_that_differ_are_both_looked_at():
    layers, notes = read({"student": network(1), "teacher": network(2, names=("bn1", "other"))})
    assert layers == {"student.bn1": 1.0, "student.bn2": 1.0, "teacher.bn1": 2.0, "teacher.other": 2.0}
    assert not any("again" in note for note in notes)
