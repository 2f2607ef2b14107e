"""Random small networks: whatever the folder does to them, they compute the same."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from folding.oracle import check_fold, conv, dense, inputs, make_norm, norm

CHANNELS = st.sampled_from([1, 2, 4])
ACTIVATIONS = {
    "relu": lambda x: jnp.maximum(x, 0.0),
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "swish": jax.nn.swish,
}


@dataclass
class Network:
    """A network being drawn: its variables, and its steps, each `(variables, values) -> value`."""

    variables: dict = field(default_factory=lambda: {"params": {}, "batch_stats": {}})
    steps: list = field(default_factory=list)
    shapes: list = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, step, *, source: int = -1) -> None:
        """Append a step that reads one earlier value, the latest by default."""
        self.append(lambda v, values: step(v, values[source]))

    def append(self, step) -> None:
        self.steps.append(step)
        with jax.enable_x64(True):
            values = [jax.ShapeDtypeStruct(shape, np.float64) for shape in self.shapes]
            self.shapes.append(jax.eval_shape(step, self.variables, values).shape)

    @property
    def shape(self):
        return self.shapes[-1]

    def values(self, v, x):
        values = [x]
        for step in self.steps:
            values.append(step(v, values))
        return values

    def kernel(self, *shape: int, bias: bool) -> str:
        name = f"layer_{len(self.variables['params'])}"
        self.variables["params"][name] = {"kernel": self.rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))}
        if bias:
            self.variables["params"][name]["bias"] = self.rng.normal(size=shape[-1])
        return name


def draw_norm(draw, net: Network) -> None:
    name = f"bn_{len(net.variables['batch_stats'])}"
    params, stats = make_norm(net.rng, net.shape[-1])
    if draw(st.booleans()):
        params["scale"] = np.abs(params["scale"])
    net.variables["params"][name], net.variables["batch_stats"][name] = params, stats
    net.add(lambda v, x: norm(v, name, x))


def draw_conv(draw, net: Network) -> None:
    _, height, width, channels = net.shape
    groups = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0]))
    features = groups * draw(st.sampled_from([1, 2]))
    window = draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))
    padding = draw(st.sampled_from(["SAME", "VALID", ((1, 0), (0, 2)), ((1, 1), (1, 1))]))
    strides = draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    dilation = draw(st.sampled_from([1, 1, 2])) if padding == "SAME" else 1
    lhs_dilation = draw(st.sampled_from([1, 1, 2])) if isinstance(padding, tuple) else 1
    name = net.kernel(*window, channels // groups, features, bias=draw(st.booleans()))
    net.add(
        lambda v, x: conv(
            v,
            name,
            x,
            padding=padding,
            strides=strides,
            rhs_dilation=(dilation, dilation),
            lhs_dilation=(lhs_dilation, lhs_dilation),
            feature_group_count=groups,
        )
    )


def draw_activation(draw, net: Network) -> None:
    function = ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]
    net.add(lambda v, x: function(x))


def draw_max_pool(draw, net: Network) -> None:
    _, height, width, _ = net.shape
    if height % 2 == 0 and width % 2 == 0 and draw(st.booleans()):
        net.add(lambda v, x: x.reshape(x.shape[0], height // 2, 2, width // 2, 2, x.shape[3]).max(axis=(2, 4)))
        return
    window = (1, min(2, height), min(3, width), 1)
    strides, padding = draw(st.sampled_from([(1, 1, 1, 1), (1, 2, 1, 1)])), draw(st.sampled_from(["SAME", "VALID"]))
    net.add(lambda v, x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding))


def draw_average_pool(draw, net: Network) -> None:
    _, height, width, _ = net.shape
    window = (1, min(2, height), min(3, width), 1)
    strides, padding = draw(st.sampled_from([(1, 1, 1, 1), (1, 2, 1, 1)])), draw(st.sampled_from(["SAME", "VALID"]))
    counted = draw(st.booleans())

    def pool(v, x):
        total = lax.reduce_window(x, 0.0, lax.add, window, strides, padding)
        ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        counts = lax.reduce_window(ones, 0.0, lax.add, window, strides, padding)
        return total / (counts if counted else window[1] * window[2])

    net.add(pool)


def draw_layout(draw, net: Network) -> None:
    options = {
        "circular": lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)), mode="wrap"),
        "crop": lambda x: x[:, 1:] if x.shape[1] > 1 else x,
        "flip": lambda x: x[:, ::-1],
        "half the channels": lambda x: x[..., : max(1, x.shape[-1] // 2)],
        "pad": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))),
        "pad channels": lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1))),
        "pad with two": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)), constant_values=2.0),
        "reflect": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), mode="symmetric"),
        "shuffle": lambda x: x.reshape(*x.shape[:3], 1, -1).swapaxes(3, 4).reshape(x.shape),
        "stretch": lambda x: jnp.broadcast_to(x[:, :, None], (*x.shape[:2], 2, *x.shape[2:])).reshape(
            x.shape[0], -1, *x.shape[2:]
        ),
        "there and back": lambda x: x.transpose(0, 3, 1, 2)[:, :, ::-1].transpose(0, 2, 3, 1),
        "transpose": lambda x: x.transpose(0, 2, 1, 3),
    }
    function = options[draw(st.sampled_from(sorted(options)))]
    net.add(lambda v, x: function(x))


def draw_known(draw, net: Network) -> None:
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    per_channel, mask = rng.normal(size=net.shape[-1]), rng.normal(size=(*net.shape[1:3], 1))
    options = {
        "add": lambda x: x + per_channel.astype(x.dtype),
        "divide": lambda x: x / 3.0,
        "mask": lambda x: x * mask.astype(x.dtype),
        "multiply": lambda x: x * per_channel.astype(x.dtype),
        "negate": lambda x: -x,
        "position": lambda x: x + mask.astype(x.dtype),
        "subtract from": lambda x: 1.0 - x,
    }
    function = options[draw(st.sampled_from(sorted(options)))]
    net.add(lambda v, x: function(x))


def draw_split(draw, net: Network) -> None:
    if net.shape[-1] < 2:
        return
    order = draw(st.permutations([0, 1]))
    net.add(lambda v, x: jnp.concatenate([jnp.split(x, [1], axis=-1)[i] for i in order], axis=-1))


def draw_join(draw, net: Network) -> None:
    """Read an earlier value again: add it, subtract it, gate with it, put it alongside."""
    here = len(net.shapes) - 1
    same = [i for i in range(here) if net.shapes[i] == net.shape]
    alike = [i for i in range(here) if len(net.shapes[i]) == 4 and net.shapes[i][:3] == net.shape[:3]]
    kinds = (["add", "subtract", "gate"] if same else []) + (["concatenate", "before"] if alike else [])
    if not kinds:
        return
    kind = draw(st.sampled_from(kinds))
    other = draw(st.sampled_from(same if kind in ("add", "subtract", "gate") else alike))
    functions = {
        "add": lambda a, b: a + b,
        "before": lambda a, b: jnp.concatenate([b, a], axis=-1),
        "concatenate": lambda a, b: jnp.concatenate([a, b], axis=-1),
        "gate": lambda a, b: a * jax.nn.sigmoid(b),
        "subtract": lambda a, b: a - b,
    }
    net.append(lambda v, values: functions[kind](values[-1], values[other]))


def draw_head(draw, net: Network) -> None:
    """From feature maps to vectors, and a BN or two among dense layers."""
    flatten = draw(st.sampled_from(["flatten", "mean", "max", "conv"]))
    if flatten == "conv":
        draw_conv(draw, net)
        return
    functions = {
        "flatten": lambda x: x.reshape(x.shape[0], -1),
        "max": lambda x: x.max(axis=(1, 2)),
        "mean": lambda x: x.mean(axis=(1, 2)),
    }
    net.add(lambda v, x: functions[flatten](x))
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            draw_norm(draw, net)
        name = net.kernel(net.shape[-1], draw(st.sampled_from([2, 3])), bias=draw(st.booleans()))
        net.add(lambda v, x, name=name: dense(v, name, x))


PARTS = {
    "activation": draw_activation,
    "average pool": draw_average_pool,
    "conv": draw_conv,
    "join": draw_join,
    "known": draw_known,
    "layout": draw_layout,
    "max pool": draw_max_pool,
    "norm": draw_norm,
    "split": draw_split,
}
# BN and convolutions are drawn more often than the rest: what is to be folded, and what it is folded into.
CHOICES = [*PARTS, "norm", "norm", "conv", "conv", "conv"]


@st.composite
def networks(draw) -> Network:
    net = Network(rng=np.random.default_rng(draw(st.integers(0, 2**16))))
    net.shapes.append((2, draw(st.integers(3, 5)), draw(st.integers(3, 4)), draw(CHANNELS)))
    parts = draw(st.lists(st.sampled_from(CHOICES), min_size=2, max_size=6))
    for part in parts if "norm" in parts else [*parts, "norm"]:
        PARTS[part](draw, net)
    draw_head(draw, net)
    return net


def check_network(net: Network, *, all_values: bool) -> None:
    """Fold it, with its last value as output or with every value that nothing else would reveal."""

    def apply(v, x):
        return net.values(v, x)[-1] if not all_values else net.values(v, x)[len(net.steps) // 2 :: 2]

    check_fold(apply, net.variables, inputs(*net.shapes[0]), kept=None, again=False, compiled=False)


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.booleans())
def test_a_folded_random_network_computes_the_same(net, all_values):
    check_network(net, all_values=all_values)


@pytest.mark.broad
@settings(max_examples=250, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.booleans())
def test_more_folded_random_networks_compute_the_same(net, all_values):
    check_network(net, all_values=all_values)


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("BNCLI_EXAMPLES", "5000")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(networks(), st.booleans())
def test_many_folded_random_networks_compute_the_same(net, all_values):
    check_network(net, all_values=all_values)
