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
    return run_file(*toml_document(path))


def run_file(document: Document, where: Places) -> RunFile:
    """The settings in the document of a ``run.toml``.

    Raises:
        ConfigError: as ``read_run_file``.
    """
    sections = {key: content for key, content in document.items() if key != RECIPE}
    recipe = document.get(RECIPE)
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"{where(RECIPE)}: {RECIPE} must be a text, not {recipe!r}", remedy=_REMEDY)
    values: dict[Option, object] = {}
    places: dict[Option, str] = {}
    for section, name, value in entries(sections, where):
        place = where(name, section)
        option = named_setting(section, name, place)
        values[option], places[option] = checked_value(option, value, place), f"{place}: {option.key}"
    return RunFile(values, places, recipe)


def toml_document(path: Path) -> tuple[Document, Places]:
    """The content of a TOML file, and the places of its keys.

    Raises:
        ConfigError: the file cannot be read or is no TOML.
    """
    text = _text(path)
    try:
        return tomllib.loads(text), Places(path, text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}", remedy=_REMEDY) from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path} is no file", remedy=f"Name a TOML file. {_REMEDY}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy="Save it as UTF-8 text.") from None


def entries(
    sections: Document, where: Places, *, within: str = "", others: Iterable[str] = (RECIPE,)
) -> Iterator[tuple[str, str, object]]:
    """(section, name, value) of each setting, in the order of the file.

    Args:
        sections: the tables of settings.
        where: the places of keys.
        within: the table around the sections, if there is one.
        others: keys that may stand beside the sections, for the message about an unknown one.

    Raises:
        ConfigError: there is no such section, or it is no table.
    """
    known = [field.name for field in fields(RunConfig)]
    for section, content in sections.items():
        title = f"{within}.{section}" if within else section
        if section not in known:
            raise unknown_key(where(section, within or None), title, [*known, *others])
        if not isinstance(content, dict):
            raise ConfigError(f"{where(section, within or None)}: {title} must be a table, [{title}]", remedy=_REMEDY)
        for name, value in content.items():
            yield section, name, value


def named_setting(section: str, name: str, place: str) -> Option:
    """The setting of this name; a near name in the section, or in another, is the hint if there is none."""
    found = by_key().get(f"{section}.{name}")
    if found is not None:
        return found
    own = {option.field: option.key for option in options() if option.section == section}
    elsewhere = {alias: option.key for option in options() for alias in (option.field, option.parameter)}
    for names in (own, elsewhere):
        close = difflib.get_close_matches(name.replace("-", "_"), names, n=1, cutoff=0.75)
        if close:
            raise unknown_key(place, f"{section}.{name}", [names[close[0]]], cutoff=0)
    raise unknown_key(place, f"{section}.{name}", own.values())


def checked_value(option: Option, value: object, place: str) -> object:
    """The value of a setting, of the very type that the setting has.

    Raises:
        ConfigError: it is of another type or out of range; begins with ``place``.
    """
    from bncli.config.validation import checked

    if option.setting.turned_off(value):
        return None
    config = get_type_hints(RunConfig)[option.section]
    hint = get_type_hints(config, include_extras=True)[option.field]
    if option.is_repeatable and isinstance(value, list):
        value = tuple(value)
    try:
        return checked(hint, value, name=option.key)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", remedy=_meaning(option)) from None


def _meaning(option: Option) -> str:
    if option.choices:
        return f"Choose one of {', '.join(option.choices)}."
    bounds = f" ({' and '.join(option.bounds)})" if option.bounds else ""
    return f"{option.setting.help}{bounds}"


def unknown_key(place: str, key: str, known: Iterable[str], *, cutoff: float = 0.6) -> ConfigError:
    """The error of a key that does not exist, with the nearest one that does."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=cutoff)
    hint = f"; did you mean {close[0]}?" if close else ""
    return ConfigError(f"{place}: no setting is called {key}{hint}", remedy=_REMEDY)


@dataclass(frozen=True)
class Places:
    """The places of keys in a file, for messages."""

    path: Path
    text: str

    def __call__(self, key: str, section: str | None = None) -> str:
        """``run.toml, line 3``; the file alone if the line is not found."""
        current: str | None = None
        title = key if section is None else f"{section}.{key}"
        pattern = re.compile(rf"""\s*(?:{re.escape(section or "")}\.)?["']?{re.escape(key)}["']?\s*[.=]""")
        for number, line in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"""\s*\[+([^\]]+)\]""", line)
            current = re.sub(r"""[\s"']""", "", header[1]) if header else current
            begins = header is not None and f"{current}.".startswith(f"{title}.")
            if begins or (header is None and pattern.match(line) and current in (section, None)):
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
            option.field: option.setting.off if value is None else value
            for option, value in rows
            if _has_spelling(option, value)
        }
    return tomli_w.dumps(document)


def _has_spelling(option: Option, value: object) -> bool:
    return value is not None or option.setting.off is not None


def _holds_none(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_none, value.values()))
    return any(map(_holds_none, value)) if isinstance(value, list) else value is None
