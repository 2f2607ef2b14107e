"""Laws of schedules and optimizers: where the rate starts, peaks and ends, and what is decayed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.config.settings import OptimizerConfig
from bncli.frameworks.network import CHANNELS_LAST, KernelAxes
from bncli.training.optimizer import (
    MAX_WARMUP_SHARE,
    TRIANGLE_END,
    TRIANGLE_START,
    TRIANGLE_TOP,
    UpdateNumbers,
    create_learning_rate_fn,
    create_optimizer,
    decayed,
)

PEAK = 0.4
NUM_STEPS = 256
STEPS = np.arange(NUM_STEPS)


def rates(schedule, *, steps_per_epoch=10, epochs=10, **changes):
    """The learning rate of the first 256 steps."""
    config = OptimizerConfig(schedule=schedule, learning_rate=PEAK, **changes)
    return create_learning_rate_fn(config, steps_per_epoch=steps_per_epoch, epochs=epochs)(STEPS)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "step", "triangular"])
@settings(max_examples=15, deadline=None)
@given(
    steps_per_epoch=st.integers(1, 20), epochs=st.integers(1, 10), warmup=st.sampled_from([0.0, 0.3, 1.0, 2.0, 100.0])
)
def test_the_rate_is_finite_and_never_above_the_peak(schedule, steps_per_epoch, epochs, warmup):
    values = rates(schedule, steps_per_epoch=steps_per_epoch, epochs=epochs, warmup_epochs=warmup)
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= PEAK * (1 + 1e-6)
    total = max(steps_per_epoch * epochs, 2)  # a cycle goes up and down
    assert values[:total].max() > 0
    np.testing.assert_allclose(values[total:], values[total], atol=1e-7)  # an ended schedule stays where it is


OPTAX = {  # from (peak, length) to the schedule without its warm-up
    "constant": lambda peak, length: optax.constant_schedule(peak),
    "cosine": optax.cosine_decay_schedule,
    "one-cycle": lambda peak, length: optax.cosine_onecycle_schedule(max(length, 2), peak),
    "step": lambda peak, length: optax.piecewise_constant_schedule(
        peak, {int(0.5 * length): 0.1, int(0.75 * length): 0.1}
    ),
    "triangular": lambda peak, length: optax.join_schedules(
        [
            optax.linear_schedule(TRIANGLE_START * peak, peak, round(TRIANGLE_TOP * length)),
            optax.linear_schedule(peak, TRIANGLE_END * peak, length - round(TRIANGLE_TOP * length)),
        ],
        [round(TRIANGLE_TOP * length)],
    ),
}


@pytest.mark.optimised
@pytest.mark.parametrize("schedule", OPTAX)
def test_the_rates_are_those_of_optax_in_a_program(schedule):
    """To the bit, so that trainings of earlier versions, which computed them there, are repeated.

    The XLA of Python 3.11 computes another cosine, by the last bit of the highest rate.
    """
    values = rates(schedule, warmup_epochs=0.0)
    expected = np.asarray(jax.jit(jax.vmap(OPTAX[schedule](PEAK, 100)))(STEPS))
    last_bit = 0 if jax.__version_info__ >= (0, 12) else 2 * np.spacing(np.float32(PEAK))
    np.testing.assert_allclose(values, expected, rtol=0, atol=last_bit)


@pytest.mark.optimised
def test_the_warm_up_is_that_of_optax_in_a_program():
    values = rates("constant", warmup_epochs=2.3)
    np.testing.assert_array_equal(values, np.asarray(jax.jit(jax.vmap(optax.linear_schedule(0.0, PEAK, 23)))(STEPS)))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warm_up_rises_in_a_line_to_the_peak_and_then_the_rate_never_rises(schedule):
    values = rates(schedule, warmup_epochs=2.0)
    np.testing.assert_allclose(values[:21], PEAK * np.arange(21) / 20, rtol=1e-5)
    assert (np.diff(values[20:]) <= 1e-7).all()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_without_warm_up_it_starts_at_the_peak(schedule):
    assert rates(schedule, warmup_epochs=0.0)[0] == pytest.approx(PEAK)


def test_warm_up_takes_a_quarter_at_most():
    values = rates("constant", warmup_epochs=50.0)
    assert int(np.argmax(values)) == MAX_WARMUP_SHARE * 100


def test_cosine_is_half_a_cosine_from_the_peak_to_nothing():
    values = rates("cosine", warmup_epochs=2.0)
    expected = PEAK * (1 + np.cos(np.pi * np.arange(81) / 80)) / 2
    np.testing.assert_allclose(values[20:101], expected, atol=1e-6)


def test_step_falls_tenfold_at_half_and_at_three_quarters():
    values = rates("step", warmup_epochs=1.0)
    for step, factor in ((10, 1), (49, 1), (51, 0.1), (74, 0.1), (76, 0.01), (200, 0.01)):
        assert values[step] == pytest.approx(PEAK * factor, rel=1e-5), step


def test_one_cycle_rises_for_three_tenths_and_falls_to_the_end():
    values = rates("one-cycle", warmup_epochs=9.0)  # it has its own rise
    assert int(np.argmax(values)) == 30
    assert values[30] == pytest.approx(PEAK)
    assert (np.diff(values[:31]) >= 0).all()
    assert (np.diff(values[30:]) <= 1e-7).all()
    assert values[0] < 0.1 * PEAK
    assert values[100] < 1e-3 * PEAK


def test_triangular_rises_in_a_line_to_the_peak_and_falls_in_a_line():
    values = rates("triangular", warmup_epochs=9.0)  # it has its own rise
    expected = PEAK * np.interp(np.arange(NUM_STEPS), [0, 23, 100], [0.2, 1.0, 0.07])
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "step", "triangular"])
def test_a_fixed_length_makes_the_rate_independent_of_the_epochs(schedule):
    np.testing.assert_array_equal(
        rates(schedule, epochs=2, schedule_epochs=6), rates(schedule, epochs=6, schedule_epochs=6)
    )
    assert (rates(schedule, epochs=2)[:60] != rates(schedule, epochs=6)[:60]).any()


@pytest.mark.parametrize(("name", "expected"), [("sgd", 0.05), ("adamw", 1e-3), ("muon", 0.02)])
def test_each_optimizer_has_its_own_peak_unless_one_is_given(name, expected):
    assert OptimizerConfig(name=name).peak_learning_rate == expected
    assert OptimizerConfig(name=name, learning_rate=0.5).peak_learning_rate == 0.5


PARAMS = {
    "conv": {"kernel": jnp.full((3, 3, 1, 2), 2.0), "bias": jnp.full((2,), 2.0)},
    "norm": {"scale": jnp.full((2,), 2.0), "bias": jnp.full((2,), 2.0)},
}


def update(grads, *, params=PARAMS, steps=1, **changes):
    """The last update, after ``steps`` steps with the same gradient at a constant rate of 0.5."""
    config = OptimizerConfig(**changes)
    optimizer = create_optimizer(config, UpdateNumbers(0.5, weight_decay=config.weight_decay))
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
    return updates


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_all", [False, True])
def test_weight_decay_shrinks_kernels_and_leaves_biases_and_scales_alone_unless_asked(name, decay_all):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates = update(zero, name=name, momentum=0.0, weight_decay=0.1, decay_all=decay_all)
    decay = -0.5 * 0.1 * 2.0
    np.testing.assert_allclose(updates["conv"]["kernel"], decay, rtol=1e-6)
    for leaf in (updates["conv"]["bias"], updates["norm"]["scale"], updates["norm"]["bias"]):
        np.testing.assert_allclose(leaf, decay if decay_all else 0.0, rtol=1e-6)


def test_scales_and_biases_are_not_decayed_whatever_axes_of_length_one_their_framework_gives_them():
    params = {
        "haiku": {"scale": np.ones((1, 1, 1, 4)), "bias": np.ones((1, 1, 1, 4)), "w": np.ones((1, 1, 1, 4))},
        "equinox": {"weight": np.ones((4, 1, 3, 3)), "bias": np.ones((4, 1, 1))},
    }
    assert decayed(params) == {
        "haiku": {"scale": False, "bias": False, "w": True},
        "equinox": {"weight": True, "bias": False},
    }


def test_what_is_decayed_has_more_than_one_axis():
    assert decayed(PARAMS) == {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False}}
    assert decayed({"activation": {"slope": jnp.ones(3)}}) == {"activation": {"slope": False}}


def test_sgd_is_nesterov():
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates = update(grads, steps=2, momentum=0.9, weight_decay=0.0)
    # m₁ = 1, m₂ = 1 + 0.9; the update is lr · (g + 0.9 m₂) (Sutskever et al. 2013).
    np.testing.assert_allclose(updates["norm"]["bias"], -0.5 * (1 + 0.9 * 1.9), rtol=1e-6)


@pytest.mark.parametrize(("size", "expected"), [(100.0, 2.0), (1e-3, None)])
def test_clipping_bounds_the_global_norm_and_keeps_what_is_below(size, expected):
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, size), PARAMS)
    updates = update(grads, momentum=0.0, weight_decay=0.0, clip_norm=2.0)
    plain = update(grads, momentum=0.0, weight_decay=0.0)
    norm, plain_norm = (
        float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))) for tree in (updates, plain)
    )
    assert norm == pytest.approx(plain_norm if expected is None else 0.5 * expected, rel=1e-5)


def test_sgd_clips_the_gradient_before_it_adds_the_decay():
    """The decay is not part of the loss, so its size neither uses up the norm nor is cut by it."""
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 100.0), PARAMS)
    settings = {"momentum": 0.0, "weight_decay": 0.1, "clip_norm": 2.0}
    clipped = 2.0 / np.sqrt(sum(leaf.size for leaf in jax.tree.leaves(PARAMS)))
    updates = update(grads, **settings)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.5 * (clipped + 0.1 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(updates["conv"]["bias"], -0.5 * clipped, rtol=1e-5)
    large = jax.tree.map(lambda leaf: 1000 * leaf, PARAMS)
    np.testing.assert_allclose(
        update(grads, params=large, **settings)["conv"]["kernel"], -0.5 * (clipped + 0.1 * 2000.0), rtol=1e-5
    )


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_adamw_is_its_formula(clip_norm):
    """Loshchilov & Hutter 2017, arXiv 1711.05101, algorithm 2, with β₁ = 0.9, β₂ = 0.999 and ε = 1e-8."""
    rate, decay, kernel = 0.5, 0.1, np.array([[2.0, -1.0]])
    optimizer = create_optimizer(
        OptimizerConfig(name="adamw", clip_norm=clip_norm), UpdateNumbers(rate, weight_decay=decay)
    )
    params = {"kernel": jnp.asarray(kernel, jnp.float32)}
    state = optimizer.init(params)
    first, second = np.zeros_like(kernel), np.zeros_like(kernel)
    for step, grad in enumerate(([[3.0, -4.0]], [[0.1, 0.2]], [[-1.0, 5.0]]), start=1):
        updates, state = optimizer.update({"kernel": jnp.asarray(grad, jnp.float32)}, state, params)
        g = np.array(grad) / max(1.0, np.linalg.norm(grad) / (clip_norm or np.inf))
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        step_size = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(updates["kernel"], -rate * (step_size + decay * kernel), rtol=1e-4)


# Muon.

AXES = [CHANNELS_LAST, KernelAxes(inputs=1, outputs=0)]


def muon_update(grads, params, axes, *, steps=1, **changes):
    config = OptimizerConfig(name="muon", **changes)
    optimizer = create_optimizer(config, UpdateNumbers(0.5, weight_decay=config.weight_decay), axes)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
    return updates


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("filters", [4, 40])
def test_muon_makes_the_filters_of_a_convolution_orthogonal_whatever_the_gradients_size(axes, filters):
    """Its iterations bring each singular value near 1 (Jordan et al. 2024); those of a random matrix are not far."""
    gradient = np.random.default_rng(0).normal(size=(3, 3, 2, filters))
    gradient = gradient if axes.outputs == -1 else gradient.transpose(3, 2, 0, 1)
    params = {"kernel": jnp.zeros(gradient.shape)}
    small, large = (
        muon_update({"kernel": jnp.asarray(size * gradient, jnp.float32)}, params, axes)["kernel"]
        for size in (1e-3, 1e3)
    )
    np.testing.assert_allclose(small, large, rtol=1e-3, atol=1e-5)
    matrix = np.moveaxis(np.asarray(small), axes.outputs, -1).reshape(18, filters)
    values = np.linalg.svd(matrix / 0.5, compute_uv=False)
    assert values.max() < 1.3
    assert values.min() > 0.4
    along = np.moveaxis(gradient, axes.outputs, -1).reshape(18, filters)
    assert np.sum(matrix * along) < 0  # against the gradient


def test_muon_turns_the_momentum_not_the_gradient():
    """Nesterov: of the same gradient twice the direction is that of one; a new gradient bends it by 1 - β."""
    first, second = (jnp.asarray(np.random.default_rng(seed).normal(size=(3, 3, 2, 4)), jnp.float32) for seed in (0, 1))
    params, axes = {"kernel": jnp.zeros((3, 3, 2, 4))}, CHANNELS_LAST
    once = muon_update({"kernel": first}, params, axes)["kernel"]
    np.testing.assert_allclose(muon_update({"kernel": first}, params, axes, steps=3)["kernel"], once, atol=1e-4)
    config = OptimizerConfig(name="muon", momentum=0.5, weight_decay=0.0)
    optimizer = create_optimizer(config, UpdateNumbers(0.5), axes)
    _, state = optimizer.update({"kernel": first}, optimizer.init(params), params)
    found, _ = optimizer.update({"kernel": second}, state, params)
    # m₂ = (β m₁ + (1 - β) g₂) with m₁ = (1 - β) g₁; unbiased, then Nesterov's step onwards.
    average = 0.25 * first + 0.5 * second
    ahead = 0.5 * average / (1 - 0.5**3) + 0.5 * second / (1 - 0.5**2)
    np.testing.assert_allclose(found["kernel"], muon_update({"kernel": ahead}, params, axes)["kernel"], atol=1e-4)


@pytest.mark.parametrize("axes", AXES)
def test_muon_leaves_dense_layers_biases_norms_and_depthwise_filters_to_adam_at_a_tenth_of_the_rate(axes):
    depthwise = (3, 3, 1, 4) if axes.outputs == -1 else (4, 1, 3, 3)
    params = {
        "dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
        "depthwise": {"kernel": jnp.ones(depthwise)},
        "norm": {"scale": jnp.ones((1, 1, 1, 4)), "bias": jnp.ones((4, 1, 1))},
    }
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), params)
    found = muon_update(grads, params, axes, weight_decay=0.0)
    for leaf in jax.tree.leaves(found):  # Adam's first step is its rate
        np.testing.assert_allclose(leaf, -0.05, rtol=1e-5)
    decay = muon_update(jax.tree.map(jnp.zeros_like, params), params, axes, weight_decay=0.4)
    np.testing.assert_allclose(decay["dense"]["kernel"], -0.02, rtol=1e-6)
    assert not np.any(decay["dense"]["bias"])
    assert not np.any(decay["norm"]["scale"])


def test_the_decay_of_muon_is_outside_its_direction():
    params = {"kernel": jnp.full((3, 3, 2, 4), 2.0)}
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 4)), jnp.float32)
    plain, decayed_too = (
        muon_update({"kernel": gradient}, params, CHANNELS_LAST, weight_decay=decay)["kernel"] for decay in (0.0, 0.1)
    )
    np.testing.assert_allclose(decayed_too - plain, -0.5 * 0.1 * 2.0, rtol=1e-4)
