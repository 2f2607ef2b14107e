"""The places of the data sets known by name on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bncli.data.cifar import find_cifar
from bncli.data.digits import PLACE
from bncli.data.idx import holds_idx
from bncli.data.known import KNOWN, KnownDataset
from bncli.process.cache import user_cache

_SYSTEM_ROOT = Path("/usr/share/datasets")


def known_datasets(data_dir: Path | None = None) -> tuple[KnownDataset, ...]:
    """The data sets known by name, in the order of their names, each with its place or None."""
    return tuple(replace(known, found=_found(known, data_dir)) for known in KNOWN.values())


def locate(known: KnownDataset, data_dir: Path | None = None) -> Path | None:
    """The first folder or archive that holds ``known``, or None.

    Args:
        known: a row of the table other than ``digits``, which is part of the package.
        data_dir: a folder to search before ``$BNCLI_DATA``, the user's cache and the system's data sets.
    """
    for folder in search_folders(known, data_dir):
        if known.format == "idx" and holds_idx(folder):
            return folder
        if known.format == "cifar" and (found := find_cifar(folder, known.name)):
            return found
    return None


def search_folders(known: KnownDataset, data_dir: Path | None = None) -> Iterator[Path]:
    """The folders that may hold ``known``, in search order.

    A data folder may hold the data set in a folder of its name, directly, or in a folder that another tool made. The
    folder of its name comes first, because it is unambiguous.
    """
    for root in data_folders(data_dir):
        for folder in (root / known.name, root):
            yield folder
            for subfolder in known.subfolders:
                yield folder / subfolder


def data_folders(data_dir: Path | None) -> Iterator[Path]:
    """The folders that hold data sets, in search order: the caller's, $BNCLI_DATA, the user's, the system's."""
    if data_dir is not None:
        yield data_dir
    if environment := os.environ.get("BNCLI_DATA"):
        yield Path(environment)
    yield user_data_dir()
    yield _SYSTEM_ROOT


def user_data_dir() -> Path:
    """The folder for ``bncli data fetch``: ``$XDG_CACHE_HOME/bncli/data``, by default below ``~/.cache``."""
    return user_cache() / "data"


def _found(known: KnownDataset, data_dir: Path | None) -> str | None:
    if known.format == "digits":
        return PLACE
    place = locate(known, data_dir)
    return None if place is None else str(place)
