"""Computations by jaxlib, and the results they are compared with.

Letters: B batch, H W image, C channels. A check returns pairs (computed, expected) by name; the driver takes the
largest relative difference. To add a check: write the function, and add a row to QUICK or FULL.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from bncli.frameworks.linen import Network, Variables, as_network
from bncli.models.cnn import CNN
from bncli.models.layers import INITIALIZERS
from bncli.ops import BatchNorm, train_conv_general_dilated
from bncli.ops.normalization import batch_normalize
from bncli.process import flags
from bncli.selftest import reference

Pairs = Mapping[str, tuple[ArrayLike, ArrayLike]]  # place -> (computed, expected), two arrays of one shape
Result = TypeVar("Result")  # a pytree of arrays

EPSILON = 1e-5
# A GPU may compute convolutions by transforms that round more (Winograd), and a sound device must not be refused.
ROOM_OFF_CPU = 10.0
# [B, H, W, C]: with enough pixels for oneDNN, if training uses it.
IMAGES_SHAPE = (8, 16, 16, 4)
NUM_FEATURES, NUM_CLASSES = 8, 10
# The outputs of ``layer_step``, in order.
_LAYER_PLACES = (
    *("the output", "the mean", "the variance"),
    *(f"the gradient of {what}" for what in ("the images", "the kernel", "the scale", "the bias")),
)


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: the computation that is checked.
        measure: computes the pairs.
        tolerance: largest relative difference that rounding explains on a CPU, with a margin; jax#39103 is 8e-3.
        only_cpu: True if only XLA's CPU backend can have the fault.
    """

    name: str
    measure: Callable[[], Pairs]
    tolerance: float
    only_cpu: bool = False


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check.

    Attributes:
        name: name of the check.
        difference: largest |computed − expected|, relative to the largest |expected| of that array; None if nothing
            was computed.
        tolerance: largest difference that passes.
        place: the array with the largest difference.
        seconds: time for the check, compilation included.
        error: reason why nothing was computed.
    """

    name: str
    difference: float | None
    tolerance: float
    place: str = ""
    seconds: float = 0.0
    error: str | None = None

    @property
    def passed(self) -> bool:
        """True if the difference is within the tolerance; NaN is not."""
        return self.difference is not None and self.difference <= self.tolerance

    @property
    def finding(self) -> str:
        """The difference with its place, or the error."""
        if self.difference is None:
            return self.error or "nothing was computed"
        return f"off by {self.difference:.2g} in {self.place}, allowed {self.tolerance:.0e}"


def run_check(check: Check) -> Outcome:
    """The outcome of a check; a program that cannot be compiled or run fails it."""
    begin = time.perf_counter()
    tolerance = check.tolerance * (1.0 if jax.default_backend() == "cpu" else ROOM_OFF_CPU)
    try:
        differences = {place: relative_difference(*pair) for place, pair in check.measure().items()}
    except Exception as error:  # whatever jaxlib raises
        message = f"{type(error).__name__}: {error}"
        return Outcome(check.name, None, tolerance, seconds=time.perf_counter() - begin, error=message)
    place = max(differences, key=lambda place: np.nan_to_num(differences[place], nan=np.inf))
    return Outcome(check.name, differences[place], tolerance, place, time.perf_counter() - begin)


def relative_difference(computed: ArrayLike, expected: ArrayLike) -> float:
    """max |computed − expected| / max |expected|, in float64."""
    computed, expected = np.asarray(computed, np.float64), np.asarray(expected, np.float64)
    assert computed.shape == expected.shape, f"{computed.shape} is not {expected.shape}"
    return float(np.max(np.abs(computed - expected)) / max(np.max(np.abs(expected)), np.finfo(np.float32).tiny))


def compiled(step: Callable[..., Result], arguments: Sequence[object]) -> Result:
    """``step(*arguments)``, compiled with the options of a training step on such images."""
    options = flags.step_compiler_options(precision="float32", image_shape=IMAGES_SHAPE[1:])
    # By default a GPU or TPU rounds the factors of a product to fewer bits, which would hide errors.
    with jax.default_matmul_precision(None if jax.default_backend() == "cpu" else "highest"):
        result: Result = flags.compile_step(jax.jit(step), arguments, options)(*arguments)
    return result


def sums_of_squares(rows: jax.Array) -> jax.Array:
    """|I x|² of each row x of ``rows`` [n, 3], as [n]: the program of jax#39103."""
    matrix = jnp.eye(3, dtype=rows.dtype)
    return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)


