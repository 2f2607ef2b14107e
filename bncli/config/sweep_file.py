"""``sweep.toml``: the settings of a study, which are fixed, and those that it tries.

::

    [sweep]
    sampler = "tpe"                     # or grid, random
    trials = 20

    [training]                          # fixed, as in run.toml
    epochs = 5

    [space.optimizer]                   # tried
    learning_rate = { low = 0.001, high = 1.0, log = true }

    [space.training]
    batch_size = [32, 64, 128]
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, TypeAlias, cast, get_type_hints

from bncli.config.choices import PrunerName, SamplerName, SweepMetric
from bncli.config.json_types import Document
from bncli.config.options import Option
from bncli.config.run_file import (
    RECIPE,
    Places,
    RunFile,
    checked_value,
    entries,
    named_setting,
    run_file,
    toml_document,
    unknown_key,
)
from bncli.config.settings import Bounds, Positive, Section
from bncli.errors import ConfigError

SEARCH, SPACE = "sweep", "space"
# Trials of a study that does not say how many, and is no grid.
TRIALS = 20
_REMEDY = "Write a list of values, or { low = 0.001, high = 1.0, log = true }; see the guide on sweeps."
_RANGE_KEYS = ("low", "high", "log", "step")
# A grid beyond this number of combinations is a mistake.
_MAX_GRID = 10_000

Number: TypeAlias = int | float


@dataclass(frozen=True, kw_only=True)
class Search(Section):
    """The way through a space.

    Attributes:
        sampler: "tpe" learns from the trials so far, "grid" tries every combination, "random" draws.
        pruner: ends trials that are behind the others after an epoch; "none" lets all finish.
        metric: the validation score of the best epoch that is compared.
        trials: number of trials of the study, over all processes; None for 20, or all of a grid.
        seed: of the sampler.
    """

    sampler: SamplerName = "tpe"
    pruner: PrunerName = "median"
    metric: SweepMetric = "val_accuracy"
    trials: Positive | None = None
    seed: Annotated[int, Bounds(ge=0, lt=2**31)] = 0


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of these values."""

    values: tuple[object, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as JSON, which tells 1 from 1.0 and takes lists."""
        return tuple(map(json.dumps, self.values))


@dataclass(frozen=True)
class Range:
    """A setting that takes a number between two, both included.

    Attributes:
        low: the least.
        high: the greatest.
        log: True to draw the logarithm evenly.
        step: distance of the numbers; None for 1 of whole numbers, and for all others.
        is_whole: True for whole numbers.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None
    is_whole: bool = False

    def values(self) -> tuple[Number, ...]:
        """The numbers of a range with a step."""
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(self.low + number * step for number in range(count))


Space: TypeAlias = Mapping[Option, Choices | Range]


@dataclass(frozen=True)
class SweepFile:
    """The content of a ``sweep.toml``.

    Attributes:
        path: the file.
        fixed: settings of every trial, and the recipe.
        space: settings that differ between trials.
        search: the way through the space.
    """

    path: Path
    fixed: RunFile
    space: Space
    search: Search

    @property
    def trials(self) -> int:
        """The number of trials of the study."""
        if self.search.sampler == "grid":
            return grid_size(self.space)
        return self.search.trials or TRIALS

    def definition(self) -> Document:
        """The identity of a study: everything but the number of its trials."""
        search = {key: value for key, value in asdict(self.search).items() if key != "trials"}
        fixed = {option.key: value for option, value in self.fixed.values.items()}
        space = {option.key: asdict(values) for option, values in self.space.items()}
        document = {SEARCH: search, RECIPE: self.fixed.recipe, "fixed": fixed, SPACE: space}
        copied: Document = json.loads(json.dumps(document, sort_keys=True))
        return copied


def read_sweep_file(path: Path) -> SweepFile:
    """The content of a ``sweep.toml``.

    Raises:
        ConfigError: the file cannot be read or is no TOML, a key is unknown, or a value is of the wrong type or out of
            range; names the file, the line and the key.
    """
    document, where = toml_document(path)
    search = _search(document.pop(SEARCH, {}), where)
    space = dict(_space(document.pop(SPACE, {}), where))
    if not space:
        raise ConfigError(f"{path} names no setting to try", remedy="Add [space.optimizer] with learning_rate, say.")
    _check_sections(document, where)
    fixed = run_file(document, where)
    for option in space:
        if option in fixed.values:
            raise ConfigError(
                f"{fixed.places[option]} is both fixed and tried, in [{SPACE}.{option.section}]", remedy="Remove one."
            )
    if search.sampler == "grid":
        _check_grid(space, search, where)
    return SweepFile(path, fixed, space, search)


def _check_sections(document: Document, where: Places) -> None:
    for _ in entries(
        {key: content for key, content in document.items() if key != RECIPE}, where, others=(RECIPE, SEARCH, SPACE)
    ):
        pass


def _search(content: object, where: Places) -> Search:
    if not isinstance(content, dict):
        raise ConfigError(f"{where(SEARCH)}: {SEARCH} must be a table, [{SEARCH}]", remedy=_REMEDY)
    from bncli.config.validation import checked

    hints = get_type_hints(Search, include_extras=True)
    known = [field.name for field in fields(Search)]
    values = {}
    for key, value in content.items():
        place = where(key, SEARCH)
        if key not in known:
            raise unknown_key(place, f"{SEARCH}.{key}", [f"{SEARCH}.{name}" for name in known])
        try:
            values[key] = checked(hints[key], value, name=f"{SEARCH}.{key}")
        except ConfigError as error:
            raise ConfigError(f"{place}: {error.message}", remedy="See the guide on sweeps.") from None
    return Search(**cast("dict[str, object]", values))  # type: ignore[arg-type]  # checked above


def _space(content: object, where: Places) -> Iterator[tuple[Option, Choices | Range]]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where(SPACE)}: {SPACE} must be a table, [{SPACE}.optimizer] say", remedy=_REMEDY)
    for section, name, value in entries(content, where, within=SPACE, others=()):
        place = where(name, f"{SPACE}.{section}")
        option = named_setting(section, name, place)
        yield option, _tried(option, value, place)


