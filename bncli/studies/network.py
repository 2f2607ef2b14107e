"""The networks of a study: dense layers with any normalization, as functions of arrays.

They are written out, and not Flax modules, because one program serves many runs at once: learning rate, gain, dropout
rate and seed are arguments, over which ``jax.vmap`` runs. The normalizations are those of ``bncli train --norm``.

Letters: B batch, D pixels, F units of a layer, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from bncli.ops.normalization import batch_normalize, ghost_batch_normalize, group_normalize, num_groups

Activation: TypeAlias = Literal["relu", "sigmoid"]
Placement: TypeAlias = Literal["pre", "post"]

EPSILON = 1e-5
# Weight of the old running value.
BN_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network of dense layers.

    Attributes:
        features: units per hidden layer.
        activation: of the hidden layers.
        norm: batch, noisy, ghost:N, group, layer or none; a key of ``NORMS`` up to the colon.
        placement: of the normalization, "pre" or "post" the activation.
        bn_momentum: weight of the old running statistics in the new ones; 0 makes them those of the last batch.
    """

    features: tuple[int, ...] = (100, 100, 100)
    activation: Activation = "relu"
    norm: str = "batch"
    placement: Placement = "pre"
    bn_momentum: float = BN_MOMENTUM


class LayerParams(NamedTuple):
    """The arrays of a layer. Each has all of them, so that the sides of a comparison start from the same numbers."""

    kernel: jax.Array  # [in, F]
    bias: jax.Array  # [F]
    scale: jax.Array  # γ [F]
    shift: jax.Array  # β [F]


class Moments(NamedTuple):
    """The running statistics of a layer."""

    mean: jax.Array  # [F]
    var: jax.Array  # [F]


class Mode(NamedTuple):
    """The way a normalization is applied.

    Attributes:
        train: True for the statistics of the batch.
        key: for the noise of noisy BN.
        size: N of ``ghost:N``.
        epsilon: added to the variance.
        momentum: weight of the old running value.
    """

    train: bool
    key: jax.Array
    size: int = 0
    epsilon: float = EPSILON
    momentum: float = BN_MOMENTUM


Params: TypeAlias = tuple[LayerParams, ...]  # the last one is the head, whose scale and shift are not used
Stats: TypeAlias = tuple[Moments, ...]  # one per hidden layer
NormFunction: TypeAlias = Callable[[jax.Array, LayerParams, Moments, Mode], tuple[jax.Array, Moments]]


class Outputs(NamedTuple):
    """The outputs of a forward pass."""

    logits: jax.Array  # [B, K]
    stats: Stats
    activation_inputs: tuple[jax.Array, ...]  # per hidden layer [B, F]


def init_params(net: Net, key: jax.Array, gain: jax.Array | float, *, num_inputs: int, num_classes: int) -> Params:
    """Kernels drawn from N(0, gain² · 2 / fan_in) (He et al. 2015, arXiv 1502.01852, for gain 1), biases 0, γ 1, β 0.

    The variance is gain² / fan_in for sigmoids and for the head, which the gain scales like the others.
    """
    sizes = (num_inputs, *net.features, num_classes)
    layers = []
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        is_relu = net.activation == "relu" and number < len(net.features)
        std = gain * math.sqrt((2.0 if is_relu else 1.0) / fan_in)
        kernel = std * jax.random.normal(jax.random.fold_in(key, number), (fan_in, fan_out), jnp.float32)
        zeros = jnp.zeros(fan_out, jnp.float32)
        layers.append(LayerParams(kernel, zeros, jnp.ones_like(zeros), zeros))
    return tuple(layers)


def init_stats(net: Net) -> Stats:
    """Running mean 0 and variance 1 of each hidden layer."""
    return tuple(Moments(jnp.zeros(size), jnp.ones(size)) for size in net.features)


def forward(
    net: Net,
    params: Params,
    stats: Stats,
    x: jax.Array,
    *,
    train: bool,
    key: jax.Array,
    dropout: jax.Array | None = None,
) -> Outputs:
    """The outputs for flattened, normalized images.

    Args:
        net: the network.
        params: its arrays.
        stats: its running statistics.
        x: [B, D].
        train: True for the statistics of the batch, noise and dropout.
        key: of the noise and of dropout.
        dropout: rate after each hidden layer; None for none.
    """
    kind, _, size = net.norm.partition(":")
    normalize = NORMS[kind]
    activate = jax.nn.relu if net.activation == "relu" else jax.nn.sigmoid
    new_stats, inputs = [], []
    for number, (layer, moments) in enumerate(zip(params[:-1], stats, strict=True)):
        layer_key = jax.random.fold_in(key, number)
        mode = Mode(train, layer_key, int(size or 0), momentum=net.bn_momentum)
        x = x @ layer.kernel + layer.bias
        if net.placement == "pre":
            x, moments = normalize(x, layer, moments, mode)
        inputs.append(x)
        x = activate(x)
        if net.placement == "post":
            x, moments = normalize(x, layer, moments, mode)
        new_stats.append(moments)
        if train and dropout is not None:
            x = _dropped(x, dropout, jax.random.fold_in(layer_key, 1))
    head = params[-1]
    return Outputs(x @ head.kernel + head.bias, tuple(new_stats), tuple(inputs))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of −log softmax at the labels, [B, K] and [B] -> []."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def _dropped(x: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


