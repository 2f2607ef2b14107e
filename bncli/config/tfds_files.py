"""The files that describe a data set of TensorFlow Datasets (TFDS): ``dataset_info.json`` and ``features.json``.

Only what is needed to read labelled images is parsed; other versions of TFDS add and leave out other things.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AliasPath, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

from bncli.config.document import Count
from bncli.config.validation import describe
from bncli.errors import ConfigError

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

_CONFIG = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)

# A plain name, which cannot lead out of the folder.
Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$", max_length=200)]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class TfdsSplit:
    """A split, and the number of examples in each of its files."""

    name: Name
    shard_lengths: tuple[Count, ...] = ()
    filepath_template: str = TEMPLATE


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class _FeatureKey:
    feature_key: str


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class TfdsInfo:
    """The content of ``dataset_info.json``; ``supervised`` names the input and the target, if there are any."""

    name: Name
    file_format: str = "tfrecord"
    splits: tuple[TfdsSplit, ...] = ()
    supervised: Annotated[
        tuple[_FeatureKey | None, ...], Field(validation_alias=AliasPath("supervisedKeys", "tuple", "items"))
    ] = ()

    @property
    def supervised_names(self) -> tuple[str, ...]:
        """The names of the supervised features."""
        return tuple(key.feature_key for key in self.supervised if key is not None)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class TfdsImage:
    """An image feature; ``dtype`` is that of its pixels."""

    dtype: str = "uint8"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class TfdsLabel:
    """A class label."""

    num_classes: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class _Feature:
    image: TfdsImage | None = None
    class_label: TfdsLabel | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class TfdsFeatures:
    """The content of ``features.json``: the features at its top level, by name."""

    features: Annotated[dict[str, _Feature], Field(validation_alias=AliasPath("featuresDict", "features"))]

    @property
    def images(self) -> dict[str, TfdsImage]:
        """The features that are images."""
        return {name: feature.image for name, feature in self.features.items() if feature.image is not None}

    @property
    def labels(self) -> dict[str, TfdsLabel]:
        """The features that are class labels."""
        return {name: one.class_label for name, one in self.features.items() if one.class_label is not None}


def parse_info(text: bytes) -> TfdsInfo:
    """The content of a ``dataset_info.json``.

    Raises:
        ConfigError: it is not valid.
    """
    return _parsed(_INFO, text)


def parse_features(text: bytes) -> TfdsFeatures:
    """The content of a ``features.json``.

    Raises:
        ConfigError: it is not valid.
    """
    return _parsed(_FEATURES, text)


def _parsed(adapter: TypeAdapter[T], text: bytes) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise ConfigError(describe(error)) from None


_INFO = TypeAdapter(TfdsInfo)
_FEATURES = TypeAdapter(TfdsFeatures)
