"""The facts that weights need beside their arrays, by origin: BN's constants, padding, and the preprocessing of images.

A file of arrays says none of it. It follows from the library that published the file; timm says more in the
``config.json`` beside its files, and torchvision's two generations of weights are told apart by their SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bncli.config.choices import Interpolation, WeightsOrigin
from bncli.errors import UsageError

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Images:
    """The preprocessing of images: shorter side to ``resize``, centre of ``size``, (x/255 − mean)/std.

    Attributes:
        size: H and W.
        resize: the shorter side before the crop.
        interpolation: the filter.
        mean: per channel.
        std: per channel.
    """

    size: int
    resize: int
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def cropped(
        cls, size: int, share: float, interpolation: Interpolation, normalization: tuple[tuple[float, ...], ...]
    ) -> Images:
        """As timm words it: the crop is ``share`` of the resized image."""
        return cls(size, int(size / share), interpolation, *normalization)


@dataclass(frozen=True)
class Origin:
    """The constants that the networks of a library share.

    Attributes:
        name: as in ``--weights-from``.
        libraries: keys of ``names.LIBRARIES`` whose names it uses.
        models: the beginning of the names of its networks.
        epsilon: ε of BN.
        momentum: of BN, the weight of the old value: 1 − PyTorch's.
        padding: of convolutions and pooling.
        images: by model; "" is any other.
    """

    name: WeightsOrigin
    libraries: tuple[str, ...]
    models: tuple[str, ...]
    epsilon: float
    momentum: float
    padding: str
    images: Mapping[str, Images]

    def images_of(self, model: str) -> Images:
        """The preprocessing for a network."""
        return self.images.get(model) or self.images[""]


def _by_size(sizes: Mapping[int, tuple[int, float]], normalization: tuple[tuple[float, ...], ...]) -> dict[str, Images]:
    """The preprocessing of EfficientNet-Lite by its number."""
    return {
        f"efficientnet_lite{number}": Images.cropped(size, share, "bicubic", normalization)
        for number, (size, share) in sizes.items()
    }


# In the order of likelihood: of several that fit, the first is assumed where only the preprocessing differs.
ORIGINS: tuple[Origin, ...] = (
    Origin(
        "torchvision",
        ("torchvision or timm", "torchvision"),
        ("resnet", "mobilenet_v2"),
        1e-5,
        0.9,
        "symmetric",
        {"": Images(224, 256, "bilinear", *_IMAGENET)},
    ),
    Origin(
        "timm",
        ("torchvision or timm", "timm"),
        ("resnet", "mobilenet_v2", "efficientnet_lite"),
        1e-5,
        0.9,
        "symmetric",
        {
            "": Images.cropped(224, 0.95, "bicubic", _IMAGENET),
            "mobilenet_v2": Images.cropped(224, 0.875, "bicubic", _IMAGENET),
            **_by_size({0: (224, 0.875), 1: (240, 0.882), 2: (260, 0.89), 3: (300, 0.904), 4: (380, 0.922)}, _IMAGENET),
        },
    ),
    Origin(
        "timm-tf",
        ("timm",),
        ("efficientnet_lite",),
        1e-3,
        0.99,
        "same",
        {
            **_by_size({0: (224, 0.875), 1: (240, 0.882), 2: (260, 0.89)}, _HALF),
            "efficientnet_lite3": Images.cropped(300, 0.904, "bilinear", _HALF),
            "efficientnet_lite4": Images.cropped(380, 0.92, "bilinear", _HALF),
        },
    ),
    Origin(
        "efficientnet-pytorch",
        ("efficientnet-pytorch",),
        ("efficientnet_lite",),
        1e-3,
        0.99,
        "same",
        _by_size({0: (224, 0.875), 1: (240, 0.882), 2: (260, 0.89), 3: (280, 0.904), 4: (300, 0.92)}, _HALF),
    ),
)
# torchvision's second generation of weights, by the first 8 digits of their SHA-256, with which their names end: their
# images are resized to 232 pixels.
_TORCHVISION_V2 = ("11ad3fa6", "63fe2227", "cd907fc2", "f82ba261", "7ebf99e0")


def possible_origins(model: str, library: str) -> tuple[Origin, ...]:
    """The origins that name the arrays of a network so."""
    return tuple(origin for origin in ORIGINS if library in origin.libraries and model.startswith(origin.models))


def named_origin(name: WeightsOrigin, *, model: str, library: str) -> Origin:
    """The origin of ``--weights-from``.

    Raises:
        UsageError: it names the arrays of the network otherwise.
    """
    possible = possible_origins(model, library)
    found = next((origin for origin in possible if origin.name == name), None)
    if found is None:
        raise UsageError(
            f"--weights-from {name}: the arrays have the names that {library} gives to {model}",
            remedy=f"Leave it out, or choose {' or '.join(origin.name for origin in possible)}.",
        )
    return found


def by_content(images: Images, sha256: str) -> Images:
    """The preprocessing of a file of torchvision, whose second generation has another one."""
    return replace(images, resize=232) if sha256[:8] in _TORCHVISION_V2 else images
