"""``bncli convert``: the weights of another library as a checkpoint that every command takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from bncli import checkpoint as checkpoints
from bncli import weights
from bncli.config.choices import WeightsOrigin
from bncli.config.document import CheckpointConfig, Crop, Preprocessing
from bncli.config.settings import DataConfig, RunConfig
from bncli.errors import DataError, UsageError
from bncli.models import build_network
from bncli.process.files import read_regular
from bncli.process.hardware import versions
from bncli.weights import Fitted, Pretrained

_MAX_NAMES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """The choices of a conversion.

    Attributes:
        model: the network's name; None to recognise it.
        origin: the library of the weights; None to recognise it.
        image_size: H and W in place of the source's; the resize before the crop keeps its proportion to it.
        class_names: a text file with one name a line.
    """

    model: str | None = None
    origin: WeightsOrigin | None = None
    image_size: int | None = None
    class_names: Path | None = None


@dataclass(frozen=True)
class ConvertResult:
    """The result of a conversion.

    Attributes:
        out: the checkpoint directory.
        config: the content of its ``config.json``.
        fitted: the weights, with an account of their arrays.
    """

    out: Path
    config: CheckpointConfig
    fitted: Fitted


def convert(source: str, out: Path, options: ConvertOptions | None = None, *, overwrite: bool = False) -> ConvertResult:
    """Write the weights that ``source`` names as a checkpoint directory.

    Args:
        source: a file of torchvision or timm, a directory with one, or ``hf://ORG/NAME``.
        out: a new directory.
        options: the choices of the conversion.
        overwrite: replace an existing checkpoint in ``out``.

    Raises:
        CheckpointError: the weights cannot be read, or are of no network here; or ``out`` is taken.
        DataError: the file of class names cannot be read, or has another number of names.
        UsageError: the library or the network is another one, or cannot be told.
    """
    options = options or ConvertOptions()
    checkpoints.check_output(out, overwrite=overwrite)
    pretrained = weights.read(source, model=options.model, origin=options.origin)
    if pretrained.record.origin == "bncli":
        raise UsageError(f"{source} is a checkpoint of bncli already", remedy="Use it as it is.")
    config = _config(pretrained, options)
    assert config.num_classes is not None  # the weights have their own
    network = build_network(
        config.run.model, num_classes=config.num_classes, image_shape=config.preprocessing.image_shape
    )
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), config.preprocessing.image_shape))
    fitted = weights.fitted(pretrained, shapes, num_classes=config.num_classes)
    _write(out, config, pretrained, overwrite=overwrite)
    return ConvertResult(out, config, fitted)


def _config(pretrained: Pretrained, options: ConvertOptions) -> CheckpointConfig:
    images = pretrained.preprocessing
    if options.image_size is not None:
        images = _resized(images, options.image_size)
    record = pretrained.record
    if options.class_names is not None:
        record = replace(record, class_names=_names(options.class_names, record.num_classes))
    crop = images.crop
    data = DataConfig(
        source="not known",
        image_size=images.size[0],
        channels=images.channels,
        resize=None if crop is None else crop.resize,
        interpolation="bilinear" if crop is None else crop.interpolation,
    )
    return CheckpointConfig(
        run=RunConfig(model=pretrained.model, data=data),
        preprocessing=images,
        dataset=None,
        versions=versions(),
        weights=record,
    )


def _resized(images: Preprocessing, size: int) -> Preprocessing:
    crop = images.crop
    if crop is not None:
        crop = Crop(resize=max(size, round(crop.resize * size / images.size[0])), interpolation=crop.interpolation)
    return replace(images, size=(size, size), crop=crop)


def _names(path: Path, num_classes: int) -> tuple[str, ...]:
    try:
        lines = read_regular(path, limit=_MAX_NAMES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", remedy="Give a text in UTF-8 with one name a line.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != num_classes:
        raise DataError(
            f"{path} has {len(names)} names, and the weights have {num_classes} classes",
            remedy="Give one name a line, in the order of the classes.",
        )
    return names


def _write(out: Path, config: CheckpointConfig, pretrained: Pretrained, *, overwrite: bool) -> None:
    with checkpoints.locked(out), checkpoints.new_output(out, overwrite=overwrite):
        checkpoints.save(
            out,
            0,
            variables=weights.as_variables(pretrained.variables),
            optimizer={"step": np.int32(0)},  # no training goes on from here; one may start from these weights
            progress={},
            remedy=checkpoints.FREE_SPACE_AND_REPEAT,
        )
        checkpoints.write_config(out, config, remedy=checkpoints.FREE_SPACE_AND_REPEAT)
