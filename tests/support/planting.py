"""Healthy BN layers, and checkpoints with planted faults."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from bncli import checkpoint
from bncli.inspection.layers import BatchNormArrays

CHANNELS = 20
STEP = 99
# {layer: {"mean", "var", "scale" or "bias": {channel: value}}}
Plants: TypeAlias = "Mapping[str, Mapping[str, Mapping[int, float]]]"


def layer(name: str = "norm", **changes: Any) -> BatchNormArrays:
    """Twenty healthy channels with some changes: an array, {channel: value} of an array, or a setting of the layer."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "mean": draw.normal(size=CHANNELS),
        "var": draw.uniform(0.1, 2, CHANNELS),
        "scale": draw.uniform(0.5, 1.5, CHANNELS),
        "bias": draw.normal(0, 0.1, CHANNELS),
    }
    settings: dict[str, Any] = {"name": name, "epsilon": 1e-5, "momentum": 0.9, "relu_follows": True}
    for key, change in changes.items():
        if isinstance(change, dict):
            for channel, value in change.items():
                arrays[key][channel] = value
        elif key in arrays:
            arrays[key] = change
        else:
            settings[key] = change
    return BatchNormArrays(**arrays, **settings)


def two_replicas(
    mean: float = 0.0, var: float = 1.0, channels: Sequence[int] = (), count: int = CHANNELS
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Replicas [2, 2, C] that agree, except that the second has this mean and var in ``channels``."""
    replicas = np.stack([np.zeros((2, count)), np.ones((2, count))], axis=1)
    replicas[1, 0, list(channels)], replicas[1, 1, list(channels)] = mean, var
    return replicas


def plant(directory: Path, layers: Plants) -> None:
    """Save the best step's variables with these changes as step 99."""
    best = checkpoint.find_step(directory, "best")
    variables = jax.tree.map(np.copy, checkpoint.load_variables(directory, best))
    for name, arrays in layers.items():
        for key, values in arrays.items():
            part = "batch_stats" if key in ("mean", "var") else "params"
            for channel, value in values.items():
                variables[part][name][key][channel] = value
    progress = checkpoint.read_progress(directory, best)
    checkpoint.save(directory, STEP, variables=variables, optimizer={"step": np.int32(STEP)}, progress=progress)


def configure(directory: Path, **settings: Any) -> None:
    """Change model settings in the checkpoint's ``config.json``."""
    config = checkpoint.read_config(directory)
    model = replace(config.run.model, **settings)
    checkpoint.write_config(directory, replace(config, run=replace(config.run, model=model)))
