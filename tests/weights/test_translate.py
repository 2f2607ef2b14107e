"""Laws of the translation: every array is accounted for, and what does not fit is named on both sides."""

import numpy as np
import pytest
from support.torch_weights import state_dict

from bncli.errors import CheckpointError
from bncli.weights.translate import translated

RESNET = "torchvision or timm"


@pytest.fixture(scope="module")
def arrays():
    return state_dict("resnet18", RESNET)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("model", "library"),
    [
        ("resnet18", RESNET),
        ("mobilenet_v2", "torchvision"),
        ("efficientnet_lite1", "timm"),
        ("efficientnet_lite2", "timm"),
        ("efficientnet_lite0", "efficientnet-pytorch"),
    ],
)
def test_the_network_is_recognised_and_every_array_accounted_for(model, library):
    arrays = state_dict(model, library)
    found = translated(arrays, model=None, origin="file")
    assert (found.model, found.library) == (model, library)
    assert {row.source for row in (*found.rows, *found.ignored)} == set(arrays)
    assert {row.target for row in found.rows} == set(found.variables)
    assert all(row.source.endswith("num_batches_tracked") for row in found.ignored)


def test_layouts(arrays):
    found = translated(arrays, model=None, origin="file").variables
    kernel = arrays["conv1.weight"]  # [O, I, H, W]
    np.testing.assert_array_equal(found["params/conv_init/kernel"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found["params/Dense_0/kernel"], arrays["fc.weight"].T)
    np.testing.assert_array_equal(found["batch_stats/BatchNorm_0/var"], arrays["bn1.running_var"])


@pytest.mark.parametrize("prefix", ["module.", "state_dict.", "model.module.backbone."])
def test_what_stands_in_front_of_the_names_is_taken_off(arrays, prefix):
    wrapped = {f"{prefix}{name}": array for name, array in arrays.items()} | {"optimizer.0": np.ones(3)}
    found = translated(wrapped, model=None, origin="file")
    assert found.model == "resnet18"
    assert [row.source for row in found.ignored if "outside" in row.reason] == ["optimizer.0"]


def test_weights_come_before_averages_of_them(arrays):
    both = {f"state_dict_ema.{name}": array + 1 for name, array in arrays.items()}
    both |= {f"state_dict.{name}": array for name, array in arrays.items()}
    found = translated(both, model=None, origin="file")
    np.testing.assert_array_equal(found.variables["params/Dense_0/bias"], arrays["fc.bias"])
    assert {row.source for row in found.ignored} == {name for name in both if "ema" in name or "tracked" in name}


def changed(arrays, **changes):
    """The arrays with some replaced, or removed where the value is None."""
    names = {key.replace("__", "."): value for key, value in changes.items()}
    return {name: array for name, array in {**arrays, **names}.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bn1__bias": None}, ["missing: bn1.bias [64]", "params/BatchNorm_0/bias [64]"]),
        ({"layer9__0__weight": np.ones((2, 3))}, ["without a place: layer9.0.weight [2, 3]"]),
        (
            {"layer1__0__conv1__weight": np.ones((64, 32, 3, 3), np.float32)},
            ["layer1.0.conv1.weight [64, 32, 3, 3]", "ResNetBlock_0/Conv_0/kernel [3, 3, 64, 64]", "[64, 64, 3, 3]"],
        ),
        ({"bn1__weight": np.ones(64, np.int8)}, ["bn1.weight [64], int8"]),
    ],
)  # fmt: skip
def test_a_misfit_names_both_sides(arrays, changes, words):
    with pytest.raises(CheckpointError) as caught:
        translated(changed(arrays, **changes), model="resnet18", origin="file.pth")
    assert caught.value.message.startswith("file.pth holds other arrays than resnet18")
    assert all(word in caught.value.message for word in words), caught.value.message


def test_another_network_is_named_in_the_remedy(arrays):
    with pytest.raises(CheckpointError, match="missing") as caught:
        translated(arrays, model="resnet34", origin="file")
    assert caught.value.remedy == "These are the weights of resnet18: --model resnet18."


def test_a_network_that_no_library_has(arrays):
    with pytest.raises(CheckpointError, match="no library publishes weights of resnet20"):
        translated(arrays, model="resnet20", origin="file")


@pytest.mark.parametrize("arrays", [{}, {"x": np.ones(3)}])
def test_arrays_of_no_network(arrays):
    with pytest.raises(CheckpointError, match="no network that bncli knows"):
        translated(arrays, model=None, origin="file")
