"""Recalibrated statistics are those of each layer's inputs in the final network, and repair one that lacks them."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folding.nets import BasicBlock, ResNet
from folding.nets import trained as with_statistics

import bncli
from bncli import checkpoint
from bncli.cli import render
from bncli.errors import CheckpointError, ModelError, UsageError
from bncli.jobs.recalibrate import Sampling, recalibrate_checkpoint
from bncli.measure.moments import record_batch_norms
from bncli.measure.population import recalibrate_measured
from bncli.training import assembly, run

X = np.random.default_rng(0).normal(size=(12, 16, 16, 3)).astype(np.float32)
MODEL = ResNet((1, 1), BasicBlock)
VARIABLES = with_statistics(MODEL, X)


def statistics(variables):
    return jax.tree.leaves(variables["batch_stats"])


def test_each_layer_gets_the_statistics_of_its_inputs_in_the_final_network():
    new = bncli.recalibrate(MODEL.apply, VARIABLES, [X[:7], X[7:]])
    inputs = record_batch_norms(MODEL.apply, new, X, lambda norm, given, made: np.asarray(given, np.float64))
    for name, (call,) in inputs.items():
        stats = new["batch_stats"]
        for part in name.split("/"):
            stats = stats[part]
        flat = call.reshape(-1, call.shape[-1])
        np.testing.assert_allclose(stats["mean"], flat.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats["var"], flat.var(axis=0), rtol=1e-5)
    assert new["params"] is VARIABLES["params"]
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(lambda a: (a.shape, a.dtype), VARIABLES)


def test_the_old_statistics_and_the_batches_do_not_show():
    other = {**VARIABLES, "batch_stats": jax.tree.map(lambda leaf: leaf * 3 + 1, VARIABLES["batch_stats"])}
    one = bncli.recalibrate(MODEL.apply, VARIABLES, [X])
    for variables, batches in ((VARIABLES, [X[:5], X[5:6], X[6:]]), (other, [X])):
        two = bncli.recalibrate(MODEL.apply, variables, batches)
        for a, b in zip(statistics(one), statistics(two), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(a).max())


def test_after_as_many_runs_as_groups_nothing_but_rounding_is_left():
    whole = recalibrate_measured(MODEL.apply, VARIABLES, [(X, 12)])
    assert all(layer.after.is_rounding for layer in whole.layers)
    assert not any(layer.before.is_rounding for layer in whole.layers)
    assert whole.num_examples == 12
    again = recalibrate_measured(MODEL.apply, whole.variables, [(X, 12)])
    assert again.runs == 1  # nothing to do is seen in one


def test_fewer_runs_leave_an_error_that_is_measured():
    some = recalibrate_measured(MODEL.apply, VARIABLES, [(X, 12)], max_runs=1)
    assert some.runs == 2
    assert some.layers[0].after.is_rounding
    assert not some.layers[-1].after.is_rounding


@pytest.mark.parametrize("batches", [[], (x for x in [X])])
def test_batches_that_cannot_be_read_again_are_refused(batches):
    with pytest.raises(UsageError):
        bncli.recalibrate(MODEL.apply, VARIABLES, batches)


@pytest.mark.parametrize("batches", [X, {"image": X}, "digits", 3], ids=["an array", "a dict", "a text", "a number"])
def test_what_is_no_list_of_batches_is_refused(batches):
    with pytest.raises(UsageError, match="not a list of batches") as error:
        bncli.recalibrate(MODEL.apply, VARIABLES, batches)
    assert error.value.remedy == "Pass [x, ...], with x [B, ...]."


def test_batches_that_do_not_fit_the_network_are_named():
    with pytest.raises(ModelError, match=r"cannot be applied to a batch of float32 \(2, 3\)") as error:
        bncli.recalibrate(MODEL.apply, VARIABLES, [np.zeros((2, 3), np.float32)])
    assert "Pass batches [B, ...]" in error.value.remedy


def test_statistics_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="the mean or variance of its inputs is not finite"):
        bncli.recalibrate(MODEL.apply, VARIABLES, [np.asarray(X) * np.nan])


def test_averaged_weights_get_statistics_of_their_own():
    """As for an EMA: the statistics belong to the weights, and those of the raw weights are wrong for these."""
    averaged = {**VARIABLES, "params": jax.tree.map(lambda leaf: leaf * 0.7, VARIABLES["params"])}
    raw, new = (bncli.recalibrate(MODEL.apply, variables, [X]) for variables in (VARIABLES, averaged))
    assert not np.allclose(statistics(raw)[1], statistics(new)[1], rtol=0.1)


# --- a checkpoint --------------------------------------------------------------------------------------------------


def test_it_repairs_a_network_whose_statistics_are_wrong(trained, dataset, tmp_path):
    healthy = bncli.load(trained.out)
    stats = jax.tree.map(lambda leaf: leaf * 30 + 5, healthy.variables["batch_stats"])
    broken = replace(healthy, variables={**healthy.variables, "batch_stats": stats})
    result = recalibrate_checkpoint(broken, tmp_path / "out", dataset, Sampling(num_batches=None))
    assert result.before.accuracy < 0.6
    assert result.after.accuracy > 0.9
    opened = bncli.load(tmp_path / "out")
    assert opened.step == result.step
    assert opened.config.recalibrated.num_examples == result.num_examples == len(dataset.train)
    assert checkpoint.sha256_tree(opened.variables["params"]) == checkpoint.sha256_tree(healthy.variables["params"])
    document = json.loads(json.dumps(render.recalibrate_json(result)))
    assert document["after"]["accuracy"] == result.after.accuracy
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in result.layers]


def test_a_dry_run_writes_nothing(trained, dataset, tmp_path):
    result = recalibrate_checkpoint(
        bncli.load(trained.out), tmp_path / "out", dataset, Sampling(batch_size=16), dry_run=True
    )
    assert result.out is None
    assert not (tmp_path / "out").exists()


def test_the_checkpoint_itself_is_no_place_for_the_result(copied, dataset):
    before = checkpoint.sha256_tree(bncli.load(copied).variables)
    for overwrite in (False, True):
        with pytest.raises(CheckpointError):
            recalibrate_checkpoint(bncli.load(copied), copied, dataset, overwrite=overwrite)
    assert checkpoint.sha256_tree(bncli.load(copied).variables) == before


def test_a_folded_checkpoint_has_nothing_to_recalibrate(trained, dataset, tmp_path):
    from bncli.jobs.fold import fold_checkpoint

    fold_checkpoint(bncli.load(trained.out), tmp_path / "folded")
    with pytest.raises(CheckpointError, match="is folded"):
        recalibrate_checkpoint(bncli.load(tmp_path / "folded"), tmp_path / "out", dataset)


def test_training_does_not_go_on_from_it(trained, dataset, tmp_path):
    recalibrate_checkpoint(bncli.load(trained.out), tmp_path / "out", dataset)
    trainer = assembly.create_trainer(trained.config.run, dataset, tmp_path / "out")
    with pytest.raises(CheckpointError, match="was recalibrated") as caught:
        run.resume(trainer)
    assert str(trained.out) in caught.value.remedy


def test_half_precision_keeps_its_dtypes():
    variables = {**VARIABLES, "batch_stats": jax.tree.map(lambda a: a.astype(jnp.bfloat16), VARIABLES["batch_stats"])}
    new = bncli.recalibrate(MODEL.apply, variables, [X])
    assert {leaf.dtype for leaf in statistics(new)} == {jnp.dtype(jnp.bfloat16)}
