"""``tf.train.Example`` messages, in which TFDS and others keep an image and its label: the door to ``protobuf``.

The message is described here, so TensorFlow is not needed::

    Example   {features: Features}
    Features  {feature: map of name -> Feature}
    Feature   {bytes_list: [bytes]} or {float_list: [float]} or {int64_list: [int]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = {"bytes_list": "bytes", "float_list": "numbers", "int64_list": "integers"}


class _Values(Protocol):
    @property
    def value(self) -> Sequence[bytes | float | int]: ...


class _Feature(Protocol):
    bytes_list: _Values
    int64_list: _Values

    def WhichOneof(self, group: str) -> str | None: ...  # noqa: N802 - protobuf's name


class _Features(Protocol):
    @property
    def feature(self) -> Mapping[str, _Feature]: ...


class Example(Protocol):
    """A parsed message."""

    @property
    def features(self) -> _Features:
        """Its features by name."""


def parse_example(content: bytes) -> Example:
    """The message in some bytes.

    Raises:
        ValueError: they are no message.
    """
    try:
        return cast("Example", _message_class().FromString(content))
    except message.DecodeError:
        raise ValueError("not a tf.train.Example") from None


def feature_names(example: Example) -> list[str]:
    """The names of the features, sorted."""
    return sorted(example.features.feature)


def bytes_of(example: Example, name: str) -> bytes:
    """The bytes of a feature.

    Raises:
        ValueError: the feature is missing, or does not hold bytes once.
    """
    return cast("bytes", _single(example, name, "bytes_list"))


def integer_of(example: Example, name: str) -> int:
    """The integer of a feature.

    Raises:
        ValueError: the feature is missing, or does not hold one integer.
    """
    return cast("int", _single(example, name, "int64_list"))


def _single(example: Example, name: str, kind: str) -> bytes | float | int:
    if name not in example.features.feature:
        raise ValueError(f"it has no feature {name!r}")
    feature = example.features.feature[name]
    found = feature.WhichOneof("kind")
    if found is None:
        raise ValueError(f"its feature {name!r} is empty")
    values = cast("_Values", getattr(feature, found)).value
    if found != kind or len(values) != 1:
        raise ValueError(f"its feature {name!r} holds {len(values)} {_KINDS[found]}, not one of {_KINDS[kind]}")
    return values[0]


class _MessageClass(Protocol):
    def FromString(self, content: bytes) -> object: ...  # noqa: N802 - protobuf's name


@cache
def _message_class() -> _MessageClass:
    """The class of ``tf.train.Example``, in a pool of its own: TensorFlow, if it is there, has one of the same name."""
    file = descriptor_pb2.FileDescriptorProto(name="bncli/example.proto", package="tensorflow", syntax="proto3")
    for name, element, packed in (("BytesList", _FIELD.TYPE_BYTES, False), ("FloatList", _FIELD.TYPE_FLOAT, True)):
        _add_list(file, name, element, packed=packed)
    _add_list(file, "Int64List", _FIELD.TYPE_INT64, packed=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        _add_message(feature, name, number, kind).oneof_index = 0
    features = file.message_type.add(name="Features")
    _add_message(features, "feature", 1, "Features.FeatureEntry").label = _FIELD.LABEL_REPEATED
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    _add_message(entry, "value", 2, "Feature")
    _add_message(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return cast("_MessageClass", message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example")))


def _add_list(file: descriptor_pb2.FileDescriptorProto, name: str, element: int, *, packed: bool) -> None:
    field = file.message_type.add(name=name).field.add(
        name="value", number=1, type=element, label=_FIELD.LABEL_REPEATED
    )
    if packed:
        field.options.packed = True


def _add_message(
    owner: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str
) -> descriptor_pb2.FieldDescriptorProto:
    return owner.field.add(
        name=name,
        number=number,
        type=_FIELD.TYPE_MESSAGE,
        type_name=f".tensorflow.{kind}",
        label=_FIELD.LABEL_OPTIONAL,
    )
