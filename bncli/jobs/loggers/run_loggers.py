"""The loggers of one run together. One that fails is left out, with one warning, and the training goes on."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from bncli.checkpoint import LOGS, load
from bncli.config.choices import LoggerName
from bncli.errors import BncliError, BncliWarning
from bncli.frameworks.linen import Variables
from bncli.jobs.loggers.logger import LoggedImage, LoggedRun, Logger, flat, scalars_of
from bncli.jobs.loggers.registry import LOGGERS, logger_names
from bncli.jobs.mistakes import Mistakes, find_mistakes
from bncli.process import distributed
from bncli.process.files import read_regular
from bncli.training.loop import Event, Trainer
from bncli.training.progress import EpochResult
from bncli.training.result import TrainResult

# Identifiers under which other tools log the run; a resumed run goes on under them.
IDS = "ids.json"
_MAX_IDS = 1 << 16


@dataclass
class RunLoggers:
    """Hands the events of a run to its loggers.

    Attributes:
        trainer: the run.
        loggers: by name; one that has failed is removed.
    """

    trainer: Trainer
    loggers: dict[LoggerName, Logger] = field(default_factory=dict)

    def on_event(self, event: Event) -> None:
        """Log an epoch; other events are not logged."""
        if not isinstance(event, EpochResult) or not self.loggers:
            return
        scalars = scalars_of(event)
        layers = bn_arrays(self.trainer.evaluation.variables(self.trainer.state))
        self._each(lambda logger: logger.epoch(scalars, layers, number=event.epoch))

    def end(self, result: TrainResult) -> None:
        """Log the scores of the finished run and, of a single process, its worst mistakes on the validation images."""
        if not self.loggers:
            return
        scalars = {"test/accuracy": result.test.accuracy, "test/loss": result.test.loss}
        images = self._worst_mistakes(result) if distributed.is_alone() else ()  # one process cannot run the network
        self._each(lambda logger: logger.end(scalars, images, number=result.epochs_run))

    def _worst_mistakes(self, result: TrainResult) -> Sequence[LoggedImage]:
        dataset = self.trainer.dataset
        return logged_images(find_mistakes(load(result.out), dataset.val, dataset.class_names))

    def close(self) -> None:
        """Close all loggers."""
        self._each(lambda logger: logger.close())
        self.loggers.clear()

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self.loggers.items()):
            try:
                with _apart():
                    call(logger)
            except Exception as error:  # whatever a library raises must not end the training
                del self.loggers[name]
                warnings.warn(
                    f"--log {name} failed and is left out from now on: {_reason(error)}", BncliWarning, stacklevel=3
                )
                with suppress(Exception), _apart():
                    logger.close()


@contextmanager
def _apart() -> Iterator[None]:
    """Keep what libraries print away from the result on stdout, and their warnings from the user."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _created(name: LoggerName, run: LoggedRun) -> Logger:
    with _apart():
        logger: Logger = import_module(f"bncli.jobs.loggers.{LOGGERS[name].module}").create(run)
    return logger


@contextmanager
def logging(trainer: Trainer) -> Iterator[RunLoggers]:
    """The loggers that the run's settings ask for; they are closed at the end, also of a run that fails.

    Call it after the run has been started or restored: a resumed run goes on with its log.

    Raises:
        BncliError: a logger cannot start.
    """
    loggers = RunLoggers(trainer)
    try:
        _open(loggers)
        yield loggers
    finally:
        loggers.close()


def _open(loggers: RunLoggers) -> None:
    trainer = loggers.trainer
    out = trainer.saver.out
    folder = out / LOGS
    names = logger_names(trainer.config.training.log)
    if not names or not distributed.is_first():
        return
    folder.mkdir(exist_ok=True)
    run = LoggedRun(
        folder, out.resolve().name, flat(asdict(trainer.config)), trainer.progress.epochs_done, read_ids(folder)
    )
    for name in names:
        try:
            loggers.loggers[name] = _created(name, run)
        except BncliError:
            raise
        except Exception as error:  # the exceptions of other libraries
            raise BncliError(
                f"--log {name} cannot start: {_reason(error)}",
                remedy=f"Mend that, or continue without it: --resume --log none --out {out}",
            ) from error
    ids: dict[str, str] = {**run.ids}
    ids |= {name: logger.id for name, logger in loggers.loggers.items() if logger.id}
    (folder / IDS).write_text(json.dumps(ids) + "\n", encoding="utf-8")


def read_ids(folder: Path) -> dict[str, str]:
    """The identifiers of earlier parts of the run; none if the file is missing or damaged."""
    try:
        found = json.loads(read_regular(folder / IDS, limit=_MAX_IDS))
    except (OSError, RecursionError, ValueError):
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def bn_arrays(variables: Variables) -> dict[str, np.ndarray]:
    """Path -> array of everything that BN layers hold: mean, var, scale and bias; empty without BN."""
    stats, params = (_flat(variables.get(part, {})) for part in ("batch_stats", "params"))
    layers = {path.rpartition("/")[0] for path in stats}
    return {**stats, **{path: array for path, array in params.items() if path.rpartition("/")[0] in layers}}


def _flat(tree: Mapping[str, object]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = flatten_dict(jax.device_get(tree), sep="/")
    return found


def logged_images(mistakes: Mistakes) -> Sequence[LoggedImage]:
    """The worst mistakes with their captions; none if nothing is wrong."""
    names = mistakes.class_names
    return [
        LoggedImage(
            example.image,
            f"{names[example.prediction]} {example.probability:.1%}, is {names[example.label]} "
            f"({example.label_probability:.1%}), {example.file.name if example.file else f'image {example.index}'}",
        )
        for example in mistakes.worst
        if example.label != example.prediction
    ]


def _reason(error: Exception) -> str:
    """The error in one line of bounded length."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
