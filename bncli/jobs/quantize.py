"""``bncli fold --quantize int8``: an exported network in 8-bit integers, measured beside the one in float32.

onnxruntime's quantizer, static: weights by channel, activations by tensor with ranges measured on training images.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bncli.checkpoint import Checkpoint
from bncli.checkpoint.onnx_file import OnnxNetwork
from bncli.data import Dataset
from bncli.errors import CheckFailedError, FoldError

FILE = "model.int8.onnx"
# Training images whose activations give the ranges.
CALIBRATION_IMAGES = 512
CALIBRATION_BATCH = 32
SCORING_BATCH = 128
# From this share of images with the class of float32 on, no further way is tried.
SUFFICES = 0.995
# Rounds in which both networks take turns; the median of each is reported.
ROUNDS = 30
BATCH_SIZES = (1, 32)
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Way:
    """A way to quantize a network.

    Attributes:
        equalize: True to equalise layers first.
        layers_only: True to compute what lies between convolutions and dense layers in float32: 8 bits do not serve
            the powers and tails that some activations are made of.
        first_in_float32: True to compute the first convolution or dense layer in float32, too. Pixels have 8 bits
            before they are normalized; a layer that amplifies small differences needs them all.
    """

    equalize: bool = False
    layers_only: bool = False
    first_in_float32: bool = False


# From the fastest network to the slowest.
WAYS = (Way(), Way(equalize=True), Way(layers_only=True), Way(layers_only=True, first_in_float32=True))


@dataclass(frozen=True)
class LatencyPair:
    """Median milliseconds of one call of onnxruntime."""

    batch_size: int
    float32: float
    int8: float


@dataclass(frozen=True)
class Candidate:
    """A quantized network.

    Attributes:
        way: in which it was quantized.
        content: the model.
        predictions: its class of each validation image, int [N].
        expected: the same of the network in float32.
    """

    way: Way
    content: bytes
    predictions: np.ndarray
    expected: np.ndarray

    @property
    def agreement(self) -> float:
        """Share of images with the class of float32."""
        return float((self.predictions == self.expected).mean())


def closest(candidates: Iterable[Candidate]) -> Candidate:
    """The first that agrees well enough with float32, or else the one that agrees most; the first of equals."""
    tried = []
    for candidate in candidates:
        if candidate.agreement >= SUFFICES:
            return candidate
        tried.append(candidate)
    return max(tried, key=lambda candidate: candidate.agreement)


@dataclass(frozen=True, kw_only=True)
class QuantizeReport:
    """A quantized network beside the one in float32.

    Attributes:
        file: its name, relative to the checkpoint.
        size: in bytes.
        equalized: True if its layers were equalised first.
        equalized_pairs: the pairs of layers that could be.
        layers_only: True if what lies between the layers is computed in float32.
        first_in_float32: True if the first layer is, too.
        calibration_images: training images that gave the ranges of activations.
        num_examples: validation images that were scored.
        accuracy_float32: share of them that the exported network in float32 classifies correctly.
        accuracy_int8: the same of the quantized network.
        top1_agreement: share of them for which both predict the same class.
        latency_ms: time of a call by batch size.
    """

    file: str
    size: int
    equalized: bool
    equalized_pairs: int
    layers_only: bool
    first_in_float32: bool
    calibration_images: int
    num_examples: int
    accuracy_float32: float
    accuracy_int8: float
    top1_agreement: float
    latency_ms: tuple[LatencyPair, ...]


@dataclass(frozen=True)
class Quantized:
    """The content of ``model.int8.onnx``, and the report about it."""

    content: bytes
    report: QuantizeReport


def quantize_int8(
    original: Checkpoint, dataset: Dataset, exported: bytes, *, min_accuracy: float | None = None
) -> Quantized:
    """Quantize an exported network in several ways, and keep the first that predicts as in float32, or the closest.

    Args:
        original: the checkpoint, for its preprocessing.
        dataset: its data; training images give the ranges, validation images the accuracy.
        exported: the ONNX model in float32.
        min_accuracy: the least accuracy of the quantized network; None for none.

    Raises:
        FoldError: onnxruntime cannot quantize the model.
        CheckFailedError: the quantized network is less accurate than ``min_accuracy``.
    """
    from bncli.folding.export.onnx.equalize import equalized  # the extra is needed here alone

    scoring = _Scoring(original, dataset)
    before = scoring.predictions(exported)
    calibration = scoring.inputs(dataset.train.images[_spread(len(dataset.train), CALIBRATION_IMAGES)])
    flattened = equalized(exported)

    def candidates() -> Iterator[Candidate]:
        for way in WAYS:
            if flattened.pairs or not way.equalize:
                content = _quantized(flattened.content if way.equalize else exported, calibration, way)
                yield Candidate(way, content, scoring.predictions(content), before)

    found = closest(candidates())
    report = QuantizeReport(
        file=FILE,
        size=len(found.content),
        equalized=found.way.equalize,
        equalized_pairs=flattened.pairs,
        layers_only=found.way.layers_only,
        first_in_float32=found.way.first_in_float32,
        calibration_images=len(calibration),
        num_examples=len(dataset.val),
        accuracy_float32=scoring.accuracy(before),
        accuracy_int8=scoring.accuracy(found.predictions),
        top1_agreement=found.agreement,
        latency_ms=(),
    )
    _check_accuracy(report, min_accuracy)
    return Quantized(found.content, replace(report, latency_ms=_latencies(exported, found.content, calibration)))


def _check_accuracy(report: QuantizeReport, least: float | None) -> None:
    if least is not None and report.accuracy_int8 < least:
        raise CheckFailedError(
            f"{FILE} has accuracy {report.accuracy_int8:.4f} on {report.num_examples:,} validation images, below "
            f"--min-accuracy {least:g}; {report.accuracy_float32:.4f} in float32",
            remedy="Nothing was written. Export without --quantize, or accept a lower accuracy.",
        )


@dataclass(frozen=True)
class _Scoring:
    """Scores models on the validation images of a data set."""

    original: Checkpoint
    dataset: Dataset

    def inputs(self, images: np.ndarray) -> np.ndarray:
        """Normalized images, float32 [N, H, W, C]."""
        return np.asarray(self.original.preprocessor(images)).astype(np.float32)

    def predictions(self, content: bytes) -> np.ndarray:
        """The predicted class of each validation image, int [N]."""
        network, images = OnnxNetwork.from_bytes(content), self.dataset.val.images
        starts = range(0, len(images), SCORING_BATCH)
        found = [network.run(self.inputs(images[start : start + SCORING_BATCH])).argmax(axis=1) for start in starts]
        return np.concatenate(found)

    def accuracy(self, predictions: np.ndarray) -> float:
        """Share of the validation images that are predicted correctly."""
        return float((predictions == self.dataset.val.labels).mean())


def _spread(total: int, wanted: int) -> np.ndarray:
    """Evenly spaced indices: images of a folder are sorted by class."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64))


