"""``bncli predict``: the most probable classes of image files.

Letters: N images, H W height and width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from bncli.checkpoint import Checkpoint


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


def predict(checkpoint: Checkpoint, paths: Sequence[Path], *, top: int) -> tuple[Prediction, ...]:
    """The ``top`` classes of each image file, resized and normalized as in training.

    If the checkpoint does not record class names, the class numbers stand in for them.

    Raises:
        DataError: a file is not a readable image; the message names it.
    """
    images = np.stack([checkpoint.preprocessor.load(path) for path in paths])  # uint8 [N, H, W, C]
    probabilities = np.asarray(jax.nn.softmax(checkpoint.logits(images), axis=-1))  # [N, K]
    dataset = checkpoint.config.dataset
    names = dataset.class_names if dataset is not None else [str(k) for k in range(probabilities.shape[1])]
    return tuple(Prediction(path, _top(row, names, top)) for path, row in zip(paths, probabilities, strict=True))


def _top(row: np.ndarray, names: Sequence[str], top: int) -> tuple[ClassProbability, ...]:
    best = np.argsort(-row, kind="stable")[:top]
    return tuple(ClassProbability(names[k], float(row[k])) for k in best)
