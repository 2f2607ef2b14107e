"""Arrays of another library -> the variables of a built-in network: names and layouts, as tables.

Letters: O output and I input channels, H W the kernel's height and width, C channels, K classes. PyTorch has OIHW and
[K, C]; linen has HWIO and [C, K]. A depthwise kernel is O1HW there and HW1O here, which is the same permutation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import jax
import numpy as np

from bncli.config.settings import ModelConfig
from bncli.errors import CheckpointError
from bncli.models import build_network
from bncli.weights.names import LIBRARIES, OURS
from bncli.weights.networks import CONV, DENSE, NORM, known_networks
from bncli.weights.origins import possible_origins

Shape: TypeAlias = tuple[int, ...]

# The network is only traced, and its arrays do not depend on the size of the images.
_TRACED_IMAGE = (64, 64, 3)
# Number of arrays that a message names; it counts the others.
_SHOWN = 3
# The arrays that a network cannot share with one of other classes.
HEAD = ("params/Dense_0/bias", "params/Dense_0/kernel")


@dataclass(frozen=True)
class Target:
    """The place of an array in the variables.

    Attributes:
        path: such as ``params/conv_init/kernel``.
        axes: the permutation of the axes; None leaves them.
    """

    path: str
    axes: tuple[int, ...] | None = None

    def shape(self, source: Shape) -> Shape:
        """The shape here of an array that has this shape there."""
        return source if self.axes is None or len(source) != len(self.axes) else tuple(source[k] for k in self.axes)

    def source_shape(self, shape: Shape) -> Shape:
        """The shape there of an array that has this shape here."""
        if self.axes is None:
            return shape
        return tuple(shape[self.axes.index(k)] for k in range(len(shape)))

    def array(self, source: np.ndarray) -> np.ndarray:
        """The array, as it is here: float32."""
        moved = source if self.axes is None else source.transpose(self.axes)
        return np.ascontiguousarray(moved, np.float32)


# Kind of layer -> its arrays there -> (collection, name, axes) here.
_ARRAYS: Mapping[str, Mapping[str, tuple[str, str, tuple[int, ...] | None]]] = {
    CONV: {"weight": ("params", "kernel", (2, 3, 1, 0))},
    NORM: {
        "weight": ("params", "scale", None),
        "bias": ("params", "bias", None),
        "running_mean": ("batch_stats", "mean", None),
        "running_var": ("batch_stats", "var", None),
    },
    DENSE: {"weight": ("params", "kernel", (1, 0)), "bias": ("params", "bias", None)},
}
# Name of an array that no network of bncli has -> the reason to ignore it.
_NOT_NEEDED = {"num_batches_tracked": "BN's count of batches, which no network here needs"}


@dataclass(frozen=True)
class Row:
    """An array, and what becomes of it.

    Attributes:
        source: its name there; "" for an array that only the network has.
        source_shape: there.
        target: its path here; "" for an array that only the file has.
        shape: here.
        reason: why it was left out, or is new; "" if it was taken.
    """

    source: str
    source_shape: Shape
    target: str
    shape: Shape
    reason: str = ""


@dataclass(frozen=True)
class Translated:
    """The arrays of a file as variables of a network.

    Attributes:
        model: the network's name.
        library: a key of ``LIBRARIES``.
        variables: by path, float32; the head has the classes of the file.
        rows: of the arrays that were taken.
        ignored: of those that were not.
    """

    model: str
    library: str
    variables: Mapping[str, np.ndarray]
    rows: tuple[Row, ...]
    ignored: tuple[Row, ...]


def translated(arrays: Mapping[str, np.ndarray], *, model: str | None, origin: str) -> Translated:
    """The variables of a built-in network in the arrays of a file.

    Args:
        arrays: by their names in the file.
        model: the network; None to recognise it.
        origin: the file, for messages.

    Raises:
        CheckpointError: the arrays are not those of the network, or of none; names both sides.
    """
    candidates = [_Candidate.of(name, library, arrays) for name, library in _pairs(model)]
    if not candidates:
        raise CheckpointError(
            f"{origin}: no library publishes weights of {model} that bncli reads",
            remedy=f"It reads those of {', '.join(known_networks())}.",
        )
    fitting = [candidate for candidate in candidates if not candidate.complaints()]
    if fitting:
        return fitting[0].result()
    others = [] if model is None else [_Candidate.of(name, library, arrays) for name, library in _pairs(None)]
    actual = next((other.model for other in others if not other.complaints()), None)
    raise max(candidates, key=lambda candidate: candidate.likeness).refusal(origin, asked=model, actual=actual)


def _pairs(model: str | None) -> Iterator[tuple[str, str]]:
    """(model, library) of all tables that can fit."""
    for name, known in known_networks().items():
        for key, library in LIBRARIES.items():
            is_published = library.architecture == known.architecture and possible_origins(name, key)
            if model in (None, name) and is_published:
                yield name, key


@dataclass(frozen=True)
class _Candidate:
    """A network and a library that the arrays of a file may come from.

    Attributes:
        model: the network's name.
        library: the key of the library.
        arrays: all arrays of the file.
        prefix: what stands in front of their names, such as ``module.``.
    """

    model: str
    library: str
    arrays: Mapping[str, np.ndarray]
    prefix: str

    @classmethod
    def of(cls, model: str, library: str, arrays: Mapping[str, np.ndarray]) -> _Candidate:
        return cls(model, library, arrays, _prefix(arrays, targets(model, library)))

    @property
    def targets(self) -> Mapping[str, Target]:
        """Name in the file -> place."""
        return {f"{self.prefix}{name}": target for name, target in targets(self.model, self.library).items()}

    @property
    def likeness(self) -> float:
        """The share of names that the file and the network have in common."""
        own, wanted = set(self._own_names()), set(self.targets)
        return len(own & wanted) / len(own | wanted)

    def _own_names(self) -> list[str]:
        """The names in the file that belong to the network, and not to a counter or to something beside it."""
        return [name for name in self.arrays if name.startswith(self.prefix) and _last(name) not in _NOT_NEEDED]

    def complaints(self) -> dict[str, list[str]]:
        """The misfits by kind; shapes are compared only once all names fit, since that traces the network."""
        own, wanted = self._own_names(), self.targets
        missing = [name for name in wanted if name not in self.arrays]
        left = [f"{name} {_words(self.arrays[name].shape)}" for name in own if name not in wanted]
        found = {"missing": missing, "without a place": left}
        found = {kind: rows for kind, rows in found.items() if rows}
        return found or {kind: rows for kind, rows in {"of another shape": self._misfits()}.items() if rows}

    def _misfits(self) -> list[str]:
        expected = expected_shapes(self.model, max(1, self.num_classes))
        rows = []
        for name, target in self.targets.items():
            array, shape = self.arrays[name], expected[target.path]
            if array.shape != target.source_shape(shape) or not np.issubdtype(array.dtype, np.floating):
                there = f"{name} {_words(array.shape)}"
                rows.append(
                    f"{there}, {array.dtype}; {target.path} {_words(shape)} takes {_words(target.source_shape(shape))}"
                )
        return rows

    def _described(self, name: str) -> str:
        """An array that the file lacks, with its place and its shapes."""
        target = self.targets[name]
        shape = expected_shapes(self.model, max(1, self.num_classes))[target.path]
        return f"{name} {_words(target.source_shape(shape))} (here {target.path} {_words(shape)})"

    @property
    def num_classes(self) -> int:
        """K of the file; 0 if its head is no matrix."""
        kernel = next(name for name, target in self.targets.items() if target.path == HEAD[1])
        shape = self.arrays[kernel].shape if kernel in self.arrays else ()
        return shape[0] if len(shape) == 2 else 0

    def result(self) -> Translated:
        """The translation, for a candidate without complaints."""
        wanted = self.targets
        variables = {target.path: target.array(self.arrays[name]) for name, target in wanted.items()}
        rows = tuple(
            Row(name, self.arrays[name].shape, target.path, variables[target.path].shape)
            for name, target in wanted.items()
        )
        ignored = tuple(
            Row(name, array.shape, "", (), _NOT_NEEDED.get(_last(name), f"outside of {self.prefix or 'the network'}"))
            for name, array in self.arrays.items()
            if name not in wanted
        )
        return Translated(self.model, self.library, variables, rows, ignored)

    def refusal(self, origin: str, *, asked: str | None, actual: str | None) -> CheckpointError:
        """The error about a file that does not fit."""
        complaints = self.complaints()
        if "missing" in complaints:
            complaints["missing"] = [self._described(name) for name in complaints["missing"]]
        listed = "; ".join(f"{kind}: {_few(rows)}" for kind, rows in complaints.items())
        known = ", ".join(known_networks())
        if actual is not None:
            remedy = f"These are the weights of {actual}: --model {actual}."
        elif asked is None:
            remedy = f"bncli reads what torchvision and timm publish for {known}."
        else:
            remedy = f"Name the network that they belong to; bncli reads {known}, of torchvision and timm."
        nearest = "" if asked is not None else "no network that bncli knows; the nearest is "
        return CheckpointError(
            f"{origin} holds other arrays than {nearest}{self.model} of {self.library}: {listed}", remedy=remedy
        )


@cache
def targets(model: str, library: str) -> Mapping[str, Target]:
    """Name of each array in a library -> its place in a built-in network."""
    names, ours = LIBRARIES[library].names, OURS[LIBRARIES[library].architecture]
    return {
        f"{names[layer.role].format(**layer.place)}.{there}": Target(
            f"{collection}/{ours[layer.role].format(**layer.place)}/{here}", axes
        )
        for layer in known_networks()[model].layers
        for there, (collection, here, axes) in _ARRAYS[layer.kind].items()
    }


@cache
def expected_shapes(model: str, num_classes: int) -> Mapping[str, Shape]:
    """Path -> shape of each array of a built-in network, whose stem is the large one; nothing is computed."""
    args = {"small_images": False} if "resnet" in model else {}
    network = build_network(ModelConfig(name=model, args=args), num_classes=num_classes, image_shape=_TRACED_IMAGE)
    return shapes_of(jax.eval_shape(lambda: network.init(jax.random.key(0), _TRACED_IMAGE)))


def shapes_of(tree: object) -> dict[str, Shape]:
    """Path with slashes -> shape of each array in a tree of variables."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in leaves}


def _prefix(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Target]) -> str:
    """The prefix of a network's names in a file; of several, the one with most of them.

    Of equals, weights come before averages of them, and fewer words before more.
    """
    first = next(iter(wanted))
    found = {name.removesuffix(first) for name in arrays if name == first or name.endswith(f".{first}")}

    def rank(prefix: str) -> tuple[int, bool, int]:
        count = sum(f"{prefix}{name}" in arrays for name in wanted)
        return -count, "ema" in prefix.lower(), len(prefix)

    return min(found or {""}, key=rank)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _words(shape: Sequence[int]) -> str:
    return str(list(shape))


def _few(rows: Sequence[str]) -> str:
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"{', '.join(rows[:_SHOWN])}{more}"
