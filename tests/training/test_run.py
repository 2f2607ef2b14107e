"""A whole run: what it scores, what it refuses, and that the number of devices is irrelevant."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny import make_dataset, run_config, train

from bncli import checkpoint
from bncli.errors import CheckpointError
from bncli.jobs.evaluate import evaluate_checkpoint

TESTS = Path(__file__).parents[1]


def test_it_learns(trained):
    assert trained.test.accuracy > 0.9
    assert trained.history[-1].train_loss < 0.5 * trained.history[0].train_loss


def test_the_best_epoch_is_the_one_that_is_tested(trained, dataset):
    highest = max(row.val_accuracy for row in trained.history)
    best = [row for row in trained.history if row.val_accuracy > highest - 1.5 / 30][-1]
    assert trained.best.epoch == best.epoch
    assert trained.best.step == 3 * best.epoch
    assert (trained.best.val_accuracy, trained.best.val_loss) == (best.val_accuracy, best.val_loss)
    again = evaluate_checkpoint(
        checkpoint.load(trained.out), dataset.test, class_names=dataset.class_names, stats="running", batch_size=28
    )
    assert again.predictions_sha256 == trained.test.predictions_sha256
    assert again.loss == pytest.approx(trained.test.loss, rel=1e-5)  # another program rounds otherwise
    assert trained.test.num_examples == 24


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("orbax_leftovers")
def test_other_data_and_another_network_are_not_resumed(copied, dataset):
    config = checkpoint.read_config(copied).run
    with pytest.raises(CheckpointError, match="was trained on other data"):
        train(config, make_dataset(seed=5), copied, resume=True)
    wider = replace(config, model=replace(config.model, args={"features": [5]}))
    with pytest.raises(CheckpointError, match="does not fit this network and optimizer"):
        train(wider, dataset, copied, resume=True)
    adamw = replace(config, optimizer=replace(config.optimizer, name="adamw"))
    with pytest.raises(CheckpointError, match="does not fit this network and optimizer"):
        train(adamw, dataset, copied, resume=True)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(dataset, tmp_path):
    config = run_config(model={"dropout": 0.2}, training={"epochs": 1})
    first, again = (train(config, dataset, tmp_path / name) for name in ("first", "again"))
    assert first.sha256 == again.sha256
    assert first.test.predictions_sha256 == again.test.predictions_sha256
    other = replace(config, training=replace(config.training, seed=1))
    assert train(other, dataset, tmp_path / "other").sha256.params != first.sha256.params


LINEAR = """
import flax.linen as nn

class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(x.reshape(len(x), -1))
"""


def test_a_network_of_the_users_own_trains(dataset, tmp_path):
    (tmp_path / "nets.py").write_text(LINEAR)
    linear = {"name": f"{tmp_path}/nets.py:Linear", "args": {}}
    config = run_config(model=linear, training={"epochs": 1, "batch_size": 28})
    assert np.isfinite(train(config, dataset, tmp_path / "ckpt").test.loss)


# One device and eight.


def devices_config(epochs, norm=None):
    """Dropout, augmentation and padded batches are all on; 32 divides over 8 devices."""
    return run_config(
        model={"dropout": 0.2, "norm": norm}, optimizer={"schedule_epochs": 2}, training={"epochs": epochs}
    )


ON_EIGHT_DEVICES = """
import sys, json
from dataclasses import asdict
from pathlib import Path
import jax
from support.tiny import make_dataset, run_config, train
from training.test_run import devices_config
from bncli.errors import UsageError
from bncli.process.mesh import check_batch_size, make_mesh

assert jax.device_count() == 8, jax.devices()
check_batch_size(32, make_mesh())
try:
    check_batch_size(30, make_mesh())
except UsageError:
    pass
else:
    raise AssertionError("30 does not divide over 8")
out, resumed = map(Path, sys.argv[1:3])
norm = sys.argv[3]
new = train(devices_config(2, norm), make_dataset(), out)
more = train(devices_config(2, norm), make_dataset(), resumed, resume=True)  # begun on one device
averaged = run_config(training={"epochs": 1, "batch_size": 64, "ema_decay": 0.9})
train(averaged, make_dataset(num_train=43), out.with_name("averaged"))  # fewer images than a batch, not divisible by 8
print(json.dumps([[asdict(row) for row in result.history] for result in (new, more)]))
"""


@pytest.mark.broad
@pytest.mark.parametrize("norm", ["batch", pytest.param("ghost:8", marks=pytest.mark.slow)])
def test_eight_devices_give_the_numbers_of_one(dataset, tmp_path, norm):
    """BN statistics are of the global batch, random numbers those of one device, a save can be read on any number."""
    train(devices_config(1, norm), dataset, tmp_path / "resumed")
    code = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            ON_EIGHT_DEVICES,
            str(tmp_path / "eight"),
            str(tmp_path / "resumed"),
            norm,
        ],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    one = train(devices_config(2, norm), dataset, tmp_path / "one")
    stdout, stderr = code.communicate(timeout=500)
    assert code.returncode == 0, stderr
    for history in json.loads(stdout.splitlines()[-1]):
        for actual, expected in zip(history, map(asdict, one.history), strict=True):
            for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
                assert actual[name] == pytest.approx(expected[name], rel=1e-3), name
    expected = checkpoint.load_variables(one.out, 6)
    for out in (tmp_path / "eight", tmp_path / "resumed"):
        actual = checkpoint.load_variables(out, 6)
        for part in ("params", "batch_stats"):
            for name, layer in expected[part].items():
                for leaf, values in layer.items():
                    np.testing.assert_allclose(actual[part][name][leaf], values, rtol=1e-3, atol=1e-4, err_msg=name)
