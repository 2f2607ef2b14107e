"""The data set that a configuration or a checkpoint names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bncli.config import CheckpointConfig, DataConfig
from bncli.data.dataset import Dataset
from bncli.data.load import load_dataset
from bncli.errors import DataError


def load_configured(config: DataConfig, *, seed: int) -> Dataset:
    """The data set of ``config``, its validation split carved out by ``seed``."""
    return load_dataset(
        config.source,
        data_dir=Path(config.data_dir) if config.data_dir else None,
        val_fraction=config.val_fraction,
        seed=seed,
        image_size=config.image_size,
        channels=config.channels,
        bad_images=config.bad_images,
    )


def load_matching(config: CheckpointConfig, *, source: str | None, data_dir: Path | None) -> Dataset:
    """The data a checkpoint was trained on, or other data of the same classes, in the checkpoint's image size.

    Args:
        config: the checkpoint's.
        source: other data; None for the checkpoint's own, with its own validation split.
        data_dir: where to look for a known name first.

    Raises:
        DataError: the data cannot be read, is not what the checkpoint was trained on, or has other classes.
    """
    shape = config.preprocessing.image_shape
    changes: dict[str, object] = {"data_dir": str(data_dir)} if data_dir else {}
    if source is not None:
        changes |= {"source": source, "channels": shape[2], "image_size": shape[0] if shape[0] == shape[1] else None}
    dataset = load_configured(replace(config.run.data, **changes), seed=config.run.training.seed)
    if dataset.class_names != config.dataset.class_names:
        raise DataError(
            f"{dataset.source} has classes {_few(dataset.class_names)}, "
            f"the checkpoint {_few(config.dataset.class_names)}",
            remedy="Use data with the same classes.",
        )
    if dataset.image_shape != shape:
        raise DataError(
            f"{dataset.source} has images {dataset.image_shape}, the checkpoint takes {shape}",
            remedy="Resize the images.",
        )
    if source is None and dataset.sha256 != config.dataset.sha256:
        raise DataError(
            f"{dataset.source} has changed since training: SHA-256 {dataset.sha256[:12]}…, "
            f"was {config.dataset.sha256[:12]}…",
            remedy=f"To use it as it is now: --data {config.run.data.source}",
        )
    return dataset


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)})" if len(names) > 5 else "")
