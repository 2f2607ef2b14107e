"""The instruments against an independent implementation: two layers with BN, by hand, in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.studies import network
from bncli.studies.instruments import (
    activation_percentiles,
    along_gradient,
    covariate_shift,
    effective_smoothness,
    gradient_predictiveness,
    loss_range,
    scale_invariance,
)
from bncli.studies.network import LayerParams, Net, forward, init_params, init_stats, noisy
from bncli.studies.training import State, View, batch_loss, sgd_step

B, D, F, K = 12, 6, 5, 3
NET = Net(features=(F,), activation="sigmoid")


class Reference:
    """W₁ → BN → sigmoid → W₂ → softmax cross entropy, with its gradient written out (Ioffe & Szegedy, section 3)."""

    def __init__(self, x, labels, *, bn):
        self.x, self.targets, self.bn = x, np.eye(K)[labels], bn

    def loss_and_gradient(self, params):
        (w1, b1, scale, shift), (w2, b2, *_) = params
        z = self.x @ w1 + b1
        if self.bn:
            var = z.var(0)
            normalized = (z - z.mean(0)) / np.sqrt(var + network.EPSILON)
            y = scale * normalized + shift
        else:
            y = z
        h = 1 / (1 + np.exp(-y))
        logits = h @ w2 + b2
        logits = logits - logits.max(1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -(self.targets * log_p).sum() / B
        d_logits = (np.exp(log_p) - self.targets) / B
        d_y = d_logits @ w2.T * h * (1 - h)
        d_z, d_scale, d_shift = d_y, np.zeros(F), np.zeros(F)
        if self.bn:
            d_scale, d_shift = (d_y * normalized).sum(0), d_y.sum(0)
            d_n = d_y * scale
            d_z = (d_n - d_n.mean(0) - normalized * (d_n * normalized).mean(0)) / np.sqrt(var + network.EPSILON)
        first = (self.x.T @ d_z, d_z.sum(0), d_scale, d_shift)
        return loss, (first, (h.T @ d_logits, d_logits.sum(0), np.zeros(K), np.zeros(K)))


def norm(tree):
    return np.sqrt(sum((leaf**2).sum() for layer in tree for leaf in layer))


def moved(params, gradient, step):
    return tuple(
        tuple(w - step * g for w, g in zip(*layers, strict=True)) for layers in zip(params, gradient, strict=True)
    )


@pytest.fixture(scope="module", params=[True, False], ids=["bn", "none"])
def both(request):
    """(loss in JAX, its parameters, the reference, the same parameters in float64)."""
    draw = np.random.default_rng(0)
    x, labels = draw.normal(size=(B, D)), draw.integers(0, K, B)
    net = Net(features=(F,), activation="sigmoid", norm="batch" if request.param else "none")
    params = init_params(net, jax.random.key(1), 1.5, num_inputs=D, num_classes=K)

    def loss(params):
        key = jax.random.key(0)
        outputs = forward(net, params, init_stats(net), jnp.asarray(x, jnp.float32), train=True, key=key)
        return network.cross_entropy(outputs.logits, jnp.asarray(labels))

    wide = tuple(tuple(np.asarray(leaf, np.float64) for leaf in layer) for layer in params)
    return loss, params, Reference(x, labels, bn=request.param), wide


def test_loss_and_gradient_are_the_references(both):
    loss, params, reference, wide = both
    value, gradient = jax.value_and_grad(loss)(params)
    expected, expected_gradient = reference.loss_and_gradient(wide)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    for layer, expected_layer in zip(gradient, expected_gradient, strict=True):
        for got, leaf in zip(layer, expected_layer, strict=True):
            np.testing.assert_allclose(got, leaf, atol=2e-6)


def test_covariate_shift(both):
    loss, params, reference, wide = both
    after = jax.tree.map(lambda w, g: w - 2.0 * g, params, jax.grad(loss)(params))
    found = jax.jit(lambda one, two: covariate_shift(loss, one, two, kernel_of=lambda layer: layer.kernel))(
        params, after
    )
    _, gradient = reference.loss_and_gradient(wide)
    after_wide = moved(wide, gradient, 2.0)
    _, shifted = reference.loss_and_gradient((after_wide[0], wide[1]))  # the layer below has moved
    g, g_shifted = gradient[1][0], shifted[1][0]
    distance = np.linalg.norm(g - g_shifted)
    assert found.distance[1] == pytest.approx(distance, rel=1e-3)
    assert found.relative[1] == pytest.approx(distance / np.linalg.norm(g), rel=1e-3)
    cosine = (g * g_shifted).sum() / np.linalg.norm(g) / np.linalg.norm(g_shifted)
    assert found.cosine[1] == pytest.approx(cosine, rel=1e-4)
    assert float(found.distance[0]) == 0  # nothing lies below the first layer
    assert found.cosine[0] == pytest.approx(1, abs=1e-5)


def test_along_the_gradient(both):
    loss, params, reference, wide = both
    steps = np.array([0.5, 1.0, 4.0])
    line = jax.jit(lambda params: along_gradient(loss, params, jnp.asarray(steps, jnp.float32)))(params)
    start, gradient = reference.loss_and_gradient(wide)
    there = [reference.loss_and_gradient(moved(wide, gradient, step)) for step in steps]
    losses = np.array([value for value, _ in there])
    changes = np.array([norm(moved(gradient, other, 1.0)) for _, other in there])
    np.testing.assert_allclose(line.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(line.change, changes, rtol=1e-3)
    assert line.start == pytest.approx(start, rel=1e-5)
    assert loss_range(line) == pytest.approx(losses.max() - losses.min(), rel=1e-3)
    assert gradient_predictiveness(line) == pytest.approx(changes.max(), rel=1e-3)
    assert effective_smoothness(line) == pytest.approx((changes / (steps * norm(gradient))).max(), rel=1e-3)


def test_a_quadratic_loss_has_its_curvature_as_smoothness():
    line = along_gradient(lambda w: 1.5 * jnp.sum(w**2), jnp.array([1.0, -2.0]), jnp.array([0.1, 0.2]))
    assert effective_smoothness(line) == pytest.approx(3.0, rel=1e-5)


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).normal(size=101)
    np.testing.assert_allclose(
        activation_percentiles(jnp.asarray(values)), np.percentile(values, [15, 50, 85]), rtol=1e-4
    )


def layer(units):
    zeros = jnp.zeros(units)
    return LayerParams(zeros, zeros, jnp.ones(units), zeros), network.Moments(zeros, jnp.ones(units))


@pytest.mark.sample(3)
@pytest.mark.parametrize(("norm", "is_exact"), [("batch", True), ("none", False), ("group", False)])
@pytest.mark.parametrize("a", [0.01, 0.3, 100.0])
def test_only_bn_is_invariant_under_the_scale_of_a_kernel(norm, is_exact, a):
    draw = np.random.default_rng(0)
    kernel, u, weights = (jnp.asarray(draw.normal(size=size), jnp.float32) for size in ((64, 16), (16, 64), (16, 16)))
    mode = network.Mode(train=True, key=jax.random.key(0), epsilon=0.0)
    normalize = lambda x: network.NORMS[norm](x, *layer(16), mode)[0]  # noqa: E731
    found = scale_invariance(normalize, kernel, u, weights, a)
    if is_exact:
        assert max(found) <= 1e-6
    elif norm == "none":
        assert found.output == pytest.approx(abs(a - 1), rel=1e-3)


def test_noise_changes_its_distribution_from_step_to_step():
    """μ ~ U(−½, ½) and σ ~ U(1, 1¼) per unit; what varies within a batch is the jitter alone."""
    zeros = jnp.zeros((4000, 200))
    shift = np.asarray(noisy(zeros, jax.random.key(0)))
    assert np.abs(shift.mean(0)).max() <= 0.52
    assert np.abs(shift.mean(0)).max() > 0.4
    assert shift.std(0).max() < 0.07  # U(−0.1, 0.1) has 0.058
    scale = np.asarray(noisy(zeros + 1, jax.random.key(0))) - shift
    assert 0.99 < scale.mean(0).min() < scale.mean(0).max() < 1.26
    assert scale.std(0) == pytest.approx(0.1, rel=0.1)
    assert np.abs(shift.mean(0) - np.asarray(noisy(zeros, jax.random.key(1))).mean(0)).max() > 0.3


def test_a_step_is_sgd_with_momentum(both):
    loss, params, *_ = both
    del loss
    draw = np.random.default_rng(3)
    velocity = jax.tree.map(jnp.ones_like, params)
    view = View(
        State(params, init_stats(NET), velocity),
        jnp.asarray(draw.normal(size=(B, D)), jnp.float32),
        jnp.asarray(draw.integers(0, K, B)),
        jax.random.key(0),
        jnp.float32(0.5),
        None,
    )
    gradient = jax.grad(lambda w: batch_loss(NET, w, view)[0])(params)
    after, _ = sgd_step(NET, view)
    for got, w, g in zip(*map(jax.tree.leaves, (after.params, params, gradient)), strict=True):
        np.testing.assert_allclose(got, w - 0.5 * (0.9 + g), atol=1e-6)
