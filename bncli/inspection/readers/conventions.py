"""Conventions of the frameworks: names of a BN layer's arrays, and defaults for settings that a file does not store.

To add a framework: add a row to ``CONVENTIONS``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bncli.inspection.readers.arrays import Path


@dataclass(frozen=True, kw_only=True)
class Convention:
    """The convention of one framework.

    Attributes:
        title: the framework's name.
        framework: its name in ``remedies``.
        mean: path of the running mean below the layer.
        var: path of the running variance below the layer.
        scale: possible names of γ.
        bias: possible names of β.
        updates: path of the number of updates; None if it is not stored.
        collections: the trees of statistics and of parameters, each of which holds the layer's own path; None if both
            stand together.
        looks_like_bn: pattern of the layer's own name, if another kind of layer could have arrays of these names; a
            layer with γ or β needs no match.
        separator: joins a path into a name.
        epsilon: the framework's default.
        momentum: the framework's default as the weight of the old value; None if it has none.
        variance: note on how the framework's running variance differs from Flax's; None if it does not.
    """

    title: str
    framework: str
    mean: Path
    var: Path
    scale: tuple[str, ...]
    bias: tuple[str, ...]
    updates: Path | None = None
    collections: tuple[str, str] | None = None
    looks_like_bn: re.Pattern[str] | None = None
    separator: str = "/"
    epsilon: float = 1e-5
    momentum: float | None = 0.99
    variance: str | None = None


BN_NAME = re.compile(r"batch_?norm|(^|[^a-z])bn", re.IGNORECASE)

# https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html#flax.linen.BatchNorm
FLAX = Convention(
    title="Flax",
    framework="flax-variables",
    mean=("mean",),
    var=("var",),
    scale=("scale",),
    bias=("bias",),
    collections=("batch_stats", "params"),
)
# https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/normalization.html#flax.nnx.BatchNorm
FLAX_NNX = Convention(
    title="Flax",
    framework="flax-variables",
    mean=("mean",),
    var=("var",),
    scale=("scale",),
    bias=("bias",),
    looks_like_bn=BN_NAME,
)
# https://dm-haiku.readthedocs.io/en/latest/api.html#batchnorm; its average has no bias towards the initial value.
HAIKU = Convention(
    title="Haiku",
    framework="haiku",
    mean=("~", "mean_ema", "average"),
    var=("~", "var_ema", "average"),
    scale=("scale",),
    bias=("offset",),
    collections=("state", "params"),
    momentum=None,
)
# https://keras.io/api/layers/normalization_layers/batch_normalization
KERAS = Convention(
    title="Keras",
    framework="keras",
    mean=("moving_mean",),
    var=("moving_variance",),
    scale=("gamma",),
    bias=("beta",),
    epsilon=1e-3,
)
# https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html
PYTORCH = Convention(
    title="PyTorch",
    framework="pytorch",
    mean=("running_mean",),
    var=("running_var",),
    scale=("weight", "gamma"),
    bias=("bias", "beta"),
    updates=("num_batches_tracked",),
    separator=".",
    momentum=0.9,
    variance="running variances are taken as PyTorch's unbiased ones, m/(m − 1) times Flax's biased ones for m "
    "values per channel in a batch",
)
# https://onnx.ai/onnx/operators/onnx__BatchNormalization.html; the arrays are a node's inputs, in a fixed order.
ONNX = Convention(
    title="ONNX",
    framework="onnx",
    mean=("mean",),
    var=("var",),
    scale=("scale",),
    bias=("bias",),
    momentum=0.9,
    variance="an ONNX file does not say if running variances are biased (Flax, Keras) or unbiased (PyTorch)",
)

# Tried in this order: an array belongs to the first convention that fits.
CONVENTIONS = (FLAX, HAIKU, PYTORCH, KERAS, FLAX_NNX)
