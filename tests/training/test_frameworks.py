"""Networks of NNX, Equinox and Haiku train as the same network of linen does, padding and resume included."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.breadth import broad
from support.framework_nets import params_of, write_net
from support.tiny import run_config, train

import bncli
from bncli.config.document import Preprocessing
from bncli.config.settings import ModelConfig, OptimizerConfig
from bncli.data import Augmentation, Preprocessor
from bncli.data.batches import example_keys
from bncli.errors import ModelError, TrainingInterruptedError
from bncli.frameworks.calls import observing
from bncli.models import build_network
from bncli.training.state import create_train_state
from bncli.training.step_settings import StepSettings
from bncli.training.steps import make_train_on

SHAPE = (8, 8, 1)
OTHERS = ["nnx", "equinox", "haiku"]
ALL = ["linen", *OTHERS]
X = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Framework -> (the network, its variables, with equal weights)."""
    directory = tmp_path_factory.mktemp("nets")

    def made(framework):
        network = build_network(ModelConfig(name=write_net(directory, framework)), num_classes=3, image_shape=SHAPE)
        variables = network.init(jax.random.key(0), SHAPE)
        params = params_of(framework)
        assert jax.tree.map(np.shape, variables["params"]) == jax.tree.map(np.shape, params)
        return network, {**variables, "params": jax.tree.map(jnp.asarray, params)}

    return {framework: made(framework) for framework in ALL}


def losses_of(network, variables, dataset, *, steps):
    """The loss after each step, in batches of 8 examples of which the last two are padding."""
    settings = StepSettings(
        network=network,
        optimizer=OptimizerConfig(learning_rate=0.1, schedule="constant", warmup_epochs=0),
        steps_per_epoch=steps,
        schedule_epochs=1,
        preprocessor=Preprocessor(Preprocessing(size=SHAPE[:2], channels=1, mean=(0.3,), std=(0.2,)), "float32"),
        augmentation=Augmentation.none(),
        seed=0,
    )
    state = create_train_state(network, settings.make_optimizer(), image_shape=SHAPE, seed_key=jax.random.key(0))
    params = jax.tree.map(jnp.asarray, variables["params"])
    state = dataclasses.replace(state, params=params, opt_state=settings.make_optimizer().init(params))
    step, losses = jax.jit(make_train_on(settings)), []
    for number in range(steps):
        indices = (jnp.arange(8) + 6 * number) % len(dataset.train)
        keys = example_keys(jax.random.key(0), 0, indices)
        state, metrics = step(
            state,
            dataset.train.images[indices],
            dataset.train.labels[indices],
            keys,
            jnp.arange(8) < 6,
            settings.hyperparameters.at(number),
        )
        losses.append(float(metrics.loss))
    return np.array(losses), state


@pytest.fixture(scope="module")
def runs(networks, dataset):
    """Framework -> (losses, the last state) of 20 steps."""
    return {framework: losses_of(*networks[framework], dataset, steps=20) for framework in ALL}


@pytest.mark.sample(1)
@pytest.mark.parametrize("framework", OTHERS)
def test_losses_are_those_of_linen(runs, framework):
    np.testing.assert_allclose(runs[framework][0], runs["linen"][0], atol=1e-5, rtol=0)
    assert runs["linen"][0][-1] < runs["linen"][0][0]