def _tried(option: Option, value: object, place: str) -> Choices | Range:
    if isinstance(value, list):
        return _choices(option, value, place)
    if isinstance(value, dict) and option.type in (int, float):
        return _range(option, value, place)
    raise ConfigError(f"{place}: {option.key} is one value, not several", remedy=_REMEDY)


def _choices(option: Option, values: list[object], place: str) -> Choices:
    found = Choices(tuple(checked_value(option, value, place) for value in values))
    if len(set(found.labels)) < max(1, len(values)):
        raise ConfigError(
            f"{place}: {option.key} has {'no value' if not values else 'the same value twice'}", remedy=_REMEDY
        )
    return found


def _range(option: Option, content: Document, place: str) -> Range:
    for key in content:
        if key not in _RANGE_KEYS:
            raise unknown_key(place, f"{option.key}.{key}", [f"{option.key}.{name}" for name in _RANGE_KEYS])
    low, high = (_bound(option, content, name, place) for name in ("low", "high"))
    log, step = content.get("log", False), content.get("step")
    wrong = (
        "low is not below high"
        if not low < high
        else "log is neither true nor false"
        if not isinstance(log, bool)
        else "low must be above 0 for a logarithmic range"
        if log and low <= 0
        else "step is no number above 0"
        if step is not None and not _is_step(step, whole=option.type is int)
        else "a logarithmic range has no step"
        if log and step is not None
        else ""
    )
    if wrong:
        raise ConfigError(f"{place}: {option.key}: {wrong}", remedy=_REMEDY)
    return Range(low, high, log, step, is_whole=option.type is int)


def _bound(option: Option, content: Document, name: str, place: str) -> Number:
    if name not in content:
        raise ConfigError(f"{place}: {option.key} has no {name}", remedy=_REMEDY)
    value = checked_value(option, content[name], place)
    if not isinstance(value, int | float):
        raise ConfigError(f"{place}: {option.key}: {name} is {content[name]}, which is no number of it", remedy=_REMEDY)
    return value


def _is_step(step: object, *, whole: bool) -> bool:
    return isinstance(step, int if whole else (int, float)) and not isinstance(step, bool) and step > 0


def grid_size(space: Space) -> int:
    """The number of combinations of a space of choices and ranges with steps."""
    return math.prod(len(grid_values(values)) for values in space.values())


def grid_values(values: Choices | Range) -> tuple[object, ...]:
    """The values that a grid tries of one setting."""
    return values.values if isinstance(values, Choices) else values.values()


def _check_grid(space: Space, search: Search, where: Places) -> None:
    if search.trials is not None:
        raise ConfigError(
            f"{where('trials', SEARCH)}: a grid tries every combination", remedy="Leave out sweep.trials."
        )
    for option, values in space.items():
        if isinstance(values, Range) and values.step is None and (values.log or not values.is_whole):
            raise ConfigError(
                f"{where(option.field, f'{SPACE}.{option.section}')}: {option.key}: a grid needs a list, or a step",
                remedy=_REMEDY,
            )
    if grid_size(space) > _MAX_GRID:
        raise ConfigError(
            f"{where(SEARCH)}: the grid has {grid_size(space):,} combinations, more than {_MAX_GRID:,}",
            remedy="Try fewer values, or take the sampler tpe.",
        )
