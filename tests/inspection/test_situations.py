"""Twenty common causes of "good in train mode, bad in eval mode", planted in one network: found, and repaired.

Each is planted in the statistics, weights or settings of a healthy network. The finding must name it, and its remedy
must bring back the accuracy. Most remedies are to recalibrate. At the end, the commands do it all: the remedy is taken
from the finding, word for word, and run.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from support import tiny
from support.breadth import broad
from support.planting import configure
from typer.testing import CliRunner

import bncli
from bncli import checkpoint as checkpoints
from bncli.checkpoint import Checkpoint
from bncli.cli.app import app
from bncli.data import Dataset
from bncli.inspection.findings import find, find_on_data
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.live import look_at_data
from bncli.inspection.readers.variables import read_variables
from bncli.inspection.rules.on_data import ACCURACY_GAP
from bncli.measure.batches import ImageBatches
from bncli.measure.population import recalibrate_measured

Tree = dict[str, dict[str, dict[str, np.ndarray]]]
BATCH = 28


@dataclass(frozen=True)
class Ward:
    """A healthy network, and the means to examine and treat others like it.

    Attributes:
        healthy: trained, with the statistics of all training images.
        dataset: its data.
        batches: normalised training images, and the number of real ones in each batch.
        logits: the network in eval mode, compiled once.
    """

    healthy: Checkpoint
    dataset: Dataset
    batches: ImageBatches
    logits: Callable[[Tree, jax.Array], jax.Array]

    def variables(self) -> Tree:
        """A copy of the healthy arrays, to plant something in."""
        return jax.tree.map(np.copy, self.healthy.variables)

    def statistics_on(self, change: Callable[[np.ndarray], np.ndarray], keep: slice = slice(None)) -> Tree:
        """The statistics that training on changed images leaves."""
        images = np.concatenate([np.asarray(x)[:real] for x, real in self.batches])[keep]
        return bncli.recalibrate(self.healthy.apply_fn, self.healthy.variables, [change(images)])["batch_stats"]

    def treated(self, variables: Tree) -> Tree:
        """The arrays after the remedy that most findings name."""
        return recalibrate_measured(self.healthy.apply_fn, variables, self.batches).variables

    def outputs(self, variables: Tree) -> np.ndarray:
        """The logits of the validation split in eval mode."""
        return np.asarray(self.logits(variables, self.healthy.preprocessor(self.dataset.val.images)))

    def layers(self, variables: Tree, **settings: object) -> tuple[BatchNormArrays, ...]:
        """The BN layers as a reader finds them in the checkpoint of a long run."""
        known = {"momentum": 0.9, "updates": 1000, **settings}
        return tuple(replace(layer, **known) for layer in read_variables(variables).layers)


def distance(outputs, others):
    """rms difference, relative to the others; NaN if an output is."""
    return np.sqrt(np.mean(np.square(outputs - others)) / np.mean(np.square(others)))


@pytest.fixture(scope="module")
def ward(trained, dataset):
    opened = bncli.load(trained.out)
    batches = ImageBatches.training(opened.config, dataset, num_batches=None, batch_size=BATCH)
    healthy = replace(opened, variables=recalibrate_measured(opened.apply_fn, opened.variables, batches).variables)
    return Ward(healthy, dataset, batches, jax.jit(opened.apply_fn))


def on_statistics(change):
    """Plant the same change in the statistics of every layer."""

    def plant(ward):
        variables = ward.variables()
        for stats in variables["batch_stats"].values():
            stats["mean"], stats["var"] = (np.asarray(a, np.float32) for a in change(stats["mean"], stats["var"]))
        return variables

    return plant


def on_kernels(factor):
    """Plant other weights under the old statistics; before BN their size does not matter to train mode."""

    def plant(ward):
        variables = ward.variables()
        for name, arrays in variables["params"].items():
            if name.startswith("Conv"):
                arrays["kernel"] *= np.float32(factor)
        return variables

    return plant


def trained_on(change, keep=slice(None)):
    """Plant the statistics of other images."""
    return lambda ward: {**ward.variables(), "batch_stats": ward.statistics_on(change, keep)}


def two_domains(ward):
    """Statistics over the data and a second kind of it, as one BN for both has them."""
    variables, others = ward.variables(), ward.statistics_on(lambda images: 4 * images + 6)
    for name, stats in variables["batch_stats"].items():
        mean, var = others[name]["mean"], others[name]["var"]
        stats["var"] = (stats["var"] + var) / 2 + ((stats["mean"] - mean) / 2) ** 2
        stats["mean"] = (stats["mean"] + mean) / 2
    return variables


def sorted_data(ward):
    """Statistics of the last batches of data that were not shuffled: all of them dark."""
    return trained_on(lambda images: images * 0.3 - 2, keep=slice(4))(ward)


def average(share):
    """Running averages in which this share of the initial values is left."""
    return on_statistics(lambda mean, var: ((1 - share) * mean, share + (1 - share) * var))


# What the file shows -> (plant, settings of the layers, code).
IN_THE_FILE = {
    "never updated": (on_statistics(lambda mean, var: (0 * mean, 0 * var + 1)), {}, "never-updated"),
    "a dummy forward pass only": (
        on_statistics(lambda mean, var: (0 * mean, 0 * var + 0.9**7)),
        {"momentum": 0.9},
        "never-updated",
    ),
    "erased": (on_statistics(lambda mean, var: (0 * mean, 0 * var)), {}, "never-updated"),
    "too few steps": (average(0.99**12), {"momentum": 0.99, "updates": 12}, "not-converged"),
    "momentum of the other convention": (sorted_data, {"momentum": 0.1}, "momentum-convention"),
    "a NaN": (on_statistics(lambda mean, var: (mean * np.nan, var)), {}, "nonfinite"),
    "overflow in float16": (on_statistics(lambda mean, var: (mean, var * np.inf)), {}, "nonfinite"),
    "negative variance": (on_statistics(lambda mean, var: (mean, -var)), {}, "negative-variance"),
    "cancelled variance": (on_statistics(lambda mean, var: (mean + 5000, 0 * var)), {}, "cancellation-risk"),
}
# What only data show: the running statistics are not those of the layer's inputs.
ON_DATA = {
    "fine-tuned weights, old statistics": on_kernels(6),
    "averaged weights, raw statistics": on_kernels(0.15),
    "another checkpoint's statistics": on_statistics(lambda mean, var: (mean[::-1] * 3 + 1, var[::-1])),
    "standard deviation for variance": on_statistics(lambda mean, var: (mean, np.sqrt(var) * 8)),
    "one exploding batch": on_statistics(lambda mean, var: (mean + 3, var * 1e4)),
    "two domains, one BN": two_domains,
    "another preprocessing": trained_on(lambda images: images * 0.2 + 0.4),
    "augmented otherwise": trained_on(lambda images: 3 * images),
    "sorted data": sorted_data,
}


def codes(findings):
    return {finding.code for finding in findings if finding.severity != "info"}


def check_sick_and_healed(ward, sick):
    """The outputs are wrong with what was planted, and those of the healthy network after recalibration."""
    healthy = ward.outputs(ward.healthy.variables)
    assert not distance(ward.outputs(sick), healthy) < 0.05
    treated = ward.treated(sick)
    assert distance(ward.outputs(treated), healthy) < 1e-3
    assert codes(find(ward.layers(treated))) == set()


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", IN_THE_FILE)
def test_the_file_shows_it_and_recalibration_repairs_it(name, ward):
    plant, settings, code = IN_THE_FILE[name]
    sick = plant(ward)
    findings = find(ward.layers(sick, **settings))
    assert codes(findings) == {code}
    assert {finding.layer for finding in findings} == {"BatchNorm_0", "BatchNorm_1"}
    # A save with NaN has an earlier one without; here the weights are sound, so new statistics are enough.
    assert code == "nonfinite" or all("bncli recalibrate CKPT OUT" in finding.remedy for finding in findings)
    check_sick_and_healed(ward, sick)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ON_DATA)
def test_data_show_it_and_recalibration_repairs_it(name, ward):
    sick = ON_DATA[name](ward)
    assert codes(find(ward.layers(sick))) == set()
    report = look_at_data(replace(ward.healthy, variables=sick), ward.dataset)
    assert report.batch.accuracy == 1  # train mode is good
    findings = find_on_data(report, path="CKPT")
    lost = report.batch.accuracy - report.running.accuracy > ACCURACY_GAP
    assert codes(findings) == {"stale-statistics"} | ({"train-eval-gap"} if lost else set())
    assert {finding.severity for finding in findings} == {"error" if lost else "warning"}
    assert {finding.remedy for finding in findings} == {"bncli recalibrate CKPT OUT"}
    check_sick_and_healed(ward, sick)


def test_replicas_that_were_never_synchronised(ward):
    one, other = ward.variables(), ward.statistics_on(lambda images: images * 1.5 + 0.5)
    both = {
        "params": jax.tree.map(lambda array: np.stack([array, array]), one["params"]),
        "batch_stats": jax.tree.map(lambda *arrays: np.stack(arrays), one["batch_stats"], other),
    }
    assert codes(find(ward.layers(both))) == {"replicas-disagree"}
    check_sick_and_healed(ward, {**one, "batch_stats": other})


def test_a_layer_that_was_exported_in_train_mode(ward):
    variables = ward.variables()
    findings = find(ward.layers(variables, train_mode=True), file_format="onnx")
    assert codes(findings) == {"train-mode"}
    assert "eval mode" in findings[0].remedy
    assert codes(find(ward.layers(variables, train_mode=False))) == set()


def test_an_epsilon_that_a_conversion_lost(ward):
    first, second = ward.layers(ward.variables())
    (finding,) = find([first, replace(second, epsilon=1.0)])
    assert (finding.code, finding.severity, finding.layer) == ("epsilon-differs", "warning", second.name)
    assert "as it was in training" in finding.remedy
    assert find([first, replace(second, epsilon=first.epsilon)]) == ()


def test_scales_that_weight_decay_took_to_zero(ward):
    sick, pruned = ward.variables(), ward.variables()
    for variables, scale in ((sick, 1e-5), (pruned, 0.0)):
        variables["params"]["BatchNorm_0"]["scale"][:3] = scale
    (finding,) = find(ward.layers(sick))
    assert (finding.code, finding.severity, finding.channels) == ("dead-channels", "warning", (0, 1, 2))
    assert "can be pruned" in finding.remedy
    assert distance(ward.outputs(pruned), ward.outputs(sick)) < 1e-3


def test_an_unbiased_variance_is_no_fault(ward):
    """PyTorch's factor m/(m − 1), for batches of 32 values a channel."""
    variables = on_statistics(lambda mean, var: (mean, var * 32 / 31))(ward)
    assert codes(find(ward.layers(variables))) == set()
    report = look_at_data(replace(ward.healthy, variables=variables), ward.dataset)
    assert find_on_data(report, path="CKPT") == ()