def test_statistics_are_what_each_framework_keeps(runs):
    """After n updates linen's have mⁿ of their start left, which Haiku divides out, and Equinox of the mean only."""
    linen = {name: np.asarray(array) for name, array in runs["linen"][1].batch_stats["bn"].items()}
    kept = 0.9**20
    debiased = {"mean": linen["mean"] / (1 - kept), "var": (linen["var"] - kept) / (1 - kept)}
    expected = {
        "nnx": linen,
        "haiku": debiased,
        "equinox": {**debiased, "var": debiased["var"] + kept / (1 - kept)},
    }
    for framework, statistics in expected.items():
        stats = runs[framework][1].batch_stats["bn"]
        for name in ("mean", "var"):
            np.testing.assert_allclose(np.ravel(stats[name]), statistics[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("framework", ALL)
def test_the_channels_of_a_kernel_are_on_the_axes_that_the_network_names(networks, framework):
    network, variables = networks[framework]
    (kernel,) = [leaf for leaf in jax.tree.leaves(variables["params"]) if sorted(leaf.shape) == [1, 3, 3, 4]]
    assert (kernel.shape[network.kernel_axes.inputs], kernel.shape[network.kernel_axes.outputs]) == (1, 4)


@pytest.mark.sample(1)
@pytest.mark.parametrize("framework", ALL)
def test_padding_counts_for_nothing(networks, framework):
    network, variables = networks[framework]
    key = jax.random.key(0)
    mask = jnp.arange(6) < 4
    padded = network.train_logits(variables, jnp.asarray(X).at[4:].set(1e3), mask=mask, dropout_key=key)
    alone = network.train_logits(variables, X[:4], mask=None, dropout_key=key)
    np.testing.assert_allclose(padded[0][:4], alone[0], atol=1e-5)
    for a, b in zip(jax.tree.leaves(padded[1]), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("framework", OTHERS)
def test_what_is_restored_computes_the_same_in_its_own_framework(runs, networks, framework):
    network, state = networks[framework][0], runs[framework][1]
    mine = network.logits(state.variables, X)
    restored = network.restored(state.variables)
    if framework == "nnx":
        theirs = restored(jnp.asarray(X))
    elif framework == "equinox":
        model, kept = restored
        theirs, _ = jax.vmap(model, axis_name="batch", in_axes=(0, None))(jnp.moveaxis(jnp.asarray(X), -1, 1), kept)
    else:
        theirs, _ = network.transformed.apply(*restored, None, X, False)
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("framework", OTHERS)
def test_frozen_layers_keep_their_statistics_and_batch_statistics_are_the_batchs(networks, framework):
    network, variables = networks[framework]
    frozen = dataclasses.replace(network, frozen=frozenset({"bn"}))
    logits, stats = frozen.train_logits(variables, X, mask=None, dropout_key=jax.random.key(0))
    np.testing.assert_allclose(logits, network.logits(variables, X), atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(stats["bn"][name], variables["batch_stats"]["bn"][name])
    by_batch = network.logits_by_batch_stats(variables, X, mask=None)
    trained, _ = network.train_logits(variables, X, mask=None, dropout_key=jax.random.key(0))
    np.testing.assert_allclose(by_batch, trained, atol=1e-5)


@pytest.mark.parametrize("framework", ALL)
def test_calls_are_observed_with_their_values(networks, framework):
    network, variables = networks[framework]
    calls = []
    with observing(calls.append):
        network.logits(variables, X)
    shapes = {call.path: np.shape(call.inputs) for call in calls}
    (norm,) = [call for call in calls if call.norm is not None]
    assert (norm.path, norm.norm.momentum) == ("bn", pytest.approx(0.9))
    assert norm.outputs.shape[norm.norm.axis] == 4
    assert len(norm.outputs) == len(X)
    assert shapes["fc"] == (6, 4)
    assert [call.path for call in calls if call.is_linear] == ["conv", "fc"]


@pytest.mark.parametrize("framework", broad(OTHERS, lambda framework: framework == OTHERS[0]))
def test_a_stopped_run_goes_on_to_the_same_bytes_and_every_command_reads_it(framework, dataset, tmp_path):
    name = write_net(tmp_path, framework)
    config = run_config(model={"name": name, "args": {}})
    whole = train(config, dataset, tmp_path / "whole")
    with pytest.raises(TrainingInterruptedError):
        train(config, dataset, tmp_path / "parts", stop_after=(1, 2))
    again = train(config, dataset, tmp_path / "parts", resume=True)
    assert again.sha256 == whole.sha256
    opened = bncli.load(tmp_path / "whole")
    report = bncli.inspect_stats(tmp_path / "whole")
    assert [row.name for row in report.layers] == ["bn"]
    folded = bncli.fold(opened.apply_fn, opened.variables, X)
    np.testing.assert_allclose(folded(X), opened.apply_fn(opened.variables, X), atol=1e-5)
    assert [row.status for row in folded.report.norms] == ["folded"]


FACTORIES = """
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
from flax import nnx
{sources}
def linen(num_classes):
    return LinenNet(num_classes)

def of_rngs(num_classes, rngs):
    return NnxNet(num_classes, rngs=rngs)

def of_key(num_classes, key):
    return EquinoxNet(num_classes, key)

def transformed(num_classes, width=4):
    return hk.transform_with_state(lambda x, is_training: hk.Linear(num_classes)(x.reshape(len(x), -1)))

def nothing():
    return 3

def failing(num_classes, rngs):
    raise ValueError("no such width")
"""


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    from support.framework_nets import SOURCES

    renamed = {name: text.replace("class Net", f"class {name.title()}Net") for name, text in SOURCES.items()}
    path = tmp_path_factory.mktemp("factories") / "factories.py"
    path.write_text(FACTORIES.format(sources="\n".join(renamed.values())))
    return path


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["linen", "of_rngs", "of_key", "transformed"])
def test_functions_make_networks_too(factories, name):
    network = build_network(ModelConfig(name=f"{factories}:{name}"), num_classes=5, image_shape=SHAPE)
    variables = network.init(jax.random.key(0), SHAPE)
    assert network.logits(variables, X).shape == (6, 5)
    again = build_network(ModelConfig(name=f"{factories}:{name}"), num_classes=5, image_shape=SHAPE)
    assert name == "transformed" or again == network  # so that trainings of one process share programs


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "returns a int"), ("failing", "no such width"), ("absent", "not a network")]
)
def test_what_makes_no_network_is_named(factories, name, words):
    model = ModelConfig(name=f"{factories}:{name}")
    with pytest.raises(ModelError, match=words):
        build_network(model, num_classes=3, image_shape=SHAPE).init(jax.random.key(0), SHAPE)
