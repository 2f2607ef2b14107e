"""Training of many small networks at once: one program, whose lanes differ in learning rate, gain and dropout.

A ``Run`` is a network, a seed and its lanes. All lanes see the same batches and start from the same numbers, times
their gain. What a run returns is a pure function of its settings and the data.

Letters: L lanes, P points in time, B batch, D pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bncli.studies.data import Examples, StudyData, normalized
from bncli.studies.network import Net, Params, Stats, cross_entropy, forward, init_params, init_stats

# SGD with momentum (Polyak), without weight decay, at a constant learning rate: as little as possible besides BN.
MOMENTUM = 0.9

Measured: TypeAlias = Mapping[str, np.ndarray]  # name -> float64 [P, L, …] or [L, …]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """The settings that are arguments of the program.

    Attributes:
        learning_rate: of every step.
        gain: factor of the initial kernels.
        dropout: rate.
    """

    learning_rate: float
    gain: float = 1.0
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """Some trainings that share network, seed and batches.

    Attributes:
        net: the network.
        lanes: one training each.
        seed: of initial kernels, batches, dropout and noise.
        batch_size: examples in a step.
        steps: length.
        points: measurements on the way, at equal distances; divides ``steps``.
    """

    net: Net
    lanes: tuple[Lane, ...]
    seed: int
    batch_size: int = 64
    steps: int = 400
    points: int = 10


class State(NamedTuple):
    """The state of a training; in the programs, each array has an axis of lanes in front."""

    params: Params
    stats: Stats
    velocity: Params


class View(NamedTuple):
    """The input of a probe: the state before a step, and the batch of that step."""

    state: State
    x: jax.Array  # float32 [B, D]
    labels: jax.Array  # int32 [B]
    key: jax.Array
    learning_rate: jax.Array
    dropout: jax.Array | None


# Measures something at one lane before a step: (net, view) -> name -> array.
Probe: TypeAlias = Callable[[Net, View], Mapping[str, jax.Array]]


def batch_loss(net: Net, params: Params, view: View) -> tuple[jax.Array, Stats]:
    """(the training loss of the view's batch with these weights [], the new running statistics)."""
    outputs = forward(net, params, view.state.stats, view.x, train=True, key=view.key, dropout=view.dropout)
    return cross_entropy(outputs.logits, view.labels), outputs.stats


def sgd_step(net: Net, view: View) -> tuple[State, jax.Array]:
    """(the state after the step, the loss before it)."""
    gradient_of = jax.value_and_grad(lambda params: batch_loss(net, params, view), has_aux=True)
    (loss, stats), grads = gradient_of(view.state.params)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, view.state.velocity, grads)
    params = jax.tree.map(lambda w, v: w - view.learning_rate * v, view.state.params, velocity)
    return State(params, stats, velocity), loss


def train(run: Run, data: StudyData, probe: Probe | None = None) -> Measured:
    """Train all lanes and measure them at P points; see ``train_to_end``."""
    return train_to_end(run, data, probe)[0]


def train_to_end(run: Run, data: StudyData, probe: Probe | None = None) -> tuple[Measured, State]:
    """Train all lanes and measure them at P points.

    Args:
        run: the settings.
        data: the examples.
        probe: measured before the first step after each point but the last, beginning with step 0.

    Returns:
        The measurements and the last state. Measured are ``steps`` [P]; loss and accuracy on each split, such as
        ``train_loss`` and ``test_accuracy``, [P, L]; ``diverged`` [L], 1 where the weights are not finite at the end;
        and the probe's arrays, [P, L, …]. A lane that has diverged has the accuracy of guessing, and no loss.
    """
    programs = _programs(run.net, data.num_inputs, data.num_classes, any(lane.dropout for lane in run.lanes))
    lanes = _lane_arrays(run)
    key = jax.random.key(run.seed)
    state = programs.init(jax.random.fold_in(key, 0), lanes.gain)
    every = run.steps // run.points
    batches = batch_indices(run, len(data.train.labels)).reshape(run.points, every, run.batch_size)
    step_key = jax.random.fold_in(key, 1)
    rows: list[Mapping[str, np.ndarray]] = []
    for point, indices in enumerate(batches):
        probed: Mapping[str, jax.Array] = {}
        course = _Course(data.train, data.offset, data.factor, jnp.asarray(indices), step_key, point * every)
        if probe is not None:
            probed = _probing(run.net, probe)(state, course, lanes)
        state = programs.advance(state, course, lanes)
        rows.append({**_scores(programs, state, data), **{name: np.asarray(value) for name, value in probed.items()}})
    measured = {name: np.stack([row[name] for row in rows]).astype(np.float64) for name in rows[0]}
    steps = every * np.arange(1, run.points + 1, dtype=np.float64)
    return {"steps": steps, **measured, "diverged": 1.0 - _finite_lanes(state)}, state


