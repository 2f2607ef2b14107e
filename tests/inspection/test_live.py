"""Data show which statistics are off and where eval mode parts from train mode, and nothing on a healthy network."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import bncli
from bncli.checkpoint import Checkpoint
from bncli.errors import CheckpointError
from bncli.inspection.findings import find_on_data
from bncli.inspection.live import look_at_data
from bncli.inspection.live_report import PARTED


def with_stats(opened: Checkpoint, name: str, **changes) -> Checkpoint:
    """The checkpoint with one layer's running statistics changed."""
    from dataclasses import replace

    stats = jax.tree.map(np.copy, opened.variables["batch_stats"])
    for key, change in changes.items():
        stats[name][key] = change(stats[name][key])
    return replace(opened, variables={**opened.variables, "batch_stats": stats})


@pytest.fixture(scope="module")
def healthy(trained, dataset):
    from dataclasses import replace

    from bncli.measure.batches import ImageBatches
    from bncli.measure.population import recalibrate_measured

    opened = bncli.load(trained.out)
    batches = ImageBatches.training(opened.config, dataset, num_batches=None, batch_size=28)
    return replace(opened, variables=recalibrate_measured(opened.apply_fn, opened.variables, batches).variables)


def test_a_healthy_network_gives_no_finding(healthy, dataset):
    report = look_at_data(healthy, dataset)
    assert find_on_data(report, path="ckpt") == ()
    assert report.first_apart is None
    assert all(layer.drift.distance < 1e-4 for layer in report.layers)
    assert all(0 < layer.output_gap < PARTED for layer in report.layers)
    assert report.num_examples == len(dataset.train)
    assert report.num_val == len(dataset.val)
    assert [score.batch_size for score in report.by_batch_size] == [2, 8]  # the split holds 30


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("BatchNorm_1", {"mean": lambda mean: mean + 50.0}),
        ("BatchNorm_0", {"var": lambda var: var * 400.0}),
    ],
)
def test_the_layer_whose_statistics_are_off_is_named(healthy, dataset, name, changes):
    report = look_at_data(with_stats(healthy, name, **changes), dataset)
    found = find_on_data(report, path="ckpt")
    assert found
    assert report.first_apart == name
    assert found[0].code == "stale-statistics"
    assert found[0].layer == name  # its own inputs are still right: later layers come after it
    assert {finding.remedy for finding in found} == {"bncli recalibrate ckpt OUT"}
    lost = report.batch.accuracy - report.running.accuracy
    assert ("train-eval-gap" in [finding.code for finding in found]) == (lost > 0.05)


def test_statistics_that_are_not_numbers_are_stale_too(healthy, dataset):
    report = look_at_data(with_stats(healthy, "BatchNorm_0", mean=lambda mean: mean * np.nan), dataset)
    assert find_on_data(report, path="ckpt")[0].layer == "BatchNorm_0"


def test_a_folded_network_is_refused(trained, dataset, tmp_path):
    from bncli.jobs.fold import fold_checkpoint

    fold_checkpoint(bncli.load(trained.out), tmp_path / "out")
    with pytest.raises(CheckpointError, match="is folded"):
        look_at_data(bncli.load(tmp_path / "out"), dataset)
