"""The exceptions bncli raises on purpose: each has an exit code and a remedy.

::

    BncliError (1)            the input is bad; the message says what, the remedy says what to do
    ├── UsageError (2)        the call is wrong: an unknown name, options that exclude each other
    ├── DataError             a data set, an image or a label file
    ├── ConfigError           a configuration, given or stored
    ├── ModelError            a model that cannot be imported, built or applied
    ├── CheckpointError       a checkpoint directory that is missing, damaged or in the way
    ├── FoldError             a network that must not be folded (bad statistics, train-mode BN, overflow)
    ├── RuntimeCheckError     the installed JAX, or the devices asked for
    ├── CheckFailedError (3)  everything ran, and a check the user asked for did not hold
    └── TrainingInterruptedError (130)  stopped by a signal, after saving; 143 where it was SIGTERM

Beside them one warning, BncliWarning.
"""

from __future__ import annotations


class BncliError(Exception):
    """An error with a message for the user and, where there is one, the remedy.

    Args:
        message: what is wrong, naming the file and the place.
        remedy: what the user can do about it, as a sentence or a command.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class BncliWarning(UserWarning):
    """Something is not as it should be, and what was asked for goes on without it."""


class UsageError(BncliError):
    """The call itself is wrong."""

    exit_code = 2


class DataError(BncliError):
    """A data set, an image or a label file is missing or malformed."""


class ConfigError(BncliError):
    """A configuration value is out of range, or a stored configuration is malformed."""


class ModelError(BncliError):
    """A model cannot be imported, built or applied to the data."""


class CheckpointError(BncliError):
    """A checkpoint directory is missing, damaged, or already there."""


class FoldError(BncliError):
    """A network that must not be folded."""


class RuntimeCheckError(BncliError):
    """The installed JAX computes wrong numbers, or lacks the devices asked for."""


class CheckFailedError(BncliError):
    """Everything ran, and a check the user asked for did not hold."""

    exit_code = 3


class TrainingInterruptedError(BncliError):
    """The user stopped the training; the state has been saved."""

    exit_code = 130
