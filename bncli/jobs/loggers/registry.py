"""The loggers by name, with the library of each; none is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from bncli.config.choices import LoggerName
from bncli.errors import BncliError

NONE = "none"


@dataclass(frozen=True)
class Entry:
    """A logger: the module below ``jobs/loggers`` with its function ``create``, and the library that it needs."""

    module: str
    library: str | None = None


LOGGERS: Mapping[LoggerName, Entry] = {
    "csv": Entry("csv_files"),
    "mlflow": Entry("mlflow_run", "mlflow"),
    "tensorboard": Entry("tensorboard_events", "tensorboardX"),
    "trackio": Entry("trackio_run", "trackio"),
    "wandb": Entry("wandb_run", "wandb"),
}


def logger_names(log: str | None) -> tuple[LoggerName, ...]:
    """The loggers in the setting ``--log``, each once."""
    words = dict.fromkeys((log or NONE).split(","))
    return tuple(name for name in LOGGERS if name in words)


def check_installed(log: str | None) -> None:
    """Raise BncliError if the library of a logger is missing, before any work is done."""
    for name in logger_names(log):
        library = LOGGERS[name].library
        if library is not None and find_spec(library) is None:
            raise BncliError(
                f"--log {name} needs {library}, which is not installed", remedy=f"pip install 'bncli[{name}]'"
            )
