"""bncli: Batch Normalization in JAX/Flax — train, diagnose, fold.

The map of the package; imports point downwards only::

    cli/           the commands: the only place that imports typer and rich, and the only one that prints
    ├── training/    state, optimizer, the train and eval steps, the loop that drives them
    ├── evaluation   a model on a split -> EvalResult
    ├── benchmark/   how fast networks are, cold and warm, side by side
    ├── inspection/  BN layers in numbers, and what those numbers mean
    ├── selftest/    whether the installed jaxlib computes what it should
    ├── folding/     merges BN into its neighbours in any JAX function; knows no Flax
    └── checkpoint/  saves, restores, verifies: the only importer of orbax
    models/ data/ config recipes runtime cache   networks, images, settings, the process before JAX starts, its caches
    ops/             the operations of a training step with gradients that are cheap on a CPU; knows nothing of bncli
    errors           every exception raised on purpose

Importing ``bncli`` imports none of this: the public names below load on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.checkpoint import Checkpoint, load
    from bncli.errors import BncliError
    from bncli.folding import fold
    from bncli.inspection import inspect_stats
    from bncli.recalibration import recalibrate

__version__ = "0.1.0"

_PUBLIC = {  # public name -> module that defines it
    "BncliError": "bncli.errors",
    "Checkpoint": "bncli.checkpoint",
    "fold": "bncli.folding",
    "inspect_stats": "bncli.inspection",
    "load": "bncli.checkpoint",
    "recalibrate": "bncli.recalibration",
}

__all__ = ["BncliError", "Checkpoint", "__version__", "fold", "inspect_stats", "load", "recalibrate"]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
