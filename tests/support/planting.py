"""Healthy layers, and checkpoints with something planted in them."""

from dataclasses import replace

import jax
import numpy as np

from bncli import checkpoint
from bncli.inspection.layers import BatchNormArrays

CHANNELS = 20
STEP = 99


def layer(name="norm", **changes):
    """Twenty healthy channels; a change is an array, or {channel: value}."""
    draw = np.random.default_rng(0)
    arrays = {
        "mean": draw.normal(size=CHANNELS),
        "var": draw.uniform(0.1, 2, CHANNELS),
        "scale": draw.uniform(0.5, 1.5, CHANNELS),
        "bias": draw.normal(0, 0.1, CHANNELS),
    }
    settings = {"name": name, "epsilon": 1e-5, "momentum": 0.9, "relu_follows": True}
    for key, change in changes.items():
        if isinstance(change, dict):
            for channel, value in change.items():
                arrays[key][channel] = value
        elif key in arrays:
            arrays[key] = change
        else:
            settings[key] = change
    return BatchNormArrays(**arrays, **settings)


def two_replicas(mean=0.0, var=1.0, channels=(), count=CHANNELS):
    """Replicas [2, 2, C] that are the same but in these channels, where the second one's mean and var are these."""
    replicas = np.stack([np.zeros((2, count)), np.ones((2, count))], axis=1)
    replicas[1, 0, list(channels)], replicas[1, 1, list(channels)] = mean, var
    return replicas


def plant(directory, layers):
    """Saves the best step's variables as step 99, changed by {layer: {"mean" or "scale" …: {channel: value}}}."""
    best = checkpoint.find_step(directory, "best")
    variables = jax.tree.map(np.copy, checkpoint.load_variables(directory, best))
    for name, arrays in layers.items():
        for key, values in arrays.items():
            part = "batch_stats" if key in ("mean", "var") else "params"
            for channel, value in values.items():
                variables[part][name][key][channel] = value
    progress = checkpoint.read_progress(directory, best)
    checkpoint.save(directory, STEP, variables=variables, optimizer={"step": np.int32(STEP)}, progress=progress)


def configure(directory, **settings):
    """Changes the model's settings in the checkpoint's config.json."""
    config = checkpoint.read_config(directory)
    model = replace(config.run.model, **settings)
    checkpoint.write_config(directory, replace(config, run=replace(config.run, model=model)))
