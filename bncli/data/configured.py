"""The data set that a configuration or a checkpoint names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bncli.config.document import CheckpointConfig, Crop
from bncli.config.file_names import on_disk
from bncli.config.settings import DataConfig
from bncli.data.augment import Augmentation
from bncli.data.dataset import Dataset
from bncli.data.folder import ImageOptions
from bncli.data.load import holds_image_files, load_dataset
from bncli.data.pixel_range import RangeChoice, parse_range
from bncli.data.read_augment import ReadAugmentation
from bncli.errors import DataError, UsageError

Progress = Callable[[str, int, int | None], None]  # (stage, amount done, total amount)


def load_configured(
    config: DataConfig, *, seed: int, pixel_range: RangeChoice | None = None, progress: Progress | None = None
) -> Dataset:
    """The data set of ``config``.

    Args:
        config: source and conversion.
        seed: picks the validation split.
        pixel_range: replaces the one of ``config``.
        progress: called while images are read.

    Raises:
        DataError: the data set is missing, unreadable or malformed.
    """
    dataset = load_dataset(
        config.source,
        data_dir=on_disk(config.data_dir) if config.data_dir else None,
        val_fraction=config.val_fraction,
        seed=seed,
        images=ImageOptions(
            size=config.image_size,
            channels=config.channels,
            bad_images=config.bad_images,
            pixel_range=pixel_range or parse_range(config.pixel_range),
            crop=_crop(config),
            stream=config.stream,
            random_crop=config.augment and config.random_resized_crop is not None,
        ),
        progress=progress,
    )
    return normalized_as(config, dataset)


def augmentation_of(config: DataConfig, dataset: Dataset) -> Augmentation:
    """The random changes of a run's training images: those that suit the data, and those that are asked for."""
    if not config.augment:
        return Augmentation.none()
    own = dataset.augmentation
    return replace(
        own,
        max_shift=_max_shift(config, dataset),
        pad_mode=config.augment_padding or own.pad_mode,
        horizontal_flip=own.horizontal_flip if config.hflip is None else config.hflip > 0,
        flip_probability=config.hflip or own.flip_probability,
        flip=config.augment_flip,
        color_jitter=config.color_jitter or own.color_jitter,
        random_erasing=config.random_erasing or own.random_erasing,
        mixup=config.mixup or own.mixup,
        cutmix=config.cutmix or own.cutmix,
        when_read=ReadAugmentation(
            min_crop=config.random_resized_crop,
            randaugment=config.randaugment,
            magnitude=config.randaugment_magnitude,
        ),
    )


def _max_shift(config: DataConfig, dataset: Dataset) -> int:
    """The largest shift in pixels; a random crop takes its place.

    Raises:
        UsageError: it is not smaller than the image.
    """
    if config.random_resized_crop is not None:
        return 0
    if config.augment_shift is None:
        return dataset.augmentation.max_shift
    height, width, _ = dataset.image_shape
    if config.augment_shift >= min(height, width):
        raise UsageError(
            f"--augment-shift {config.augment_shift}: the images have {height}×{width} pixels",
            remedy="Choose a shift smaller than the image.",
        )
    return config.augment_shift


def _crop(config: DataConfig) -> Crop | None:
    if config.resize is None:
        return None
    return Crop(resize=config.resize, interpolation=config.interpolation)


def normalized_as(config: DataConfig, dataset: Dataset) -> Dataset:
    """The data set with the mean and std of ``config``, where it has them.

    Raises:
        UsageError: they are not one number per channel, or a std is not above 0.
    """
    if config.mean is None and config.std is None:
        return dataset
    channels = dataset.image_shape[2]
    mean = dataset.mean if config.mean is None else _per_channel("mean", config.mean, channels)
    std = dataset.std if config.std is None else _per_channel("std", config.std, channels)
    return replace(dataset, mean=mean, std=std)


