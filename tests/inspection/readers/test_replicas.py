"""What ``jax.pmap`` leaves in a checkpoint is one network, whose replicas' statistics may disagree."""

import numpy as np
import pytest

from bncli.inspection import inspect_stats
from bncli.inspection.readers.variables import read_variables

R = 4


def replicated(statistics, kernels=None):
    """A network's variables with a leading axis of R; statistics [R, C]."""
    same = {"scale": np.ones((R, 3), np.float32), "bias": np.zeros((R, 3), np.float32)}
    kernels = np.ones((R, 3, 3, 1, 3), np.float32) if kernels is None else kernels
    return {
        "params": {"Conv_0": {"kernel": kernels}, "BatchNorm_0": same},
        "batch_stats": {"BatchNorm_0": {"mean": statistics, "var": 1 + statistics**2}},
    }


def test_the_first_replica_is_the_layer_and_all_are_kept():
    statistics = np.random.default_rng(0).normal(size=(R, 3)).astype(np.float32)
    (layer,) = read_variables(replicated(statistics)).layers
    assert layer.name == "BatchNorm_0"
    np.testing.assert_array_equal(layer.mean, statistics[0])
    assert layer.replicas.shape == (R, 2, 3)
    np.testing.assert_array_equal(layer.replicas[:, 0], statistics)


@pytest.mark.parametrize(("spread", "codes"), [(0.0, []), (5.0, ["replicas-disagree"])])
def test_replicas_that_disagree_are_found(spread, codes):
    statistics = 0.5 + spread * np.arange(R, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    report = inspect_stats(replicated(statistics))
    assert [finding.code for finding in report.findings if finding.code == "replicas-disagree"] == codes


def test_an_axis_along_which_kernels_differ_is_one_of_stacked_layers():
    kernels = np.random.default_rng(0).normal(size=(R, 3, 3, 1, 3)).astype(np.float32)
    layers = read_variables(replicated(np.ones((R, 3), np.float32), kernels)).layers
    assert [layer.name for layer in layers] == [f"BatchNorm_0[{number}]" for number in range(R)]
    assert {layer.replicas is None for layer in layers} == {True}
