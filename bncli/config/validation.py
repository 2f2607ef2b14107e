"""The check of values: pydantic's validators, and its complaints as messages for users."""

from __future__ import annotations

import functools
from typing import Any, TypeVar, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from bncli.errors import ConfigError

T = TypeVar("T")


def validated(cls: type[T], **values: object) -> T:
    """``cls(**values)`` with every value checked.

    Raises:
        ConfigError: a value is of the wrong type or out of range; names the field.
    """
    hint: object = cls
    try:
        return cast("T", _adapter(hint).validate_python(values))
    except ValidationError as error:
        raise ConfigError(describe(error)) from None


def check_fields(section: object) -> None:
    """Raise ConfigError if a field of a dataclass is of the wrong type or out of range."""
    hints = get_type_hints(type(section), include_extras=True)
    for name, value in vars(section).items():
        checked(hints[name], value, name=name)


def checked(hint: object, value: object, *, name: str) -> object:
    """A value of the very type that an annotation names; a whole number is a float too.

    Raises:
        ConfigError: the value is of another type or out of range; names it by ``name``.
    """
    try:
        return _field_adapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        raise ConfigError(describe(error, within=name)) from None


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any annotation, for which Python has no type
    return TypeAdapter(hint)


@functools.cache
def _field_adapter(hint: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - the same
    return TypeAdapter(hint, config={"allow_inf_nan": False})


def describe(error: ValidationError, *, within: str | None = None) -> str:
    """The first complaint of a validation, as ``field.subfield: what, got value``; ``within`` is the field."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = first["loc"] if within is None else (within, *first["loc"])
    place = ".".join(str(part)[:60] for part in path) or "the document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}, got {shown(first['input'])}{more}"


def shown(value: object) -> str:
    """The beginning of a value."""
    try:
        return repr(str(value)[:60])
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        return "one too large to show"