def _per_channel(name: str, text: str, channels: int) -> tuple[float, ...]:
    values = tuple(map(float, text.split(",")))
    if len(values) != channels or (name == "std" and min(values) <= 0):
        raise UsageError(
            f"--{name} {text}: the images have {channels} channel{'s' * (channels > 1)}",
            remedy="Give one number per channel, each --std above 0; --channels converts a folder of images.",
        )
    return values


def load_matching(
    config: CheckpointConfig,
    *,
    source: str | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The data set that a checkpoint was trained on, or other data with the same classes, in the checkpoint's size.

    If the checkpoint does not record its classes, any classes are accepted here; the evaluation compares their number.

    Args:
        config: the checkpoint's configuration.
        source: other data; None for the checkpoint's own data, with the same validation split.
        data_dir: the first place to look for a data set known by name.
        progress: called while images are read.

    Raises:
        DataError: the data cannot be read, differ from the checkpoint's training data, or have other classes.
    """
    known = config.dataset
    if source is None and known is None:
        raise DataError(
            "the data this network was trained on are not known",
            remedy="Name a data set: --data NAME, FOLDER or FILE.npz.",
        )
    shape = config.preprocessing.image_shape
    stored = config.run.data
    wanted = replace(
        _own_data(config) if source is None else _other_data(config, source),
        data_dir=str(data_dir) if data_dir else stored.data_dir,
        stream=stored.stream or None,
    )
    try:
        recorded: RangeChoice = config.preprocessing.pixel_range or "recorded"
        dataset = load_configured(wanted, seed=config.run.training.seed, pixel_range=recorded, progress=progress)
    except UsageError:  # the checkpoint sets size and channels here, not an option of the user
        raise DataError(
            f"{wanted.source} has other images than the checkpoint takes: {shape}, height, width and channels",
            remedy="Resize the images; only a folder of image files is resized automatically.",
        ) from None
    if known is not None and dataset.class_names != known.class_names:
        raise DataError(
            f"{dataset.source} has classes {_few(dataset.class_names)}, the checkpoint {_few(known.class_names)}",
            remedy="Use data with the same classes.",
        )
    if dataset.image_shape != shape:
        raise DataError(
            f"{dataset.source} has images {dataset.image_shape}, the checkpoint takes {shape}",
            remedy="Resize the images.",
        )
    _check_crop(dataset, config)
    if source is None and known is not None and dataset.sha256 != known.sha256:
        raise DataError(
            f"{dataset.source} has changed since training: SHA-256 {dataset.sha256[:12]}…, was {known.sha256[:12]}…",
            remedy=f"To use it as it is now, add --data {stored.source}",
        )
    return dataset


def _check_crop(dataset: Dataset, config: CheckpointConfig) -> None:
    """Raise DataError if packed images were cropped in another way than those of the training."""
    if dataset.crop is not None and dataset.crop != config.preprocessing.crop:
        raise DataError(
            f"{dataset.source} was packed with --resize {dataset.crop.resize}, but the images of the training were not "
            "resized so",
            remedy="Pack the source without --resize.",
        )


def _own_data(config: CheckpointConfig) -> DataConfig:
    """The data of the training. Images keep the size that it chose, which is no news to the user."""
    stored = config.run.data
    chosen = _square(config) if holds_image_files(stored.source) else None
    return replace(stored, image_size=stored.image_size or chosen)


def _other_data(config: CheckpointConfig, source: str) -> DataConfig:
    """Other data, converted to what the checkpoint takes."""
    crop = config.preprocessing.crop
    return replace(
        config.run.data,
        source=source,
        channels=config.preprocessing.image_shape[2],
        image_size=_square(config),
        resize=None if crop is None else crop.resize,
        interpolation="bilinear" if crop is None else crop.interpolation,
        random_resized_crop=None,
    )


def _square(config: CheckpointConfig) -> int | None:
    """The side of the checkpoint's images; None if they are no squares."""
    height, width, _ = config.preprocessing.image_shape
    return height if height == width else None


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)})" if len(names) > 5 else "")