def check_sums_of_squares(*sizes: int) -> Pairs:
    """For each size n: the rows (i, 0, 0), i < n."""
    pairs = {}
    for n in sizes:
        rows = np.zeros((n, 3), np.float32)
        rows[:, 0] = np.arange(n)
        pairs[f"{n:,} rows"] = (compiled(sums_of_squares, [rows]), np.sum(rows.astype(np.float64) ** 2, axis=1))
    return pairs


def layer_step(
    images: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, gradient: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """(y, mean, var) of a 3×3 convolution with BN in train mode, and the gradients for a given gradient of y.

    Args:
        images: [B, H, W, C].
        kernel: [3, 3, C, O].
        scale: γ, [O].
        bias: β, [O].
        gradient: of y, [B, H, W, O].
    """

    def forward(*arguments: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        images, kernel, scale, bias = arguments
        x = train_conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y, mean, var = batch_normalize(x, scale, bias, None, EPSILON)
        return jnp.sum(y * gradient), (y, mean, var)

    gradients, outputs = jax.grad(forward, argnums=(0, 1, 2, 3), has_aux=True)(images, kernel, scale, bias)
    return outputs, gradients


def check_layer() -> Pairs:
    """A convolution with BN, and all gradients, against NumPy in float64."""
    rng = np.random.default_rng(0)
    images = rng.normal(0.5, 1, IMAGES_SHAPE).astype(np.float32)
    kernel = rng.normal(0, 0.3, (3, 3, IMAGES_SHAPE[-1], NUM_FEATURES)).astype(np.float32)
    scale, bias = rng.uniform(0.5, 2, (2, NUM_FEATURES)).astype(np.float32)
    gradient = rng.normal(0.1, 1, (*IMAGES_SHAPE[:-1], NUM_FEATURES)).astype(np.float32)
    arguments = (images, kernel, scale, bias, gradient)
    outputs, gradients = compiled(layer_step, arguments)
    expected = _layer_reference(*(argument.astype(np.float64) for argument in arguments))
    computed = dict(zip(_LAYER_PLACES, (*outputs, *gradients), strict=True))
    return {place: (computed[place], expected[place]) for place in _LAYER_PLACES}


def _layer_reference(
    images: reference.Array,
    kernel: reference.Array,
    scale: reference.Array,
    bias: reference.Array,
    gradient: reference.Array,
) -> dict[str, reference.Array]:
    """The outputs of ``layer_step``, by place."""
    done = reference.normalize(reference.conv(images, kernel), scale, bias, EPSILON)
    to_x, to_scale, to_bias = reference.normalize_gradients(done, scale, gradient)
    to_images, to_kernel = reference.conv_gradients(images, kernel, to_x)
    values = (done.y, done.mean, done.var, to_images, to_kernel, to_scale, to_bias)
    return dict(zip(_LAYER_PLACES, values, strict=True))


def check_batch_statistics() -> Pairs:
    """BN of 65,536 values per channel, which several threads sum, against NumPy in float64."""
    x = np.random.default_rng(0).normal(1, 2, (64, 32, 32, 8)).astype(np.float32)
    scale, bias = np.linspace(0.5, 2, 8, dtype=np.float32), np.linspace(-1, 1, 8, dtype=np.float32)
    y, mean, var = compiled(lambda x, scale, bias: batch_normalize(x, scale, bias, None, EPSILON), (x, scale, bias))
    done = reference.normalize(x.astype(np.float64), scale, bias, EPSILON)
    return {"the output": (y, done.y), "the mean": (mean, done.mean), "the variance": (var, done.var)}


def check_eval_mode() -> Pairs:
    """The logits of a small ``cnn`` with running statistics: compiled, against one operation at a time."""
    network, variables, images, _ = _small_network()
    return {"the logits": _both_ways(network.logits, variables, images)}


def check_train_mode() -> Pairs:
    """Loss, gradients and new BN statistics of a small ``cnn``: compiled, against one operation at a time."""
    network, variables, images, labels = _small_network()

    def step(
        variables: Variables, images: jax.Array, labels: jax.Array
    ) -> tuple[tuple[jax.Array, Variables], Variables]:
        def loss_fn(params: Variables) -> tuple[jax.Array, Variables]:
            logits, batch_stats = network.train_logits(
                {**variables, "params": params}, images, mask=None, dropout_key=jax.random.key(1)
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), batch_stats

        return jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])

    computed, expected = (_by_place(*result) for result in _both_ways(step, variables, images, labels))
    return {place: (computed[place], expected[place]) for place in expected}


