"""Cross-layer equalisation: channels of one layer get weights of similar size, so that few bits serve them all.

A ReLU, a pool and the identity commute with a positive scale per channel. So for two layers with only such operations
in between, and s > 0,

    W₂ · f(W₁ x + b₁) = (W₂ · s) · f((W₁ / s) x + b₁ / s),

and s = √(r₁ / r₂), for the largest magnitudes r₁ and r₂ of a channel's weights in both layers, gives both the range
√(r₁ · r₂). Nagel et al. 2019 (arXiv 1906.04721, section 4.1). The network stays the same up to rounding.

Letters: O output channels, I input channels, G groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

# Each layer is in up to two pairs, so one pass does not settle all of them.
PASSES = 20
CONVERGED = 1e-3
# Operations that commute with a positive scale per channel.
_SCALABLE = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Relu"})
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Equalized:
    """A serialized model whose layers are equalised.

    Attributes:
        content: the model.
        pairs: number of pairs of layers.
    """

    content: bytes
    pairs: int


def equalized(content: bytes) -> Equalized:
    """Equalise every pair of layers that only operations that commute with a scale lie between."""
    model = onnx.load_model_from_string(content)
    weights = _Weights(model)
    pairs = list(_pairs(model, weights))
    for _ in range(PASSES):
        largest = max((_equalise(weights, *pair) for pair in pairs), default=0.0)
        if largest < CONVERGED:
            break
    weights.write()
    return Equalized(model.SerializeToString(), len(pairs))


def first_layer(content: bytes) -> list[str]:
    """The name of the first convolution or dense layer of a serialized model, alone; [] if there is none."""
    nodes = onnx.load_model_from_string(content).graph.node
    return [node.name for node in nodes if node.op_type in _LAYERS][:1]


class _Weights:
    """The constant arrays of a model, in float64 once they are read."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers = Counter(name for node in model.graph.node for name in node.input)
        self._arrays: dict[str, np.ndarray] = {}

    def is_own(self, name: str) -> bool:
        """True if the name is a float array that one operation reads, once."""
        tensor = self._tensors.get(name)
        return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT and self._readers[name] == 1

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self._tensors[name]).astype(np.float64)
        return self._arrays[name]

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self._arrays[name] = array

    def write(self) -> None:
        """Put the arrays into the model, as float32."""
        for name, array in self._arrays.items():
            self._tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))


def _pairs(model: ModelProto, weights: _Weights) -> Iterator[tuple[NodeProto, NodeProto]]:
    """The pairs (layer, next layer) that can be equalised."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        if node.op_type not in _LAYERS or not _has_own_weights(node, weights):
            continue
        following: NodeProto | None = node
        while following is not None:
            following = _only_reader(following, readers, outputs)
            if following is not None and following.op_type not in _SCALABLE:
                break
        if following is not None and _can_follow(node, following, weights):
            yield node, following


def _only_reader(node: NodeProto, readers: dict[str, list[NodeProto]], outputs: set[str]) -> NodeProto | None:
    (output,) = node.output[:1]
    found = readers.get(output, [])
    return found[0] if len(found) == 1 and len(node.output) == 1 and output not in outputs else None


def _has_own_weights(node: NodeProto, weights: _Weights) -> bool:
    return all(weights.is_own(name) for name in node.input[1:])


def _can_follow(node: NodeProto, following: NodeProto, weights: _Weights) -> bool:
    if following.op_type not in _LAYERS or not _has_own_weights(following, weights) or len(following.input) < 2:
        return False
    is_conv = node.op_type == "Conv"
    return is_conv == (following.op_type == "Conv") and _in_channels(following, weights) == _out_channels(node, weights)


def _out_channels(node: NodeProto, weights: _Weights) -> int:
    return int(weights[node.input[1]].shape[_out_axis(node)])


def _in_channels(node: NodeProto, weights: _Weights) -> int:
    return int(weights[node.input[1]].shape[1 - _out_axis(node)]) * _attribute(node, "group", 1)


def _out_axis(node: NodeProto) -> int:
    """The axis of the output channels: kernels are [O, I/G, …], matrices [I, O] unless a Gemm transposes them."""
    return 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _equalise(weights: _Weights, first: NodeProto, second: NodeProto) -> float:
    """Equalise one pair; return how far the scales were from 1: the largest |ln s|."""
    ours = _largest(weights[first.input[1]], keep=_out_axis(first))
    theirs = _largest_by_input(weights[second.input[1]], second)
    usable = (ours > 0) & (theirs > 0)
    scale = np.ones_like(ours)
    scale[usable] = np.sqrt(ours[usable] / theirs[usable])
    weights[first.input[1]] = weights[first.input[1]] / _along(scale, _out_axis(first), weights[first.input[1]].ndim)
    for bias in first.input[2:]:
        weights[bias] = weights[bias] / scale
    weights[second.input[1]] = _scaled_inputs(weights[second.input[1]], second, scale)
    return float(np.abs(np.log(scale)).max(initial=0.0))


def _largest(array: np.ndarray, *, keep: int) -> np.ndarray:
    others = tuple(axis for axis in range(array.ndim) if axis != keep)
    largest: np.ndarray = np.abs(array).max(axis=others)
    return largest


def _largest_by_input(array: np.ndarray, node: NodeProto) -> np.ndarray:
    """The largest magnitude of the weights that read each input channel [I]."""
    axis = 1 - _out_axis(node)
    groups = _attribute(node, "group", 1)
    if groups == 1:
        return _largest(array, keep=axis)
    grouped = array.reshape(groups, array.shape[0] // groups, array.shape[1], -1)  # [G, O/G, I/G, window]
    largest: np.ndarray = np.abs(grouped).max(axis=(1, 3)).reshape(-1)
    return largest


def _scaled_inputs(array: np.ndarray, node: NodeProto, scale: np.ndarray) -> np.ndarray:
    """The weights with those of each input channel multiplied by its scale [I]."""
    groups = _attribute(node, "group", 1)
    if groups == 1:
        whole: np.ndarray = array * _along(scale, 1 - _out_axis(node), array.ndim)
        return whole
    grouped = array.reshape(groups, array.shape[0] // groups, array.shape[1], -1)
    scaled: np.ndarray = (grouped * scale.reshape(groups, 1, -1, 1)).reshape(array.shape)
    return scaled


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return vector.reshape([-1 if number == axis else 1 for number in range(rank)])
