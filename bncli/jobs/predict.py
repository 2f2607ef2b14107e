"""``bncli predict``: the most probable classes of image files.

Letters: N images, H W height and width, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jax
import numpy as np

from bncli.checkpoint import Checkpoint
from bncli.data import Preprocessor
from bncli.data.image_search import find_images
from bncli.errors import DataError

Image = tuple[Path, np.ndarray]  # uint8 [H, W, C]
Progress = Callable[[str, int, int | None], None]

_BATCH_SIZE = 64  # images in memory at once, of usual size
_BATCH_VALUES = 1 << 26  # channel values in memory at once, of larger images
_NOT_FINITE = "the network's outputs are NaN or infinite"


@dataclass(frozen=True)
class ClassProbability:
    """A class and its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    path: Path
    classes: tuple[ClassProbability, ...]


@dataclass(frozen=True)
class Failure:
    """An image that has no prediction, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Predictions:
    """The outcome for all images, in order.

    Attributes:
        rows: images with a prediction.
        failures: those without.
        notes: on files that were not taken for images, and on images with clipped pixels.
    """

    rows: tuple[Prediction, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> DataError | None:
        """The error that ends the command: all failures by name; None if there is none."""
        if not self.failures:
            return None
        lines = [f"  {failure.path}: {failure.reason}" for failure in self.failures]
        total = len(self.rows) + len(self.failures)
        is_network = all(failure.reason == _NOT_FINITE for failure in self.failures)
        return DataError(
            "\n".join([f"{len(self.failures):,} of {total:,} have no prediction:", *lines]),
            remedy="See `bncli inspect-stats` for what is wrong in the network."
            if is_network
            else "Give PNG, JPEG or other image files, or folders of them.",
        )


def predict(
    checkpoint: Checkpoint, paths: Sequence[Path], *, top: int, progress: Progress | None = None
) -> Predictions:
    """The ``top`` classes of each image file, resized and normalized as in training.

    A file that fails does not stop the others. If the checkpoint does not record class names, the class numbers stand
    in for them.

    Args:
        checkpoint: the network.
        paths: image files, and folders, which stand for all image files below.
        top: number of classes.
        progress: called with (stage, images done, number of images).
    """
    found = find_images(paths)
    failures = [Failure(bad.path, bad.reason) for bad in found.bad]
    rows: list[Prediction] = []
    notes = list(found.notes)
    remaining = iter(found.images)
    done = 0
    while batch := list(islice(remaining, _batch_size(checkpoint))):
        images, unreadable, clipped = _read(checkpoint.preprocessor, batch)
        outcomes = list(_outcomes(checkpoint, images, top))
        rows.extend(outcome for outcome in outcomes if isinstance(outcome, Prediction))
        failures.extend(unreadable)
        failures.extend(outcome for outcome in outcomes if isinstance(outcome, Failure))
        notes.extend(f"{path}: pixels outside the range of the training images were clipped" for path in clipped)
        done += len(batch)
        if progress is not None:
            progress("predicting", done, len(found.images))
    return Predictions(tuple(rows), tuple(failures), tuple(notes))


def _batch_size(checkpoint: Checkpoint) -> int:
    values = math.prod(checkpoint.preprocessor.image_shape)
    return min(_BATCH_SIZE, max(1, _BATCH_VALUES // values))


def _read(preprocessor: Preprocessor, paths: Sequence[Path]) -> tuple[list[Image], list[Failure], list[Path]]:
    """(the images that can be read, those that cannot, those of which pixels were clipped)."""
    images: list[Image] = []
    failures: list[Failure] = []
    clipped: list[Path] = []
    for path in paths:
        try:
            image, is_clipped = preprocessor.read(path)
        except DataError as error:
            failures.append(Failure(path, error.message.removeprefix(f"{path}: ")))
        else:
            images.append((path, image))
            clipped.extend([path] if is_clipped else [])
    return images, failures, clipped


def _outcomes(checkpoint: Checkpoint, images: Sequence[Image], top: int) -> Iterator[Failure | Prediction]:
    """The outcome for each image of one batch."""
    if not images:
        return
    logits = checkpoint.logits(np.stack([image for _, image in images]), batch_size=_BATCH_SIZE)  # [N, K]
    probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))
    names = _class_names(checkpoint, probabilities.shape[1])
    for (path, _), row in zip(images, probabilities, strict=True):
        yield Prediction(path, _top(row, names, top)) if np.isfinite(row).all() else Failure(path, _NOT_FINITE)


def _class_names(checkpoint: Checkpoint, num_classes: int) -> Sequence[str]:
    names = checkpoint.config.class_names
    return [str(k) for k in range(num_classes)] if names is None else names


def _top(row: np.ndarray, names: Sequence[str], top: int) -> tuple[ClassProbability, ...]:
    best = np.argsort(-row, kind="stable")[:top]
    return tuple(ClassProbability(names[k], float(row[k])) for k in best)
