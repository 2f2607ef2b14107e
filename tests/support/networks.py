"""Networks for tests: random variables and images, and BN written out in NumPy.

Letters: B batch, H W spatial, C channels.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

from bncli.config.settings import ModelConfig
from bncli.frameworks.linen import Network
from bncli.models import build_network

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
ImageShape: TypeAlias = "tuple[int, int, int]"
Variables: TypeAlias = "dict[str, Any]"


def network_of(
    image_shape: ImageShape, *, num_classes: int = 3, precision: str = "float32", **settings: Any
) -> Network:
    """The network that these model settings describe."""
    return build_network(ModelConfig(**settings), num_classes=num_classes, image_shape=image_shape, precision=precision)


def random_variables(network: Network, image_shape: ImageShape, *, seed: int = 0) -> Variables:
    """Variables of the network's shapes: kernels drawn from [-0.5, 0.5], every other leaf from [0.5, 1.5]."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))

    def leaf(path: tuple[jax.tree_util.DictKey, ...], shape: jax.ShapeDtypeStruct) -> Array:
        low = -0.5 if path[-1].key == "kernel" else 0.5
        drawn: Array = draw.uniform(low, low + 1, shape.shape).astype(np.float32)
        return drawn

    variables: Variables = jax.tree_util.tree_map_with_path(leaf, shapes)
    return variables


def random_images(num_images: int, image_shape: ImageShape, *, seed: int = 0) -> Array:
    """Standard normal images, float32 [B, H, W, C]."""
    return np.random.default_rng(seed).normal(size=(num_images, *image_shape)).astype(np.float32)


def batch_norm(x: Array, variables: Mapping[str, Any], name: str, *, epsilon: float) -> Array:
    """BN in eval mode: (x - mean) / √(var + ε) · scale + bias."""
    stats, params = variables["batch_stats"][name], variables["params"][name]
    y: Array = (x - stats["mean"]) / np.sqrt(stats["var"] + epsilon) * params["scale"] + params["bias"]
    return y


def num_parameters(network: Network, image_shape: ImageShape) -> int:
    """Number of scalars in ``params``, from shapes alone."""
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
