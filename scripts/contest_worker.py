"""The worker's side of a contest between bncli and a peer, for either program: cases, synthetic data, the protocol.

A worker is a process that stays alive and waits on its stdin while others work. It is asked one JSON line at a time::

    {"start": {…}}   builds the program                -> what it tells about itself
    {"first": B}     compiles, does the first work     -> Work
    {"turn": n}      n steps or calls                  -> Work, the CPU time and the memory of the process

and answers each with a line, ``{"error": …}`` where it could not. Needs NumPy alone: the peer's interpreter may have no
bncli. Letters: N images, B batch size, H W C the image.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

NUM_CLASSES = 10
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and the images it is measured on.

    Attributes:
        model: bncli's name of the network.
        like: the known data set whose augmentation is taken.
        image_shape: (H, W, C).
        batch_size: of training; that of the recipe, if there is one.
        train_steps: in an epoch, which must not end while it is measured.
        recipe: of bncli, which trains the network; "none" for bncli's own defaults.
    """

    model: str
    like: str
    image_shape: tuple[int, int, int]
    batch_size: int
    train_steps: int
    recipe: str = "none"


# The train splits are as large as the data sets', and take the memory they take; digits' would be too short.
CASES = {
    "cnn-32x32x3": Case(model="cnn", like="cifar10", image_shape=(32, 32, 3), batch_size=128, train_steps=390),
    "cnn-28x28x1": Case(model="cnn", like="fashion-mnist", image_shape=(28, 28, 1), batch_size=128, train_steps=468),
    "resnet20-32x32x3": Case(
        model="resnet20", like="cifar10", image_shape=(32, 32, 3), batch_size=128, train_steps=390
    ),
    "resnet18-32x32x3": Case(
        model="resnet18", like="cifar10", image_shape=(32, 32, 3), batch_size=128, train_steps=390
    ),
    "cnn-8x8x1": Case(model="cnn", like="digits", image_shape=(8, 8, 1), batch_size=64, train_steps=4000),
    "fastnet-32x32x3": Case(
        model="fastnet", like="cifar10", image_shape=(32, 32, 3), batch_size=1024, train_steps=48, recipe="fast"
    ),
}


# Measured only by name: one step takes a CPU minutes. On a GPU, 12,288 photographs.
LARGE_CASES = {
    "resnet50-224x224x3": Case(
        model="resnet50", like="cifar10", image_shape=(224, 224, 3), batch_size=128, train_steps=8
    ),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training of a network. bncli states it and the peer follows, so that nothing is written down twice.

    Attributes:
        num_images: N.
        bn_momentum: weight of the *new* value, PyTorch's convention: 1 − Flax's.
        trains_whitening: False if the kernel of a first layer that whitens patches is frozen.
        trains_bn_scale: False if the scales of BN are frozen.
        muon: (iterations, share of the learning rate for all but convolutions, β₂ of their AdamW); None for SGD.
        learning_rate: at the peak of the schedule.
        triangle: (share of the peak at the start, share of the schedule before the peak, share of the peak at the end)
            of a schedule that rises and falls in lines; None for half a cosine from the peak down.
        bias_lr_scale: factor of the learning rate of biases.
        weight_decay: of kernels alone.
        ema_decay: of a moving average of the trained weights; None for none.
        pad_mode: what moves in where an image is shifted: "zero" or "reflect".
        alternating_flip: each image is mirrored in every other epoch, not by chance.
    """

    model: str
    image_shape: tuple[int, int, int]
    num_images: int
    batch_size: int
    dropout: float
    bn_momentum: float
    bn_epsilon: float
    trains_whitening: bool
    trains_bn_scale: bool
    muon: tuple[int, float, float] | None
    learning_rate: float
    triangle: tuple[float, float, float] | None
    bias_lr_scale: float
    momentum: float
    weight_decay: float
    label_smoothing: float
    ema_decay: float | None
    max_shift: int
    pad_mode: str
    horizontal_flip: bool
    alternating_flip: bool
    precision: str


@dataclass(frozen=True)
class Work:
    """A piece of work that was done.

    Attributes:
        seconds: it took.
        images: that went through the network.
        left: how much more can be asked for, in steps or calls; None where there is no end.
    """

    seconds: float
    images: int
    left: int | None = None


class Program(Protocol):
    """The program that a worker runs."""

    def facts(self) -> dict[str, Any]:
        """Facts about itself: at least ``parameters``, their number, and ``versions``."""

    def first(self, batch_size: int) -> Work:
        """Compiles for that batch and does the first work; of the first batch, the building's seconds count too."""

    def turn(self, amount: int) -> Work:
        """So many steps or calls."""


def serve(start: Callable[[dict[str, Any]], Program]) -> None:
    """Answers the requests on stdin until it is closed.

    Args:
        start: makes the program from the first request.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not get between the answers
    programs: list[Program] = []
    for line in sys.stdin:
        try:
            answer = _answer(start, programs, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {_first_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(
    start: Callable[[dict[str, Any]], Program], programs: list[Program], request: dict[str, Any]
) -> dict[str, Any]:
    ((what, value),) = request.items()
    if what == "start":
        programs.append(start(value))
        return programs[0].facts()
    if what == "first":
        return asdict(programs[0].first(value))
    cpu = time.process_time()
    work = programs[0].turn(value)
    return {**asdict(work), "cpu_seconds": time.process_time() - cpu, "memory_bytes": peak_memory()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def peak_memory() -> int | None:
    """The most bytes this process has held on the host; None where the system does not tell."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def synthetic_images(num_images: int, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] and labels int32 [N] of noise, always the same."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *image_shape), np.uint8)
    return images, np.resize(np.arange(NUM_CLASSES, dtype=np.int32), num_images)
