"""The content of ``config.json``: what was asked for, and what the data and the machine added to it.

A checkpoint can be read without its data set, because its ``config.json`` holds the preprocessing and the class names.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from bncli.config.choices import Interpolation
from bncli.config.file_names import displayed_document
from bncli.config.json_types import Document
from bncli.config.settings import Pixels, RunConfig
from bncli.config.validation import describe, shown
from bncli.errors import ConfigError

SCHEMA = "bncli.config/1"
# Under this key the metadata of an exported ONNX model hold the text of the checkpoint's ``config.json``.
ONNX_KEY = "bncli.config"

# The field of ``config.json`` that holds the SHA-256 of all others.
CHECKSUM = "sha256"

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

# Unknown fields are ignored: a newer bncli may add fields, and an older one can still read the checkpoint.
_FROZEN = ConfigDict(extra="ignore", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class Crop:
    """The way from an image file to the network's size: scale the shorter side to ``resize``, cut out the centre."""

    resize: Pixels
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class Preprocessing:
    """From a uint8 image to the network's input: resize to ``size``, then (x/255 − mean)/std per channel.

    Before that, pixels of more than 8 bits are scaled from ``pixel_range`` to 0 … 255. It is None if the images of the
    training had 8 bits. With ``crop`` an image file is resized as it says; without, until it just covers ``size``.
    """

    size: tuple[Pixels, Pixels]  # height, width in pixels
    channels: Pixels
    mean: tuple[Finite, ...]  # [C]
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]  # [C]
    pixel_range: tuple[Finite, Finite] | None = None  # low < high
    crop: Crop | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers for {self.channels} channels")
        if self.pixel_range is not None and not self.pixel_range[0] < self.pixel_range[1]:
            raise ValueError(f"pixel_range goes from {self.pixel_range[0]} to {self.pixel_range[1]}")
        if self.crop is not None and self.crop.resize < max(self.size):
            raise ValueError(f"crop resizes to {self.crop.resize}, less than {max(self.size)}")
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.size, self.channels)


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class DatasetRecord:
    """Which data a run saw: enough to recognise it again."""

    name: str
    source: str
    sha256: str
    class_names: tuple[str, ...]
    num_train: Count
    num_val: Count
    num_test: Count


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class FoldedFrom:
    """The origin of a folded checkpoint."""

    checkpoint: str
    step: Count
    params_sha256: str
    folded: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class Recalibrated:
    """The origin of a checkpoint's BN statistics, if they are no running averages."""

    checkpoint: str
    step: Count
    num_examples: Count
    runs: Count


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class WeightsRecord:
    """The weights that a training began with, or that a checkpoint was converted from.

    ``origin`` is the library that they were made for; ``num_classes`` and ``class_names`` are theirs.
    """

    source: str
    sha256: str
    origin: str
    num_classes: Annotated[int, Field(ge=1)]
    class_names: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names has {len(self.class_names)} names for {self.num_classes} classes")
        return self


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class CheckpointConfig:
    """The content of ``config.json``: what was asked for, and what data and machine added to it.

    ``dataset`` is None where the data are not known: the checkpoint was made of another program's. ``run`` then says
    of the data and the training only what was found in the network.
    """

    run: RunConfig
    preprocessing: Preprocessing
    dataset: DatasetRecord | None
    versions: dict[str, str]
    model_sha256: str | None = None  # of the user's own model file
    folded_from: FoldedFrom | None = None
    recalibrated: Recalibrated | None = None
    weights: WeightsRecord | None = None
    schema: str = SCHEMA

    @property
    def num_classes(self) -> int | None:
        """K; None if it is not known."""
        if self.dataset is not None:
            return len(self.dataset.class_names)
        return None if self.weights is None else self.weights.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes; None if they are not known."""
        if self.dataset is not None:
            return self.dataset.class_names
        return None if self.weights is None else self.weights.class_names


_ADAPTER = TypeAdapter(CheckpointConfig)


def to_json(config: CheckpointConfig) -> str:
    """The text of ``config.json``: the fields, and the SHA-256 of what they say."""
    return sealed(displayed_document(_ADAPTER.dump_python(config)))


def sealed(document: Document) -> str:
    """A document as the text of a ``config.json``, with the SHA-256 of its content.

    The sum is over the canonical JSON of all other fields, with sorted keys and no spaces: how the text is laid out
    does not matter.
    """
    content = {name: value for name, value in document.items() if name != CHECKSUM}
    return json.dumps({**content, CHECKSUM: _content_sha256(content)}, indent=2, ensure_ascii=False) + "\n"


def _content_sha256(content: Document) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def from_json(text: str, *, path: Path) -> CheckpointConfig:
    """The configuration in the text of a ``config.json``.

    One without a SHA-256 of its content is taken as it is: earlier versions wrote none.

    Raises:
        ConfigError: it is no JSON, of an unknown schema, a value is missing or out of range, or its SHA-256 is not that
            of its content; names the file and the field.
    """
    try:
        config = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {describe(error)}",
            remedy="This file is written by `bncli train`; restore it from a copy, or train again.",
        ) from None
    if config.schema != SCHEMA:
        raise ConfigError(
            f"{path}: schema is {shown(config.schema)}, this bncli reads {SCHEMA!r}",
            remedy="Use the bncli version that wrote it.",
        )
    _check_sha256(text, path)
    return config


def _check_sha256(text: str, path: Path) -> None:
    try:
        document = json.loads(text)
        is_right = CHECKSUM not in document or document.pop(CHECKSUM) == _content_sha256(document)
    except (RecursionError, ValueError):  # JSON to one reader, and not to the other
        is_right = False
    if not is_right:
        raise ConfigError(
            f"{path} is damaged or was edited: its SHA-256 is not that of its content",
            remedy=f'Restore it from a copy; or, if it was edited on purpose, remove its line "{CHECKSUM}".',
        )
