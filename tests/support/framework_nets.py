"""One small network in the idiom of each framework, and the way from linen's arrays to theirs.

A 3×3 convolution without bias, BN of momentum 0.9, ReLU, the mean over positions, and a dense layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = "Mapping[str, Any]"

SOURCES = {
    "linen": """
import flax.linen as nn

class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x))
        return nn.Dense(self.num_classes, name="fc")(x.mean((1, 2)))
""",
    "nnx": """
from flax import nnx

class Net(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.fc = nnx.Linear(4, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.bn(self.conv(x))).mean((1, 2)))
""",
    "equinox": """
import equinox as eqx
import jax

class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    bn: eqx.nn.BatchNorm
    fc: eqx.nn.Linear

    def __init__(self, num_classes, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, 4, 3, padding=1, use_bias=False, key=first)
        self.bn = eqx.nn.BatchNorm(4, "batch", momentum=0.9, mode="batch")
        self.fc = eqx.nn.Linear(4, num_classes, key=second)

    def __call__(self, x, state):
        x, state = self.bn(self.conv(x), state)
        return self.fc(jax.nn.relu(x).mean((1, 2))), state
""",
    "haiku": """
import haiku as hk
import jax

def forward(x, is_training):
    x = hk.Conv2D(4, 3, with_bias=False, name="conv")(x)
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9, name="bn")(x, is_training))
    return hk.Linear(3, name="fc")(x.mean((1, 2)))

Net = hk.transform_with_state(forward)
""",
}


def write_net(directory: Path, framework: str) -> str:
    """Write the network into ``directory``, and return its name for ``--model``."""
    path = directory / f"{framework}_net.py"
    path.write_text(SOURCES[framework])
    return f"{path}:Net"


def _haiku(kernel: np.ndarray, scale: np.ndarray, bias: np.ndarray, fc: np.ndarray, fc_bias: np.ndarray) -> Arrays:
    shape = (1, 1, 1, -1)
    norm = {"scale": scale.reshape(shape), "bias": bias.reshape(shape)}
    return {"conv": {"w": kernel}, "bn": norm, "fc": {"w": fc, "b": fc_bias}}


def _equinox(kernel: np.ndarray, scale: np.ndarray, bias: np.ndarray, fc: np.ndarray, fc_bias: np.ndarray) -> Arrays:
    norm = {"scale": scale, "bias": bias}
    return {"conv": {"weight": kernel.transpose(3, 2, 0, 1)}, "bn": norm, "fc": {"weight": fc.T, "bias": fc_bias}}


def _flax(kernel: np.ndarray, scale: np.ndarray, bias: np.ndarray, fc: np.ndarray, fc_bias: np.ndarray) -> Arrays:
    norm = {"scale": scale, "bias": bias}
    return {"conv": {"kernel": kernel}, "bn": norm, "fc": {"kernel": fc, "bias": fc_bias}}


# framework -> its params from those of the layers
_PARAMS: Mapping[str, Callable[..., Arrays]] = {"linen": _flax, "nnx": _flax, "equinox": _equinox, "haiku": _haiku}


def params_of(framework: str, *, seed: int = 0) -> Arrays:
    """The same random weights as ``params`` of each framework's network, of three classes."""
    rng = np.random.default_rng(seed)
    shapes = ((3, 3, 1, 4), (4,), (4,), (4, 3), (3,))
    kernel, scale, bias, fc, fc_bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return _PARAMS[framework](kernel, scale, bias, fc, fc_bias)