def _by_place(outputs: tuple[jax.Array, Variables], gradients: Variables) -> dict[str, jax.Array]:
    """The outputs of a training step by name, such as "the gradient of Conv_0/kernel"."""
    loss, batch_stats = outputs
    return {"the loss": loss, **_named("the new", batch_stats), **_named("the gradient of", gradients)}


def _named(what: str, tree: Variables) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {f"{what} {jax.tree_util.keystr(path, simple=True, separator='/')}": leaf for path, leaf in leaves}


@functools.cache
def _small_network() -> tuple[Network, Variables, np.ndarray, np.ndarray]:
    """(a ``cnn`` with few channels, variables without zeros and ones, images, labels)."""
    module = CNN(
        num_classes=NUM_CLASSES,
        norm=BatchNorm,
        bn_placement="pre",
        dropout=0.0,  # one operation at a time, its random bits would take six of seven seconds
        kernel_init=INITIALIZERS["he"],
        features=(4, 8),
    )
    network = as_network(module)
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (*IMAGES_SHAPE[:3], 3)).astype(np.float32)
    labels = rng.integers(0, NUM_CLASSES, IMAGES_SHAPE[0], dtype=np.int32)
    variables = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32),
        network.init(jax.random.key(0), images.shape[1:]),
    )
    return network, variables, images, labels


def _both_ways(step: Callable[..., Result], *arguments: object) -> tuple[Result, Result]:
    """``step(*arguments)`` compiled as one program, and run one operation at a time."""
    on_device = jax.device_put(arguments)
    with jax.disable_jit(), jax.default_matmul_precision(None if jax.default_backend() == "cpu" else "highest"):
        expected = step(*on_device)
    return compiled(step, on_device), expected


def check_sums_of_high_rank() -> Pairs:
    """Σ a b over one of 7 or 8 axes, which crashed or hung the process.

    The first two failed in jaxlib 0.10.2 (jax#40412), the third in 0.10.2 and 0.11.0 (jax#39257).
    """
    rng = np.random.default_rng(0)
    pairs = {}
    for shape_a, shape_b, axis in (
        ((3, 1, 2, 2, 8, 8, 8), (3, 1, 2, 2, 8, 8, 8), 3),
        ((1, 3, 2, 2, 8, 8, 8), (1, 3, 2, 2, 8, 8, 8), 3),
        ((2, 4, 6, 1, 1, 1, 1, 1), (2, 4, 6, 9, 9, 9, 9, 9), 2),
    ):
        a, b = rng.normal(size=shape_a).astype(np.float32), rng.normal(size=shape_b).astype(np.float32)
        computed = compiled(lambda a, b, axis=axis: jnp.sum(a * b, axis=axis), (a, b))
        pairs["×".join(map(str, shape_b))] = (computed, np.sum(a.astype(np.float64) * b, axis=axis))
    return pairs


QUICK = (
    Check("sums of squares (jax#39103)", lambda: check_sums_of_squares(32_769), 1e-5),
    Check("convolution and BN with gradients, against float64", check_layer, 1e-4),
)
FULL = (
    Check("sums of squares (jax#39103)", lambda: check_sums_of_squares(1_000, 16_385, 32_769, 65_537, 100_003), 1e-5),
    Check("sums of high rank (jax#40412, jax#39257)", check_sums_of_high_rank, 1e-5, only_cpu=True),
    QUICK[1],
    Check("BN statistics of a large batch, against float64", check_batch_statistics, 1e-4),
    Check("cnn in eval mode, against op by op", check_eval_mode, 1e-4),
    Check("cnn in train mode, against op by op", check_train_mode, 1e-3),
)
