"""The settings as a list: what the command line, ``run.toml``, ``--resume`` and the documentation are made from."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from bncli.config.settings import PANELS, Bounds, RunConfig, Setting


@dataclass(frozen=True, eq=False)  # each is made once, and is a key of mappings
class Option:
    """One setting, with its place in the configuration and its look on the command line.

    Attributes:
        section: its section of ``RunConfig``, of ``config.json`` and of ``run.toml``.
        field: its name there.
        type: of its value, without bounds; None is not part of it.
        optional: True if None is a value too.
        default: of the field.
        bounds: such as ("≥ 1", "< 2147483648").
        setting: its words and habits.
    """

    section: str
    field: str
    type: Any  # a class or a Literal
    optional: bool
    default: object
    bounds: tuple[str, ...]
    setting: Setting

    @property
    def flag(self) -> str:
        """Its name on the command line, without dashes in front."""
        return self.setting.option or self.field.replace("_", "-")

    @property
    def parameter(self) -> str:
        """The name of its Python parameter."""
        return self.flag.replace("-", "_")

    @property
    def key(self) -> str:
        """Its path in ``config.json`` and ``run.toml``."""
        return f"{self.section}.{self.field}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be; () if it is no choice."""
        return get_args(self.type) if get_origin(self.type) is typing.Literal else ()

    @property
    def is_repeatable(self) -> bool:
        """True if it holds any number of texts, one for each time that the option is given."""
        return get_origin(self.type) is tuple

    @property
    def minimum(self) -> int | None:
        """The least value of a whole number."""
        least = [int(text.removeprefix("≥ ")) for text in self.bounds if text.startswith("≥ ")]
        return least[0] if self.type is int and least else None


@cache
def options() -> tuple[Option, ...]:
    """All settings, in the order of the help."""
    found = [option for section in fields(RunConfig) for option in _section_options(section.name)]
    return tuple(sorted(found, key=lambda option: PANELS.index(option.setting.panel)))


@cache
def by_parameter() -> Mapping[str, Option]:
    """Name of the Python parameter -> setting."""
    return {option.parameter: option for option in options()}


@cache
def by_key() -> Mapping[str, Option]:
    """Path such as "training.epochs" -> setting."""
    return {option.key: option for option in options()}


def sections_of(values: Iterable[tuple[Option, object]]) -> dict[str, dict[str, object]]:
    """Settings with their values, by section and field."""
    sections: dict[str, dict[str, object]] = {}
    for option, value in values:
        sections.setdefault(option.section, {})[option.field] = value
    return sections


def _section_options(section: str) -> list[Option]:
    config = get_type_hints(RunConfig)[section]
    hints = get_type_hints(config, include_extras=True)
    return [_option(section, field, hints[field.name]) for field in fields(config)]


def _option(section: str, field: dataclasses.Field[object], hint: object) -> Option:
    annotations: list[object] = []
    plain, optional = _plain(hint, annotations)
    (setting,) = (note for note in annotations if isinstance(note, Setting))
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return Option(section, field.name, plain, optional, default, _bounds(annotations), setting)


def _plain(hint: object, annotations: list[object]) -> tuple[Any, bool]:
    """(the type without annotations, True if None belongs to it); the annotations are appended to the list."""
    if get_origin(hint) is typing.Annotated:
        inner, *notes = get_args(hint)
        annotations += notes
        return _plain(inner, annotations)
    if get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (part for part in get_args(hint) if part is not type(None))
        return _plain(inner, annotations)[0], True
    return hint, False


def _bounds(annotations: Iterable[object]) -> tuple[str, ...]:
    return tuple(word for note in annotations if isinstance(note, Bounds) for word in note.words)
