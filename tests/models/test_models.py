"""Laws of the registry: every known model can be built, trained a step in either precision, refused with a reason."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.breadth import broad
from support.networks import network_of, random_images

from bncli.config.settings import ModelConfig
from bncli.errors import ConfigError, ModelError, UsageError
from bncli.models import MODELS, relu_follows_every_bn

# Features of a network that is traced and compiled, one of each architecture; its larger sizes differ in numbers alone.
SMALL = {
    "cnn": [2, 2, 2],
    "convnet": [2, 2, 2],
    "efficientnet_lite0": 2,
    "fastnet": [2, 2],
    "mlp": [2, 2],
    "resnet18": 2,
    "resnet20": 2,
    "resnet50": 2,
}
# Others are made of the same parts.
DEEP = ("efficientnet_lite0", "resnet50")
# test_network.py takes the gradient of a smaller residual network.
QUICK_TO_COMPILE = (("cnn", "float32"), ("mlp", "float32"), ("mlp", "bfloat16"))


def training_step(name, precision):
    """(step, variables, images): one gradient step of the named model on its smallest image."""
    min_size = MODELS[name].min_size(SMALL[name])
    shape = (min_size, min_size, 1)
    network = network_of(shape, name=name, args={"features": SMALL[name]}, precision=precision)
    images = random_images(6, shape).astype(precision)
    labels = np.arange(6) % 3

    def loss_fn(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, batch_stats = network.train_logits(variables, images, mask=None, dropout_key=jax.random.key(1))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits, batch_stats)

    def step(variables):
        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, batch_stats)), grads = gradient_fn(variables["params"], variables["batch_stats"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
        return {"params": params, "batch_stats": batch_stats}, loss, logits

    return step, lambda: network.init(jax.random.key(0), shape)


@pytest.mark.sample(3)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", broad(SMALL, lambda name: name not in DEEP))
def test_variables_and_logits_are_float32_in_either_precision(name, precision):
    step, init = training_step(name, precision)
    before = jax.eval_shape(init)
    after, loss, logits = jax.eval_shape(step, before)
    assert after == before
    assert {leaf.dtype for leaf in jax.tree.leaves((after, loss, logits))} == {jnp.dtype("float32")}
    assert logits.shape == (6, 3)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=pytest.mark.slow if (name, precision) not in QUICK_TO_COMPILE else ())
        for name in SMALL
        for precision in ("float32", "bfloat16")
    ],
)
def test_a_step_on_the_smallest_image_moves_weights_and_statistics(name, precision):
    step, init = training_step(name, precision)
    before = init()
    after, loss, _ = jax.jit(step)(before)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    for part in ("params", "batch_stats"):
        changed = [
            bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before[part], after[part])), strict=True)
        ]
        assert any(changed), part


def test_bfloat16_computes_in_bfloat16():
    shape = (8, 8, 1)
    networks = [network_of(shape, name="cnn", args={"features": [8]}, precision=p) for p in ("float32", "bfloat16")]
    images = jnp.asarray(random_images(4, shape))
    variables = networks[0].init(jax.random.key(0), shape)
    exact, rounded = (network.logits(variables, images) for network in networks)
    assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("name", broad(SMALL, lambda name: name not in DEEP))
def test_without_bn_there_are_no_statistics(name):
    shape = (8, 8, 1)
    with_bn, without = (
        jax.eval_shape(lambda bn=bn: network_of(shape, name=name, bn=bn).init(jax.random.key(0), shape))
        for bn in (True, False)
    )
    assert set(with_bn) == {"params", "batch_stats"}
    assert set(without) == {"params"}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", SMALL)
def test_settings_reach_every_bn_layer(name):
    shape = (8, 8, 1)
    network = network_of(shape, name=name, bn_momentum=0.7, bn_epsilon=0.25)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), shape))
    norms = network.batch_norms(variables, shape)
    counts = {
        "cnn": 6,
        "convnet": 6,
        "efficientnet_lite0": 49,
        "fastnet": 6,
        "mlp": 3,
        "resnet18": 20,
        "resnet20": 21,
        "resnet50": 53,
    }
    assert len(norms) == counts[name]
    assert {(norm.epsilon, norm.momentum) for norm in norms.values()} == {(0.25, 0.7)}


@pytest.mark.parametrize("name", MODELS)
def test_the_features_of_the_registry_are_those_of_the_module(name):
    module = network_of((8, 8, 1), name=name).module
    assert module.features == MODELS[name].features


def test_the_registry_is_sorted_and_described():
    assert list(MODELS) == sorted(MODELS)
    assert all(known.description for known in MODELS.values())


@pytest.mark.parametrize("name", MODELS)
def test_dropout_is_the_default_of_the_model_unless_given(name):
    assert network_of((8, 8, 1), name=name).module.dropout == MODELS[name].default_dropout
    assert network_of((8, 8, 1), name=name, dropout=0.0).module.dropout == 0
    assert network_of((8, 8, 1), name=name, dropout=0.7).module.dropout == 0.7


@pytest.mark.parametrize(
    ("settings", "error", "message", "remedy"),
    [
        ({"name": "resnet21"}, UsageError, r"no model 'resnet21'; did you mean 'resnet2?", "resnet50"),
        ({"name": "xyz"}, UsageError, r"no model 'xyz'$", "file.py:Class"),
        ({"name": "cnn"}, ModelError, "at least 8×8 pixels, these have 8×7", "--image-size 8"),
        ({"name": "resnet20", "bn_placement": "post"}, UsageError, "--bn-placement post: resnet20", "--model cnn"),
        ({"name": "mlp", "args": {"width": 3}}, UsageError, "--model-arg: mlp has no argument 'width'", "features"),
        ({"name": "cnn", "args": {"features": [4] * 4}}, ModelError, "at least 16×16 pixels", "fewer --model-arg"),
        ({"name": "cnn", "args": {"features": []}}, UsageError, "a list of positive", "features=[32,64,128]"),
        ({"name": "cnn", "args": {"features": [8, 0]}}, UsageError, "a list of positive", "features=[32,64,128]"),
        ({"name": "cnn", "args": {"features": [1.5]}}, UsageError, "a list of positive", "features=[32,64,128]"),
        ({"name": "mlp", "args": {"features": "abc"}}, UsageError, "a list of positive", "features=[100,100,100]"),
        ({"name": "resnet20", "args": {"features": [16]}}, UsageError, "a positive whole number", "features=16"),
        ({"name": "resnet20", "args": {"features": True}}, UsageError, "a positive whole number", "features=16"),
        ({"name": "resnet20", "args": {"padding": "same"}}, UsageError, "has no argument 'padding'", "features=…"),
        ({"name": "resnet18", "args": {"padding": "valid"}}, UsageError, "padding=valid: no such choice", "symmetric"),
        ({"name": "resnet18", "args": {"small_images": "no"}}, UsageError, "no such choice", "true or false"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(settings, error, message, remedy):
    with pytest.raises(error, match=message) as caught:
        network_of((8, 7, 1), **settings)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "cnn"}, True),
        ({"name": "cnn", "bn": False}, False),
        ({"name": "cnn", "bn_placement": "post"}, False),
        ({"name": "mlp"}, False),  # a sigmoid follows
        ({"name": "resnet20"}, False),  # a sum follows each second one
        ({"name": "file.py:Net"}, False),
    ],
)
def test_a_relu_is_known_to_follow_in_the_plain_cnn_alone(settings, expected):
    assert relu_follows_every_bn(ModelConfig(**settings)) is expected


NORMS = ["batch", "group", "layer", "ghost:2", "none"]


@pytest.mark.sample(6)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", broad(SMALL, lambda name: name not in DEEP))
def test_each_network_has_each_normalization(name, norm):
    min_size = MODELS[name].min_size(SMALL[name])
    network = network_of((min_size, min_size, 1), name=name, args={"features": SMALL[name]}, norm=norm)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), (min_size, min_size, 1)))
    assert bool(variables.get("batch_stats")) == (norm in ("batch", "ghost:2"))
    scales = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"]) if "scale" in str(path[-1])]
    assert bool(scales) == (norm != "none")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"norm": "none"}, {"bn": False}),
        ({"norm": "batch"}, {"bn": True}),
        ({"norm": "ghost:4"}, {"ghost_batch": 4}),
    ],
)
def test_two_names_of_one_normalization_make_equal_networks(one, other):
    assert network_of((8, 8, 1), **one) == network_of((8, 8, 1), **other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bn": False, "norm": "group"}, "model.norm: group excludes --no-bn"),
        ({"bn": False, "ghost_batch": 4}, "model.ghost_batch: excludes --no-bn"),
        ({"norm": "group", "ghost_batch": 4}, "model.ghost_batch: excludes --norm group"),
        ({"norm": "ghost:0"}, "must be batch, group, layer, ghost:N or none"),
    ],
)
def test_normalizations_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**settings)


def test_ones_own_model_decides_its_normalization():
    with pytest.raises(UsageError, match="--norm group: my:Net is your own model"):
        network_of((8, 8, 1), name="my:Net", norm="group")
