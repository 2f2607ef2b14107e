"""``run.toml``: the settings of a run in a file, by section as in ``config.json``.

::

    recipe = "none"        # as --recipe; the defaults of a data set, below everything that stands here

    [training]
    epochs = 20

    [model]
    name = "cnn"
    args = { features = [32, 64, 128] }

TOML has no null: a setting that is not written keeps its default, and 0 turns off ``clip_norm`` and ``ema_decay``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

from bncli.config.json_types import Document
from bncli.config.options import Option, by_key, options
from bncli.config.recipes import NONE
from bncli.config.settings import RunConfig
from bncli.errors import ConfigError

RECIPE = "recipe"
_REMEDY = "`bncli train --print-config` writes a complete file."


@dataclass(frozen=True)
class RunFile:
    """The settings in a ``run.toml``.

    Attributes:
        values: by setting.
        places: by setting, where the file sets it: ``run.toml, line 3: training.seed``.
        recipe: as ``--recipe``; None if the file names none.
    """

    values: Mapping[Option, object]
    places: Mapping[Option, str]
    recipe: str | None


def read_run_file(path: Path) -> RunFile:
    """The settings in a ``run.toml``.

    Raises:
        ConfigError: the file cannot be read or is no TOML, a key is unknown, or a value is of the wrong type or out of
            range; names the file, the line and the key.
    """
    text = _text(path)
    try:
        document: Document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}", remedy=_REMEDY) from None
    where = _Places(path, text)
    recipe = document.pop(RECIPE, None)
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"{where(RECIPE)}: {RECIPE} must be a text, not {recipe!r}", remedy=_REMEDY)
    values: dict[Option, object] = {}
    places: dict[Option, str] = {}
    for section, name, value in _entries(document, where):
        place = where(name, section)
        option = _option(section, name, place)
        values[option], places[option] = _checked(option, value, place), f"{place}: {option.key}"
    return RunFile(values, places, recipe)


def _text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path} is no file", remedy=f"Name a TOML file. {_REMEDY}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy="Save it as UTF-8 text.") from None


def _entries(document: Document, where: _Places) -> Iterator[tuple[str, str, object]]:
    """(section, name, value) of each setting, in the order of the file."""
    sections = [field.name for field in fields(RunConfig)]
    for section, content in document.items():
        if section not in sections:
            raise _unknown(where(section), section, [*sections, RECIPE])
        if not isinstance(content, dict):
            raise ConfigError(f"{where(section)}: {section} must be a table, [{section}]", remedy=_REMEDY)
        for name, value in content.items():
            yield section, name, value


def _option(section: str, name: str, place: str) -> Option:
    """The setting of this name; a near name in the section, or in another, is the hint if there is none."""
    found = by_key().get(f"{section}.{name}")
    if found is not None:
        return found
    own = {option.field: option.key for option in options() if option.section == section}
    elsewhere = {alias: option.key for option in options() for alias in (option.field, option.parameter)}
    for names in (own, elsewhere):
        close = difflib.get_close_matches(name.replace("-", "_"), names, n=1, cutoff=0.75)
        if close:
            raise _unknown(place, f"{section}.{name}", [names[close[0]]], cutoff=0)
    raise _unknown(place, f"{section}.{name}", own.values())


def _checked(option: Option, value: object, place: str) -> object:
    """The value of a setting, of the very type that the setting has."""
    from bncli.config.validation import checked

    if option.setting.zero_is_none and value in (0, 0.0) and not isinstance(value, bool):
        return None
    config = get_type_hints(RunConfig)[option.section]
    hint = get_type_hints(config, include_extras=True)[option.field]
    try:
        return checked(hint, value, name=option.key)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", remedy=_meaning(option)) from None


def _meaning(option: Option) -> str:
    if option.choices:
        return f"Choose one of {', '.join(option.choices)}."
    bounds = f" ({' and '.join(option.bounds)})" if option.bounds else ""
    return f"{option.setting.help}{bounds}"


def _unknown(place: str, key: str, known: Iterable[str], *, cutoff: float = 0.6) -> ConfigError:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=cutoff)
    hint = f"; did you mean {close[0]}?" if close else ""
    return ConfigError(f"{place}: no setting is called {key}{hint}", remedy=_REMEDY)


@dataclass(frozen=True)
class _Places:
    """The places of keys in a file, for messages."""

    path: Path
    text: str

    def __call__(self, key: str, section: str | None = None) -> str:
        """``run.toml, line 3``; the file alone if the line is not found."""
        current: str | None = None
        pattern = re.compile(rf"""\s*(?:{re.escape(section or "")}\.)?["']?{re.escape(key)}["']?\s*[.=]""")
        for number, line in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"""\s*\[+\s*["']?([^\]"'.]+)""", line)
            current = header[1].strip() if header else current
            if (header and section is None and current == key) or (pattern.match(line) and current in (section, None)):
                return f"{self.path}, line {number}"
        return str(self.path)


def run_file_text(config: RunConfig) -> str:
    """A ``run.toml`` that trains the same run, whatever recipe its data set has.

    Raises:
        ConfigError: an argument of the model is null, which TOML does not have.
    """
    import tomli_w

    if _holds_none(config.model.args):
        raise ConfigError(
            "model.args: an argument is null, which TOML does not have",
            remedy="Leave the argument out if null is its default; else use the options.",
        )
    document: Document = {RECIPE: NONE}
    for section in fields(RunConfig):
        values = getattr(config, section.name)
        rows = [(option, getattr(values, option.field)) for option in options() if option.section == section.name]
        document[section.name] = {
            option.field: 0 if value is None else value for option, value in rows if _has_spelling(option, value)
        }
    return tomli_w.dumps(document)


def _has_spelling(option: Option, value: object) -> bool:
    return value is not None or option.setting.zero_is_none


def _holds_none(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_none, value.values()))
    return any(map(_holds_none, value)) if isinstance(value, list) else value is None
