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


def test_two_networks_that_differ_are_both_looked_at():
    layers, notes = read({"student": network(1), "teacher": network(2, names=("bn1", "other"))})
    assert layers == {"student.bn1": 1.0, "student.bn2": 1.0, "teacher.bn1": 2.0, "teacher.other": 2.0}
    assert not any("again" in note for note in notes)
