"""Random weights under the names and in the layouts of torchvision and timm."""

import numpy as np
from safetensors.numpy import save_file

from bncli.weights.translate import expected_shapes, targets


def state_dict(model: str, library: str, *, num_classes: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a network by their names in a library, with the counters that PyTorch's BN has."""
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(model, num_classes)
    arrays: dict[str, np.ndarray] = {}
    for name, target in targets(model, library).items():
        shape = target.source_shape(shapes[target.path])
        arrays[name] = _numbers(rng, name, shape).astype(np.float32)
        if name.endswith("running_var"):
            arrays[name.replace("running_var", "num_batches_tracked")] = np.asarray(5)
    return arrays


def _numbers(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the size that a trained network has: kernels keep the variance, BN is near the identity."""
    if len(shape) > 1:
        return rng.normal(scale=float(np.sqrt(2 / np.prod(shape[1:]))), size=shape)
    if name.endswith(("weight", "running_var")):
        return rng.uniform(0.5, 1.5, shape)
    return rng.normal(scale=0.1, size=shape)


def write_safetensors(path: object, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as ``safetensors.torch.save_file`` would."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(path))
