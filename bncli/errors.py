"""The exceptions that bncli raises on purpose, each with an exit code and a remedy.

::

    BncliError (1)            the input is bad; the message describes it, the remedy says what to do
    ├── UsageError (2)        the command line is wrong: an unknown name, options that exclude each other
    ├── DataError             a data set, an image or a label file
    ├── ConfigError           a configuration, on the command line or stored
    ├── ModelError            a model that cannot be imported, built or applied
    ├── CheckpointError       a checkpoint directory that is missing, damaged or already exists
    ├── FoldError             a network that cannot be folded safely (bad statistics, train-mode BN, overflow)
    ├── RuntimeCheckError     the installed JAX, or the requested devices
    ├── CheckFailedError (3)  everything ran, and a check that the user requested failed
    └── TrainingInterruptedError (130)  stopped by a signal, after saving; 143 for SIGTERM

Warnings are BncliWarning.
"""

from __future__ import annotations


class BncliError(Exception):
    """An error with a message for the user and, if there is one, a remedy.

    Args:
        message: the problem, with the file and the place.
        remedy: the user's next step, as a sentence or a command.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class BncliWarning(UserWarning):
    """A problem that does not stop the command."""


class UsageError(BncliError):
    """The command line or the arguments of a call are wrong."""

    exit_code = 2


class DataError(BncliError):
    """A data set, an image or a label file is missing or malformed."""


class ConfigError(BncliError):
    """A configuration value is out of range, or a stored configuration is malformed."""


class ModelError(BncliError):
    """A model cannot be imported, built or applied to the data."""


class CheckpointError(BncliError):
    """A checkpoint directory is missing, damaged, or already exists."""


class FoldError(BncliError):
    """A network cannot be folded safely."""


class RuntimeCheckError(BncliError):
    """The installed JAX computes wrong numbers, or lacks the requested devices."""


class CheckFailedError(BncliError):
    """Everything ran, and a check that the user requested failed."""

    exit_code = 3


class TrainingInterruptedError(BncliError):
    """The user stopped the training; the state has been saved."""

    exit_code = 130
