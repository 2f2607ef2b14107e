"""The result of ``bncli train``."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.tables import plain_table
from bncli.cli.render.weights import account_line, weights_json
from bncli.cli.render.words import counted, marked, norm_words
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.config.options import Option
    from bncli.config.recipes import Values
    from bncli.training.loop import Trainer
    from bncli.training.progress import EpochResult
    from bncli.training.result import Programs, Seconds, TrainResult

_EPOCH_COLUMNS = ("epoch", "train loss", "train acc", "val loss", "val acc", "lr", "img/s")


def run_lines(trainer: Trainer) -> str:
    """Return the model, the device and the data of a run that is about to start, in two lines."""
    import jax

    from bncli.models.custom import is_custom

    config, data = trainer.config, trainer.dataset
    num_params = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params))
    placed = "BN" if is_custom(config.model.name) else f"BN {config.model.bn_placement}-activation"
    bn = placed if trainer.state.batch_stats else "no BN"
    if config.model.normalization not in ("batch", "none"):
        bn = norm_words(config.model.normalization)
    device = jax.devices()[0].device_kind
    return (
        f"{visible(config.model.name)}, {bn}, {num_params:,} parameters, on {trainer.execution.mesh.size} × {device}\n"
        f"{visible(data.name)}: {len(data.train):,} train, {len(data.val):,} val, {len(data.test):,} test images"
        f"{_streaming(trainer)}"
    )


def _streaming(trainer: Trainer) -> str:
    if not trainer.execution.is_fed:
        return ""
    workers = trainer.config.data.workers
    return f", read by {workers} worker{'' if workers == 1 else 's'}" if workers else ", read while training"


def origin_lines(trainer: Trainer, from_recipe: Values, from_weights: Values) -> Iterator[str]:
    """Return what became of the pretrained weights, and the settings that they and a recipe chose."""
    if trainer.weights is not None:
        yield visible(account_line(trainer.weights))
    changed = {option: value for option, value in from_weights.items() if value != option.default}
    if changed:
        yield f"from the weights: {_options(changed)}"
    if from_recipe:
        yield f"from the recipe: {_options(from_recipe)}"


def _options(chosen: Values) -> str:
    """The settings, spelled as on the command line."""
    return " ".join(word for option, value in chosen.items() for word in _option_words(option, value))


def _option_words(option: Option, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{option.flag}" if value else f"--no-{option.flag}"]
    if isinstance(value, dict):
        return [f"--{option.flag} {key}={json.dumps(item, separators=(',', ':'))}" for key, item in value.items()]
    if isinstance(value, tuple):
        return [f"--{option.flag} {shlex.quote(str(item))}" for item in value]
    return [f"--{option.flag} {value if isinstance(value, str) else f'{value:g}'}"]


def train_json(result: TrainResult) -> dict[str, object]:
    """Return the ``bncli.train/1`` document."""
    dataset = result.config.dataset
    return {
        "schema": "bncli.train/1",
        "out": str(result.out),
        "epochs_run": result.epochs_run,
        "stopped_early": result.stopped_early,
        "best": asdict(result.best),
        "precise_bn": None if result.precise is None else asdict(result.precise),
        "test": {
            "accuracy": result.test.accuracy,
            "loss": result.test.loss,
            "num_examples": result.test.num_examples,
        },
        "images_per_second": result.images_per_second,
        "seconds": asdict(result.seconds),
        "programs": asdict(result.programs),
        "sha256": {name: digest for name, digest in asdict(result.sha256).items() if digest is not None},
        "history": [asdict(row) for row in result.history],
        "config": asdict(result.config.run),
        "dataset": None if dataset is None else asdict(dataset),
        "versions": dict(result.config.versions),
        "weights": weights_json(result.config.weights, result.weights),
    }


def train_text(result: TrainResult, *, with_epochs: bool) -> RenderableType:
    """Return the table of epochs, if it is not shown already, the test score and the commands to run next."""
    lines = map(Text.from_markup, _summary_lines(result))
    return Group(_epochs_table(result), *lines) if with_epochs else Group(*lines)


def _epochs_table(result: TrainResult) -> Table:
    table = plain_table(*_EPOCH_COLUMNS)
    for row in result.history:
        is_best = row.epoch == result.best.epoch
        epoch = f"{row.epoch}{'*' if is_best else ' '}"
        table.add_row(epoch, *_numbers(row), style="bold green" if is_best else None)
    return table


def epoch_lines(row: EpochResult, epochs: int, *, is_best: bool, with_head: bool) -> Iterator[str]:
    """Yield one epoch as a row of the table that grows while a run goes on.

    Args:
        row: the epoch.
        epochs: of the whole run.
        is_best: True if it is the best one so far.
        with_head: True to yield the titles of the columns before it.
    """
    widths = [2 * len(str(epochs)) + 2, *(max(len(title), 7) for title in _EPOCH_COLUMNS[1:])]
    cells = [f"{row.epoch}/{epochs}{'*' if is_best else ' '}", *_numbers(row)]
    for texts in (_EPOCH_COLUMNS, cells) if with_head else (cells,):
        yield "  ".join(text.rjust(max(width, 6)) for text, width in zip(texts, widths, strict=True))


def _numbers(row: EpochResult) -> tuple[str, ...]:
    losses = (f"{row.train_loss:.4f}", f"{row.train_accuracy:.4f}", f"{row.val_loss:.4f}", f"{row.val_accuracy:.4f}")
    return (*losses, f"{row.lr:.2g}", f"{row.images_per_second:,.0f}")


def _summary_lines(result: TrainResult) -> Iterator[str]:
    test, precise, out = result.test, result.precise, marked(str(result.out))
    if result.stopped_early:
        yield f"stopped early after {counted(result.epochs_run, 'epoch')}: patience exhausted"
    if precise is not None:
        yield (
            f"with population statistics of {counted(precise.num_examples, 'image')}: val acc "
            f"{precise.val_accuracy:.4f}, loss {precise.val_loss:.4f}"
        )
    yield (
        f"[bold]test accuracy {test.accuracy:.4f}[/], loss {test.loss:.4f} on {counted(test.num_examples, 'image')}, "
        f"with the best epoch's weights ({result.best.epoch}*)"
    )
    yield _time_line(result.seconds, result.programs)
    yield f"written to [bold]{out}[/]; next: bncli inspect-stats {out}, bncli fold {out} out"


# field of Seconds -> its words
_PHASES = {
    "start": "starting",
    "data": "reading data",
    "compile": "compiling",
    "train": "training",
    "validation": "scoring",
    "saving": "saving",
    "rest": "other",
}


def _time_line(seconds: Seconds, programs: Programs) -> str:
    """Return where the time went; the parts add up to the total."""
    parts = tenths({words: getattr(seconds, phase) for phase, words in _PHASES.items()}, seconds.total)
    spent = ", ".join(f"{part:.1f} s {words}" for words, part in parts.items() if part > 0)
    return (
        f"{sum(parts.values()):.1f} s in total: {spent}; {counted(programs.compiled, 'program')} compiled, "
        f"{programs.from_cache} read from the cache"
    )


def tenths(parts: Mapping[str, float], total: float) -> dict[str, float]:
    """Return the parts in whole tenths that add up to those of the total: the largest remainders are rounded up."""
    rounded = {name: math.floor(10 * part) for name, part in parts.items()}
    missing = round(10 * total) - sum(rounded.values())
    by_remainder = sorted(parts, key=lambda name: rounded[name] - 10 * parts[name])
    for name in by_remainder[: max(0, missing)]:
        rounded[name] += 1
    return {name: count / 10 for name, count in rounded.items()}
