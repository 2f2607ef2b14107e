"""The ``config.json`` that timm writes beside its weights: architecture, preprocessing, class names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bncli.config.choices import Interpolation
from bncli.errors import CheckpointError
from bncli.process.files import read_regular
from bncli.weights.origins import Images

_MAX_BYTES = 1 << 22
_TENSORFLOW = "tf_"
_INTERPOLATIONS: Mapping[object, Interpolation] = {"bicubic": "bicubic", "bilinear": "bilinear"}


@dataclass(frozen=True)
class TimmConfig:
    """The facts that timm records about a file of weights.

    Attributes:
        path: the ``config.json``.
        architecture: timm's name of the network, such as ``tf_efficientnet_lite0``.
        settings: of the preprocessing, as in its ``pretrained_cfg``.
        class_names: if it has them.
    """

    path: Path
    architecture: str
    settings: Mapping[str, object]
    class_names: tuple[str, ...] | None

    @property
    def is_tensorflow(self) -> bool:
        """True if the network was ported from TensorFlow, with its padding and ε."""
        return self.architecture.startswith(_TENSORFLOW)

    def images(self, default: Images) -> Images:
        """The preprocessing: the default with what is said here.

        Raises:
            CheckpointError: a value is none that bncli can follow.
        """
        size = self._size(default.size)
        share = self._number("crop_pct", 0.875)
        if not 0 < share <= 1:
            raise self._bad("crop_pct", share)
        words = self.settings.get("interpolation", default.interpolation)
        if words not in _INTERPOLATIONS:
            raise self._bad("interpolation", words)
        return replace(
            default,
            size=size,
            resize=int(size / share),
            interpolation=_INTERPOLATIONS[words],
            mean=self._channels("mean", default.mean, least=-math.inf),
            std=self._channels("std", default.std, least=0),
        )

    def _size(self, default: int) -> int:
        shape = self.settings.get("input_size", [3, default, default])
        if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
            raise self._bad("input_size", shape)
        if not isinstance(shape[1], int) or not 1 <= shape[1] < 1 << 16:
            raise self._bad("input_size", shape)
        return shape[1]

    def _number(self, name: str, default: float) -> float:
        value = self.settings.get(name, default)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self._bad(name, value)
        return float(value)

    def _channels(self, name: str, default: tuple[float, ...], *, least: float) -> tuple[float, ...]:
        values = self.settings.get(name, list(default))
        if not isinstance(values, list) or len(values) != 3:
            raise self._bad(name, values)
        if any(not isinstance(value, int | float) or not least < value < math.inf for value in values):
            raise self._bad(name, values)
        return tuple(map(float, values))

    def _bad(self, name: str, value: object) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {name} is {str(value)[:80]}, which bncli cannot follow",
            remedy="Correct it, or move the file away and name the preprocessing by options.",
        )


def beside(weights: Path) -> TimmConfig | None:
    """The content of timm's ``config.json`` beside a file of weights; None if there is none of timm's."""
    path = weights.with_name("config.json")
    try:
        document = json.loads(read_regular(path, limit=_MAX_BYTES))
    except (OSError, RecursionError, ValueError):
        return None
    if not isinstance(document, Mapping) or not isinstance(document.get("architecture"), str):
        return None
    settings = document.get("pretrained_cfg")
    names = document.get("label_names")
    return TimmConfig(
        path,
        document["architecture"],
        settings if isinstance(settings, Mapping) else {},
        tuple(map(str, names)) if isinstance(names, list) else None,
    )
