"""The content of ``dataset.json``, which says what a packed data set holds."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from bncli.config.document import Count, Crop, Finite
from bncli.config.settings import Pixels
from bncli.config.validation import describe
from bncli.errors import ConfigError

SCHEMA: Literal["bncli.packed/1"] = "bncli.packed/1"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1)]
# A plain name in the folder, which cannot lead out of it.
Name = Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{5,}-of-[0-9]{5,}$")]

_FROZEN = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class PackedShard:
    """One shard: ``NAME.array_record`` with the pixels, ``NAME.npz`` with labels and sums of the pixels."""

    name: Name
    images: Count
    num_bytes: Count
    sha256: Sha256
    index_sha256: Sha256


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class PackedFile:
    """The content of ``dataset.json``.

    The images are uint8 [H, W, C], converted as ``pixel_range`` and ``crop`` say. ``max_shift``, ``pad_mode`` and
    ``horizontal_flip`` are the augmentation that suits the source. ``sha256`` is of the data set, as in a run's
    ``config.json``.
    """

    schema: Literal["bncli.packed/1"]
    name: str
    shape: tuple[Pixels, Pixels, Positive]
    class_names: tuple[str, ...]
    sha256: Sha256
    shards: dict[Literal["train", "val", "test"], Annotated[tuple[PackedShard, ...], Field(min_length=1)]]
    pixel_range: tuple[Finite, Finite] | None = None
    crop: Crop | None = None
    max_shift: Count = 0
    pad_mode: Literal["zero", "reflect"] = "zero"
    horizontal_flip: bool = False
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "train" not in self.shards:
            raise ValueError("shards has no train")
        names = [shard.name for shards in self.shards.values() for shard in shards]
        if len(set(names)) < len(names):
            raise ValueError("a shard is named twice")
        return self


def parse_packed(text: bytes) -> PackedFile:
    """The content of a ``dataset.json``.

    Raises:
        ConfigError: it is not valid.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ConfigError(describe(error)) from None


def packed_text(packed: PackedFile) -> str:
    """The text of a ``dataset.json``."""
    return json.dumps(_ADAPTER.dump_python(packed, mode="json"), indent=2) + "\n"


_ADAPTER = TypeAdapter(PackedFile)