def _quantized(content: bytes, images: np.ndarray, way: Way) -> bytes:
    """The model in 8-bit integers.

    Raises:
        FoldError: onnxruntime cannot quantize it.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    from bncli.folding.export.onnx.equalize import first_layer

    with tempfile.TemporaryDirectory(prefix="bncli-") as folder, _quiet():
        source, target = Path(folder) / "model.onnx", Path(folder) / FILE
        source.write_bytes(content)
        try:
            quantize_static(
                source,
                target,
                _Calibration(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                op_types_to_quantize=_LAYERS if way.layers_only else None,
                nodes_to_exclude=first_layer(content) if way.first_in_float32 else None,
            )
            return target.read_bytes()
        except Exception as error:  # its exceptions have no common class
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise FoldError(
                f"onnxruntime cannot quantize the exported network: {reason}", remedy="Export without --quantize."
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the advice of the quantizer, which speaks through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Calibration:
    """Feeds the quantizer, which asks for one batch after the other by this name."""

    def __init__(self, images: np.ndarray) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches = iter([images[start : start + CALIBRATION_BATCH] for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the name of the model's input; None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}


def _latencies(exported: bytes, quantized: bytes, images: np.ndarray) -> tuple[LatencyPair, ...]:
    before, after = OnnxNetwork.from_bytes(exported), OnnxNetwork.from_bytes(quantized)
    found = []
    for size in BATCH_SIZES:
        batch = np.resize(images, (size, *images.shape[1:]))
        for network in (before, after):
            network.run(batch)  # allocates
        times = [(_milliseconds(before, batch), _milliseconds(after, batch)) for _ in range(ROUNDS)]
        medians = [statistics.median(side) for side in zip(*times, strict=True)]
        found.append(LatencyPair(size, *medians))
    return tuple(found)


def _milliseconds(network: OnnxNetwork, batch: np.ndarray) -> float:
    start = time.perf_counter()
    network.run(batch)
    return (time.perf_counter() - start) * 1e3
