"""bncli: Batch Normalization in JAX/Flax — train, diagnose, fold.

The rooms of the package, from the top. Imports point downwards only::

    cli/         the commands: the only place that imports typer and rich, and the only one that prints
    studies/     claims about BN as experiments: cells, instruments, verdicts, figures
    jobs/        the work of each command, without a terminal: fold, export, evaluate, predict, recalibrate, bench
    training/    the training state, optimizer and step, and the loop that drives them
    weights/     weights of other libraries and checkpoints, to start from: names, layouts, preprocessing
    inspection/  BN layers in numbers, and the findings about them
    checkpoint/  saving, restoring and verifying: the only importer of orbax
    measure/     the score of a network on a split, the moments of its BN inputs, population statistics
    selftest/    checks that the installed jaxlib computes the right numbers
    models/      the built-in networks, and the user's own
    frameworks/  how a network of each framework is called, and where its BN statistics lie
    data/        images: from files to batches
    folding/     merging BN into its neighbours in any JAX function; knows no Flax
    process/     the process that JAX runs in: flags, caches, hardware, devices, memory
    config/      settings declared once, recipes, choices
    ops/         operations of a training step with gradients that are cheap on a CPU
    errors       every exception raised on purpose

Importing ``bncli`` imports none of this: the public names below load on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.checkpoint.load import Checkpoint, load
    from bncli.errors import BncliError
    from bncli.frameworks.fold import fold
    from bncli.inspection import inspect_stats
    from bncli.jobs.train import train
    from bncli.measure.population import recalibrate
    from bncli.studies import study

__version__ = "0.1.0"

_PUBLIC = {  # public name -> module that defines it
    "BncliError": "bncli.errors",
    "Checkpoint": "bncli.checkpoint",
    "fold": "bncli.frameworks.fold",
    "inspect_stats": "bncli.inspection",
    "load": "bncli.checkpoint",
    "recalibrate": "bncli.measure.population",
    "study": "bncli.studies",
    "train": "bncli.jobs.train",
}

__all__ = ["BncliError", "Checkpoint", "__version__", "fold", "inspect_stats", "load", "recalibrate", "study", "train"]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
