"""Reports on layers of random numbers, with the faults that a test plants in them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bncli.inspection.findings import find
from bncli.inspection.history import LayerHistory, Track
from bncli.inspection.layers import BatchNormArrays, layer_stats
from bncli.inspection.live_report import BatchScore, LayerLive, LiveReport, Score
from bncli.inspection.report import StatsReport
from bncli.measure.moments import Drift

# (number of blocks, width) of ResNet-50's stages.
RESNET50_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def make_layer(name: str = "norm", channels: int = 16, seed: int = 0, **changes: Any) -> BatchNormArrays:
    """A healthy layer with some changes: the value of a field, or {channel: value} of an array."""
    draw = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "mean": draw.normal(0, 0.3, channels),
        "var": np.exp(draw.normal(-1, 0.5, channels)),
        "scale": draw.uniform(0.5, 1.5, channels),
        "bias": draw.normal(0, 0.1, channels),
    }
    fields: dict[str, Any] = {"epsilon": 1e-5, "momentum": 0.9}
    for key, change in changes.items():
        if isinstance(change, dict):
            for channel, value in change.items():
                arrays[key][channel] = value
        else:
            fields[key] = change
    return BatchNormArrays(name=name, **arrays | fields)


def make_report(layers: Iterable[BatchNormArrays], **changes: Any) -> StatsReport:
    """The report on these layers, with some of its fields changed."""
    layers = tuple(layers)
    rows = tuple(layer_stats(layer) for layer in layers)
    return replace(StatsReport("a file", "safetensors", rows, find(layers), arrays=layers), **changes)


def resnet50_names() -> list[tuple[str, int]]:
    """Name and number of channels of ResNet-50's 53 BN layers, named as in torchvision."""
    names = [("bn1", 64)]
    for stage, (blocks, width) in enumerate(RESNET50_STAGES, start=1):
        for block in range(blocks):
            names += [(f"layer{stage}.{block}.bn{k}", width * (4 if k == 3 else 1)) for k in (1, 2, 3)]
            names += [(f"layer{stage}.{block}.downsample.1", 4 * width)] if block == 0 else []
    return names


def resnet50_layers(prefix: str = "", **planted: Any) -> list[BatchNormArrays]:
    """The BN layers of a ResNet-50; ``planted`` holds changes by layer, with "_" for "." in its name."""
    return [
        make_layer(prefix + name, channels, seed, **planted.get(name.replace(".", "_"), {}))
        for seed, (name, channels) in enumerate(resnet50_names())
    ]


def make_live(report: StatsReport, *, gaps: Sequence[float]) -> LiveReport:
    """A plausible live report on the layers of ``report``, with these output gaps."""
    rows = zip(report.layers, gaps, strict=True)
    layers = tuple(LayerLive(row.name, Drift(gap / 2, 1 / (1 + gap), 1 / (1 + 2 * gap)), gap) for row, gap in rows)
    scores = tuple(BatchScore(size, 0.9 + size / 1000, 0.3) for size in (2, 8, 32))
    first = next((layer.name for layer in layers if layer.output_gap > 0.5), None)
    return LiveReport("digits", 1294, 144, layers, first, Score(0.25, 3.5), Score(0.932, 0.3), scores)


def make_history(report: StatsReport, *, epochs: int = 20) -> tuple[LayerHistory, ...]:
    """A history of the report's layers."""
    times = np.arange(1, epochs + 1)

    def track(scale: float) -> Track:
        return Track(*(tuple(map(float, scale * (level + 1 / times))) for level in (-1, 0, 1)))

    return tuple(
        LayerHistory(row.name, tuple(map(int, times)), track(1), track(0.1), track(3)) for row in report.layers
    )