def _batch(x: jax.Array, layer: LayerParams, moments: Moments, mode: Mode) -> tuple[jax.Array, Moments]:
    if not mode.train:
        return _by_running(x, layer, moments, mode), moments
    y, mean, var = batch_normalize(x, layer.scale, layer.shift, None, mode.epsilon)
    return y, _moved(moments, Moments(mean, var), mode)


def _ghost(x: jax.Array, layer: LayerParams, moments: Moments, mode: Mode) -> tuple[jax.Array, Moments]:
    if not mode.train:
        return _by_running(x, layer, moments, mode), moments
    y, mean, var = ghost_batch_normalize(x, layer.scale, layer.shift, None, mode.epsilon, ghost_size=mode.size)
    return y, _moved(moments, Moments(mean, var), mode)


# Santurkar et al. 2018, appendix A: the half-width of the means, the largest scale, and the jitter of each example.
NOISE_MEAN, NOISE_SCALE, NOISE_JITTER = 0.5, 1.25, 0.1


def noisy(y: jax.Array, key: jax.Array) -> jax.Array:
    """The outputs of a BN layer under noise whose distribution changes at every step.

    Per unit, and anew at each step: μ ~ U(−½, ½) and σ ~ U(1, 1¼). Per example: m ~ U(μ − 0.1, μ + 0.1) and
    s ~ N(σ, 0.1). The result is s · y + m: whatever BN did for the stability of the next layer's inputs is undone.

    Source: Santurkar et al. 2018 (arXiv 1805.11604), section 2.2 and appendix A.

    Args:
        y: [B, F].
        key: of this step and layer.
    """
    keys = jax.random.split(key, 4)
    mean = jax.random.uniform(keys[0], y.shape[1:], minval=-NOISE_MEAN, maxval=NOISE_MEAN)
    scale = jax.random.uniform(keys[1], y.shape[1:], minval=1.0, maxval=NOISE_SCALE)
    shift = mean + jax.random.uniform(keys[2], y.shape, minval=-NOISE_JITTER, maxval=NOISE_JITTER)
    return (scale + NOISE_JITTER * jax.random.normal(keys[3], y.shape)) * y + shift


def _noisy(x: jax.Array, layer: LayerParams, moments: Moments, mode: Mode) -> tuple[jax.Array, Moments]:
    """BN under noise; in eval mode the noise is replaced by its mean, which is a factor of 1.125."""
    y, moved = NORMS["batch"](x, layer, moments, mode)
    return (noisy(y, mode.key) if mode.train else y * (1 + NOISE_SCALE) / 2), moved


def _group(x: jax.Array, layer: LayerParams, moments: Moments, mode: Mode) -> tuple[jax.Array, Moments]:
    return group_normalize(x, layer.scale, layer.shift, mode.epsilon, groups=num_groups(x.shape[-1])), moments


def _layer(x: jax.Array, layer: LayerParams, moments: Moments, mode: Mode) -> tuple[jax.Array, Moments]:
    return group_normalize(x, layer.scale, layer.shift, mode.epsilon, groups=1), moments


def _none(x: jax.Array, layer: LayerParams, moments: Moments, mode: Mode) -> tuple[jax.Array, Moments]:
    return x, moments


NORMS: dict[str, NormFunction] = {
    "batch": _batch,
    "ghost": _ghost,
    "group": _group,
    "layer": _layer,
    "noisy": _noisy,
    "none": _none,
}


def _by_running(x: jax.Array, layer: LayerParams, moments: Moments, mode: Mode) -> jax.Array:
    gain = layer.scale * lax.rsqrt(moments.var + mode.epsilon)
    return (x - moments.mean) * gain + layer.shift


def _moved(moments: Moments, batch: Moments, mode: Mode) -> Moments:
    """The running statistics after one step towards those of a batch."""
    return Moments(
        mode.momentum * moments.mean + (1 - mode.momentum) * batch.mean,
        mode.momentum * moments.var + (1 - mode.momentum) * batch.var,
    )