def batch_indices(run: Run, num_examples: int) -> np.ndarray:
    """The examples of all steps, int32 [steps, B]: one permutation of the training images after the other."""
    needed = run.steps * run.batch_size
    draw = np.random.default_rng([run.seed, 1])
    orders = [draw.permutation(num_examples) for _ in range(-(-needed // num_examples))]
    order: np.ndarray = np.concatenate(orders)[:needed].astype(np.int32).reshape(run.steps, run.batch_size)
    return order


class _Course(NamedTuple):
    """The steps of one stretch, the same for all lanes."""

    train: Examples
    offset: jax.Array
    factor: jax.Array
    indices: jax.Array  # int32 [steps, B]
    key: jax.Array
    first: int | jax.Array  # number of the first step


class _Lanes(NamedTuple):
    """The settings of the lanes, each [L]."""

    learning_rate: jax.Array
    gain: jax.Array
    dropout: jax.Array | None


class _Programs(NamedTuple):
    """The compiled functions of a network."""

    init: Callable[[jax.Array, jax.Array], State]
    advance: Callable[[State, _Course, _Lanes], State]
    score: Callable[..., tuple[jax.Array, jax.Array]]


@lru_cache(maxsize=64)
def _programs(net: Net, num_inputs: int, num_classes: int, with_dropout: bool) -> _Programs:
    def init(key: jax.Array, gain: jax.Array) -> State:
        params = init_params(net, key, gain, num_inputs=num_inputs, num_classes=num_classes)
        return State(params, init_stats(net), jax.tree.map(jnp.zeros_like, params))

    @jax.jit
    def advance(state: State, course: _Course, lanes: _Lanes) -> State:
        def body(state: State, step: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
            stepped: State = jax.vmap(lambda one, lane: sgd_step(net, _view(one, course, *step, lane))[0])(state, lanes)
            return stepped, None

        numbers = course.first + jnp.arange(len(course.indices))
        return jax.lax.scan(body, state, (numbers, course.indices))[0]

    @jax.jit
    def score(state: State, examples: Examples, offset: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = normalized(examples.images, offset, factor)

        def one(state: State) -> tuple[jax.Array, jax.Array]:
            logits = forward(net, state.params, state.stats, x, train=False, key=jax.random.key(0)).logits
            hits = jnp.argmax(logits, axis=-1) == examples.labels
            return cross_entropy(logits, examples.labels), jnp.mean(hits.astype(jnp.float32))

        return jax.vmap(one)(state)

    return _Programs(jax.jit(jax.vmap(init, in_axes=(None, 0))), advance, score)


@lru_cache(maxsize=64)
def _probing(net: Net, probe: Probe) -> Callable[..., Mapping[str, jax.Array]]:
    @jax.jit
    def measure(state: State, course: _Course, lanes: _Lanes) -> Mapping[str, jax.Array]:
        def one(state: State, lane: _Lanes) -> Mapping[str, jax.Array]:
            return probe(net, _view(state, course, jnp.asarray(course.first), course.indices[0], lane))

        return jax.vmap(one)(state, lanes)

    return measure


def _view(state: State, course: _Course, number: jax.Array, chosen: jax.Array, lane: _Lanes) -> View:
    """The view of a lane before the step of this number, on the examples chosen for it."""
    x = normalized(course.train.images[chosen], course.offset, course.factor)
    key = jax.random.fold_in(course.key, number)
    return View(state, x, course.train.labels[chosen], key, lane.learning_rate, lane.dropout)


def _lane_arrays(run: Run) -> _Lanes:
    def column(name: str) -> jax.Array:
        return jnp.asarray([getattr(lane, name) for lane in run.lanes], jnp.float32)

    dropout = column("dropout") if any(lane.dropout for lane in run.lanes) else None
    return _Lanes(column("learning_rate"), column("gain"), dropout)


def _scores(programs: _Programs, state: State, data: StudyData) -> dict[str, np.ndarray]:
    """Loss and accuracy of each lane on each split."""
    finite = _finite_lanes(state) > 0
    found: dict[str, np.ndarray] = {}
    for name, examples in (("train", data.train_scored), ("val", data.val), ("test", data.test)):
        scores = programs.score(state, examples, data.offset, data.factor)
        loss, accuracy = (np.asarray(score, np.float64) for score in scores)
        found[f"{name}_loss"] = np.where(finite, loss, np.nan)
        found[f"{name}_accuracy"] = np.where(finite, accuracy, data.chance)
    return found


def _finite_lanes(state: State) -> np.ndarray:
    """1 for each lane whose weights and statistics are all finite, float64 [L]."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.stats))]
    finite: np.ndarray = np.all([np.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim))) for leaf in leaves], axis=0)
    return finite.astype(np.float64)
