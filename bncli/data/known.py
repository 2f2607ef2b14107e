"""The table of data sets known by name, with their publishers' addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bncli.data.augment import Augmentation

Format = Literal["cifar", "digits", "idx"]


@dataclass(frozen=True)
class RemoteFile:
    """A file as its publisher serves it. Messages to the user name the first mirror."""

    name: str
    size: int  # bytes
    sha256: str
    mirrors: tuple[str, ...]  # URLs of folders, without the trailing slash

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of the file, in the order to try."""
        return tuple(f"{mirror}/{self.name}" for mirror in self.mirrors)


@dataclass(frozen=True)
class KnownDataset:
    """A data set known by name."""

    name: str
    description: str
    image_shape: tuple[int, int, int]  # (H, W, C)
    class_names: tuple[str, ...]
    num_examples: int
    format: Format
    augmentation: Augmentation
    files: tuple[RemoteFile, ...] = ()
    # Folders below a data folder where other tools put the same files.
    subfolders: tuple[str, ...] = ()
    found: str | None = None  # its place on this machine; filled by `known_datasets`

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


_DIGITS = tuple("0123456789")

_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

_CIFAR100_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
# The authors' own repository; the bucket that their README names serves over HTTP only.
_FASHION_MIRRORS = ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",)
_CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz",)

_CIFAR_AUGMENTATION = Augmentation(max_shift=4, pad_mode="reflect", horizontal_flip=True)

_TABLE = (
    KnownDataset(
        name="cifar10",
        description="CIFAR-10: 32x32 colour photographs of animals and vehicles",
        image_shape=(32, 32, 3),
        class_names=_CIFAR10_NAMES,
        num_examples=60_000,
        format="cifar",
        augmentation=_CIFAR_AUGMENTATION,
        subfolders=("cifar-10-batches-bin",),
        files=(
            RemoteFile(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                _CIFAR_MIRRORS,
            ),
        ),
    ),
    KnownDataset(
        name="cifar100",
        description="CIFAR-100: 32x32 colour photographs, 100 fine classes",
        image_shape=(32, 32, 3),
        class_names=_CIFAR100_NAMES,
        num_examples=60_000,
        format="cifar",
        augmentation=_CIFAR_AUGMENTATION,
        subfolders=("cifar-100-binary",),
        files=(
            RemoteFile(
                "cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                _CIFAR_MIRRORS,
            ),
        ),
    ),
    KnownDataset(
        name="digits",
        description="8x8 scans of handwritten digits, part of bncli; needs no download",
        image_shape=(8, 8, 1),
        class_names=_DIGITS,
        num_examples=1_797,
        format="digits",
        augmentation=Augmentation(max_shift=1),
    ),
    KnownDataset(
        name="fashion-mnist",
        description="Fashion-MNIST: 28x28 grey pictures of clothes",
        image_shape=(28, 28, 1),
        class_names=_FASHION_NAMES,
        num_examples=70_000,
        format="idx",
        augmentation=Augmentation(max_shift=2, horizontal_flip=True),
        subfolders=("FashionMNIST/raw", "raw"),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                _FASHION_MIRRORS,
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                _FASHION_MIRRORS,
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                _FASHION_MIRRORS,
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                _FASHION_MIRRORS,
            ),
        ),
    ),
    KnownDataset(
        name="mnist",
        description="MNIST: 28x28 grey scans of handwritten digits",
        image_shape=(28, 28, 1),
        class_names=_DIGITS,
        num_examples=70_000,
        format="idx",
        augmentation=Augmentation(max_shift=2),
        subfolders=("MNIST/raw", "raw"),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                _MNIST_MIRRORS,
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                _MNIST_MIRRORS,
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                _MNIST_MIRRORS,
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                _MNIST_MIRRORS,
            ),
        ),
    ),
)

KNOWN: dict[str, KnownDataset] = {known.name: known for known in _TABLE}
