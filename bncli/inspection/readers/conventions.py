"""How frameworks name the arrays of a BN layer, and what they take where a file does not say.

To add a framework: a row in ``CONVENTIONS``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bncli.inspection.readers.arrays import Path


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One framework's.

    Attributes:
        title: the framework's name.
        framework: its name among the phrases of ``remedies``.
        mean: where the running mean stands below the layer.
        var: where the running variance does.
        scale: what γ may be called.
        bias: what β may be called.
        updates: where the number of updates stands; None where none is kept.
        collections: the two trees in which statistics and parameters stand apart, each under the layer's own path; None
            where they stand together.
        looks_like_bn: what the layer's own name looks like where the arrays' names could be another layer's; those with
            γ or β are taken in any case.
        separator: joins a path into a name.
        epsilon: the framework's default.
        momentum: the framework's default as the weight of the old value; None where it has none.
        variance: how the framework's running variance differs from Flax's; None where it does not.
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
# https://dm-haiku.readthedocs.io/en/latest/api.html#batchnorm; its average is free of the start already.
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
    variance="running variances are taken to be PyTorch's, unbiased: m/(m − 1) times the biased ones that Flax keeps, "
    "for m values a channel in a batch",
)
# https://onnx.ai/onnx/operators/onnx__BatchNormalization.html; its arrays are a node's inputs and have no names.
ONNX = Convention(
    title="ONNX",
    framework="onnx",
    mean=("mean",),
    var=("var",),
    scale=("scale",),
    bias=("bias",),
    momentum=0.9,
    variance="whether running variances are biased (Flax, Keras) or unbiased (PyTorch) is not in an ONNX file",
)

# Tried in this order: an array belongs to the first that it fits.
CONVENTIONS = (FLAX, HAIKU, PYTORCH, KERAS, FLAX_NNX)
