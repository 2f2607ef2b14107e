"""Pretrained weights: what became of each of their arrays; and the result of ``bncli convert``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.words import counted, marked

if TYPE_CHECKING:
    from bncli.config.document import Preprocessing, WeightsRecord
    from bncli.jobs.convert import ConvertResult
    from bncli.weights import Fitted, Row


def account_line(fitted: Fitted) -> str:
    """Return one line: the arrays that were taken, are new, and were ignored."""
    record, model = fitted.pretrained.record, fitted.pretrained.model
    parts = [
        f"{model.name} from {record.source} ({record.origin}): {counted(len(fitted.taken), 'array')} taken",
        *_reasons("new", fitted.new),
        *_reasons("ignored", fitted.ignored),
    ]
    return ", ".join(parts)


def _reasons(what: str, rows: Sequence[Row]) -> list[str]:
    return [f"{count} {what} ({reason})" for reason, count in Counter(row.reason for row in rows).items()]


def weights_json(record: WeightsRecord | None, fitted: Fitted | None) -> dict[str, object] | None:
    """Return the weights of a run with an account of their arrays; a resumed run has not read them again."""
    if record is None:
        return None
    document = {name: value for name, value in asdict(record).items() if name != "class_names"}
    if fitted is None:
        return document
    return {
        **document,
        "taken": [_row(row) for row in fitted.taken],
        "new": [_row(row) for row in fitted.new],
        "ignored": [_row(row) for row in fitted.ignored],
    }


def _row(row: Row) -> dict[str, object]:
    return {
        "source": row.source or None,
        "source_shape": list(row.source_shape),
        "target": row.target or None,
        "shape": list(row.shape),
        "reason": row.reason or None,
    }


def convert_json(result: ConvertResult) -> dict[str, object]:
    """Return the ``bncli.convert/1`` document."""
    return {
        "schema": "bncli.convert/1",
        "out": str(result.out),
        "model": result.config.run.model.name,
        "weights": weights_json(result.config.weights, result.fitted),
        "preprocessing": asdict(result.config.preprocessing),
        "notes": list(result.fitted.pretrained.notes),
    }


def convert_text(result: ConvertResult) -> RenderableType:
    """Return the account of the arrays, the preprocessing and the commands to run next."""
    out, config = marked(str(result.out)), result.config
    assert config.weights is not None  # a converted checkpoint has its origin
    lines = [
        marked(account_line(result.fitted)),
        f"{counted(config.weights.num_classes, 'class', 'classes')}, {_preprocessing(config.preprocessing)}",
        f"written to [bold]{out}[/]; next: bncli predict {out} IMAGE, bncli fold {out} out --export onnx",
    ]
    return Group(*map(Text.from_markup, lines))


def _preprocessing(images: Preprocessing) -> str:
    height, width = images.size
    crop = images.crop
    scaled = "" if crop is None else f"shorter side to {crop.resize} ({crop.interpolation}), "
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (images.mean, images.std))
    return f"images: {scaled}centre {height}x{width}, mean {mean}, std {std}"