def command(*words):
    """The JSON document of a command that ends well."""
    result = CliRunner().invoke(app, [*map(str, words), "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def grave(document):
    """Findings of severity warning or error, by code."""
    return {finding["code"]: finding for finding in document["findings"] if finding["severity"] != "info"}


@pytest.fixture(scope="module")
def archive(dataset, tmp_path_factory):
    """The data set as a file that the commands read."""
    path = tmp_path_factory.mktemp("data") / "bands.npz"
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    images = {f"x_{name}": split.images for name, split in splits.items()}
    labels = {f"y_{name}": split.labels for name, split in splits.items()}
    np.savez(path, **images, **labels, class_names=np.array(dataset.class_names))
    return path


def save_sick(ward, variables, out, *, momentum, updates):
    """A copy of the run whose best save has these arrays, after so many updates at this momentum."""
    shutil.copytree(ward.healthy.path, out)
    checkpoints.drop_after(out, 0)
    progress = checkpoints.read_progress(ward.healthy.path, ward.healthy.step)
    best = {**progress["best"], "step": updates}
    optimizer = {"step": np.int32(updates)}
    checkpoints.save(out, updates, variables=variables, optimizer=optimizer, progress={**progress, "best": best})
    if momentum is not None:
        configure(out, bn_momentum=momentum)


FAST = ("never updated",)


@pytest.mark.broad
@pytest.mark.parametrize(
    "name",
    broad((*IN_THE_FILE, *ON_DATA), lambda name: name in FAST),
)
def test_the_remedy_of_the_finding_is_a_command_that_repairs_it(name, ward, archive, tmp_path):
    plant, settings, code = IN_THE_FILE.get(name, (ON_DATA.get(name), {}, "stale-statistics"))
    sick, mended = tmp_path / "sick", tmp_path / "mended"
    save_sick(ward, plant(ward), sick, momentum=settings.get("momentum"), updates=settings.get("updates", 1000))
    look = ["--data", archive] if name in ON_DATA else []
    finding = grave(command("inspect-stats", sick, *look))[code]
    remedy = finding["remedy"].partition(". Next time")[0]
    if code == "nonfinite":  # of a save that is broken for good; here the weights are sound
        assert remedy.startswith(f"Look for an earlier, healthy save: bncli inspect-stats {sick} --step N")
        remedy = f"bncli recalibrate {sick} OUT"
    program, *words = shlex.split(remedy)
    assert program == "bncli"
    command(*(str(mended) if word == "OUT" else word for word in words), "--data", archive)
    assert grave(command("inspect-stats", mended, "--data", archive)) == {}
    labels = ward.dataset.val.labels
    healthy = float(np.mean(ward.outputs(ward.healthy.variables).argmax(axis=1) == labels))
    assert command("eval", mended, "--data", archive, "--split", "val")["accuracy"] == pytest.approx(healthy, abs=1e-6)


# Ten healthy runs: both placements of BN, two kinds of network, with and without augmentation and averages.
HEALTHY = [
    *({"model": tiny.CNN, "training": {"seed": seed}} for seed in range(3)),
    *({"model": tiny.CNN | {"bn_placement": "post"}, "training": {"seed": seed}} for seed in range(2)),
    *({"model": tiny.MLP, "training": {"seed": seed}} for seed in range(3)),
    {"model": tiny.MLP, "training": {"ema_decay": 0.5}},
    {"model": tiny.CNN, "training": {"precise_bn": True}},
]


# Two kinds every time, since a run takes seconds.
@pytest.mark.parametrize(
    "number",
    broad(range(10), lambda number: number == 5),
)
def test_a_healthy_run_has_no_warning(number, dataset, tmp_path):
    sections = HEALTHY[number]
    training = {"epochs": 4, "batch_size": 28, **sections["training"]}
    config = tiny.run_config(model=sections["model"], data={"augment": bool(number % 2)}, training=training)
    tiny.train(config, dataset, tmp_path / "ckpt")
    assert codes(bncli.inspect_stats(tmp_path / "ckpt").findings) == set()
    report = look_at_data(bncli.load(tmp_path / "ckpt"), dataset)
    assert codes(find_on_data(report, path="CKPT")) == set()
