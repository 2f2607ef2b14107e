"""The doctor on a trained checkpoint: healthy as it is, and with each sickness planted in its variables."""

import jax
import numpy as np
import pytest
from support.tiny import run_config

from bncli import checkpoint
from bncli.config.settings import ModelConfig
from bncli.errors import CheckpointError
from bncli.inspection import inspect_stats
from bncli.models import build_network


def test_a_healthy_checkpoint_has_rows_in_order_and_no_finding(trained):
    report = inspect_stats(trained.out)
    assert report.format == "bncli"
    assert report.source == str(trained.out)
    assert [layer.name for layer in report.layers] == ["BatchNorm_0", "BatchNorm_1"]
    assert {(layer.channels, layer.epsilon, layer.momentum) for layer in report.layers} == {(4, 1e-5, 0.5)}
    assert [finding for finding in report.findings if finding.severity != "info"] == []
    assert report.notes == ()
    assert report.folded_from is None


def test_the_numbers_are_those_of_the_save(trained):
    variables = checkpoint.load(trained.out).variables
    for row in inspect_stats(trained.out).layers:
        stats, params = variables["batch_stats"][row.name], variables["params"][row.name]
        assert row.mean.max == pytest.approx(stats["mean"].max())
        assert row.var.min == pytest.approx(stats["var"].min())
        gain = params["scale"].astype(np.float64) / np.sqrt(stats["var"].astype(np.float64) + 1e-5)
        assert row.gain.median == pytest.approx(np.median(gain))


def test_initial_variables_were_never_updated():
    network = build_network(ModelConfig(name="mlp"), num_classes=3, image_shape=(8, 8, 1))
    variables = network.init(jax.random.key(0), (8, 8, 1))
    report = inspect_stats(variables)
    assert report.format == "flax-variables"
    assert report.source == "variables"
    assert [(finding.code, finding.layer) for finding in report.findings] == [
        ("never-updated", f"BatchNorm_{layer}") for layer in range(3)
    ]


def test_a_checkpoint_without_bn_says_so(copied, dataset):
    from bncli.training.assembly import checkpoint_config

    checkpoint.write_config(copied, checkpoint_config(run_config(model={"bn": False}), dataset))
    variables = {"params": {"Dense_0": {"kernel": np.ones((2, 2), np.float32)}}, "batch_stats": {}}
    checkpoint.save(copied, 99, variables=variables, optimizer={"step": np.int32(99)}, progress={"best": None})
    report = inspect_stats(copied, step=99)
    assert report.layers == report.findings == ()
    assert report.notes == ("trained without BN, so there is nothing to inspect",)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json of bncli and no Orbax tree"):
        inspect_stats(tmp_path)
