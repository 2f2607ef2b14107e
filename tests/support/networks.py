"""What the tests of networks share: variables at random, and BN written out."""

import jax
import numpy as np

from bncli.config.settings import ModelConfig
from bncli.models import build_network


def network_of(image_shape, *, num_classes=3, precision="float32", **settings):
    """The network of these model settings."""
    return build_network(ModelConfig(**settings), num_classes=num_classes, image_shape=image_shape, precision=precision)


def random_variables(network, image_shape, *, seed=0):
    """Variables of the network's shapes with every leaf drawn from [0.5, 1.5], kernels from [-0.5, 0.5]."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))

    def leaf(path, shape):
        low = -0.5 if path[-1].key == "kernel" else 0.5
        return draw.uniform(low, low + 1, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_images(num_images, image_shape, *, seed=0):
    """float32 [B, H, W, C], standard normal."""
    return np.random.default_rng(seed).normal(size=(num_images, *image_shape)).astype(np.float32)


def batch_norm(x, variables, name, *, epsilon):
    """BN in eval mode, in NumPy."""
    stats, params = variables["batch_stats"][name], variables["params"][name]
    return (x - stats["mean"]) / np.sqrt(stats["var"] + epsilon) * params["scale"] + params["bias"]


def num_parameters(network, image_shape):
    """Numbers in ``params``; nothing is computed."""
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
