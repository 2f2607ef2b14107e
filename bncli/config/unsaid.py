"""The facts that another program's checkpoint does not say: its model's arguments, and the form of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bncli.config.json_types import JSON


@dataclass(frozen=True, kw_only=True)
class Unsaid:
    """The facts that another program's checkpoint does not say; empty or None if not given.

    Attributes:
        model_args: keyword arguments of the model.
        image_shape: (H, W, C) of one image.
        mean: per channel [C], of pixels in [0, 1]; None for 0.
        std: per channel [C]; None for 1.
    """

    model_args: Mapping[str, JSON] = field(default_factory=dict)
    image_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The options that give the facts, if they are given."""
        given = {
            "--model-arg": bool(self.model_args),
            "--input-shape": self.image_shape is not None,
            "--mean": self.mean is not None,
            "--std": self.std is not None,
        }
        return tuple(option for option, is_given in given.items() if is_given)
