"""Reports on layers of random numbers, with what a test plants in them."""

from dataclasses import replace

import numpy as np

from bncli.inspection.findings import find
from bncli.inspection.history import LayerHistory, Track
from bncli.inspection.layers import BatchNormArrays, layer_stats
from bncli.inspection.live_report import BatchScore, LayerLive, LiveReport, Score
from bncli.inspection.report import StatsReport
from bncli.measure.moments import Drift


def make_layer(name="norm", channels=16, seed=0, **changes):
    """A healthy layer; a change is a field, or {channel: value} of an array."""
    draw = np.random.default_rng(seed)
    arrays = {
        "mean": draw.normal(0, 0.3, channels),
        "var": np.exp(draw.normal(-1, 0.5, channels)),
        "scale": draw.uniform(0.5, 1.5, channels),
        "bias": draw.normal(0, 0.1, channels),
    }
    fields = {"epsilon": 1e-5, "momentum": 0.9}
    for key, change in changes.items():
        if isinstance(change, dict):
            for channel, value in change.items():
                arrays[key][channel] = value
        else:
            fields[key] = change
    return BatchNormArrays(name=name, **arrays | fields)


def make_report(layers, **changes):
    """The report on these layers."""
    layers = tuple(layers)
    rows = tuple(layer_stats(layer) for layer in layers)
    return replace(StatsReport("a file", "safetensors", rows, find(layers), arrays=layers), **changes)


def resnet50_layers(prefix="", **planted):
    """The 53 BN layers of a ResNet-50 by torchvision's names; ``planted`` are changes by layer, "_" for "."."""
    names = [("bn1", 64)]
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            names += [(f"layer{stage}.{block}.bn{k}", width * (4 if k == 3 else 1)) for k in (1, 2, 3)]
            names += [(f"layer{stage}.{block}.downsample.1", 4 * width)] if block == 0 else []
    return [
        make_layer(prefix + name, channels, seed, **planted.get(name.replace(".", "_"), {}))
        for seed, (name, channels) in enumerate(names)
    ]


def make_live(report, *, gaps):
    """What data might show of the report's layers, whose output gaps these are."""
    rows = zip(report.layers, gaps, strict=True)
    layers = tuple(LayerLive(row.name, Drift(gap / 2, 1 / (1 + gap), 1 / (1 + 2 * gap)), gap) for row, gap in rows)
    scores = tuple(BatchScore(size, 0.9 + size / 1000, 0.3) for size in (2, 8, 32))
    first = next((layer.name for layer in layers if layer.output_gap > 0.5), None)
    return LiveReport("digits", 1294, 144, layers, first, Score(0.25, 3.5), Score(0.932, 0.3), scores)


def make_history(report, *, epochs=20):
    """A history of the report's layers."""
    times = np.arange(1, epochs + 1)

    def track(scale):
        return Track(*(tuple(map(float, scale * (level + 1 / times))) for level in (-1, 0, 1)))

    return tuple(
        LayerHistory(row.name, tuple(map(int, times)), track(1), track(0.1), track(3)) for row in report.layers
    )
