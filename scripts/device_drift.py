#!/usr/bin/env python3
"""The distance between trainings on 1 and on several devices, step by step, beside that of one changed rounding.

::

    devices   the same training of `cnn` on 2, 4 and 8 simulated devices, whose sums round in another order
    ulp       on one device, one weight of the first kernel moved by one ulp before the first step

Both in float32 and in float64. A fault of the parallel step would be as large in float64. A rounding is 2^29 times
smaller there, and so is what it grows to until it saturates. Prints a JSON document, ``bncli.device-drift/1``: relative
differences of the loss from the training on one device, after each step.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bncli.data import load_dataset
from bncli.data.batches import epoch_batch, epoch_order, steps_per_epoch
from bncli.models.cnn import CNN
from bncli.models.layers import INITIALIZERS
from bncli.ops.normalization import BatchNorm

DEVICES = (2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128])
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(DEVICES)}"  # read at JAX's first use
    jax.config.update("jax_enable_x64", True)
    document: dict[str, object] = {"schema": "bncli.device-drift/1", **vars(arguments), "jax": jax.__version__}
    for dtype in ("float32", "float64"):
        run = partial(losses, arguments, jnp.dtype(dtype))
        alone = run(devices=1)
        rows = {f"{devices} devices": run(devices=devices) for devices in DEVICES} | {"1 ulp": run(devices=1, ulps=1)}
        document[dtype] = {name: differences(alone, row) for name, row in rows.items()}
    print(json.dumps(document))


def differences(one: list[float], other: list[float]) -> list[float]:
    """The relative difference of each step's loss."""
    return [abs(a - b) / abs(a) for a, b in zip(one, other, strict=True)]


def losses(arguments: argparse.Namespace, dtype: np.dtype, *, devices: int, ulps: int = 0) -> list[float]:
    """The loss of each step of a training on so many devices."""
    train = load_dataset("digits").train
    model = CNN(
        num_classes=10,
        norm=partial(BatchNorm, momentum=0.9, epsilon=1e-5, dtype=dtype),
        bn_placement="pre",
        dropout=0.0,
        kernel_init=INITIALIZERS["he"],
        features=tuple(arguments.features),
        dtype=dtype,
    )
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
    variables = model.init(jax.random.key(0), jnp.zeros((1, *train.images.shape[1:]), dtype), train=False)
    params = jax.tree.map(lambda leaf: np.array(leaf, dtype), variables["params"])
    if ulps:
        first = params["Conv_0"]["kernel"]
        first.flat[0] = np.nextafter(first.flat[0], dtype.type(np.inf))
    optimizer = optax.sgd(arguments.learning_rate, momentum=0.9)
    replicated, sharded = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))

    def loss_of(params: object, images: jax.Array, labels: jax.Array) -> jax.Array:
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, _ = model.apply(state, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params: object, moments: object, images: jax.Array, labels: jax.Array) -> tuple[object, object, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, images, labels)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments, loss

    params = jax.device_put(params, replicated)
    moments = jax.device_put(optimizer.init(params), replicated)
    found = []
    per_epoch = steps_per_epoch(len(train), arguments.batch_size)
    for number in range(arguments.steps):
        order = epoch_order(0, number // per_epoch, len(train))
        indices = epoch_batch(order, arguments.batch_size, number % per_epoch).indices
        images = jax.device_put((train.images[indices] / 255.0 - 0.3).astype(dtype) / dtype.type(0.35), sharded)
        params, moments, loss = step(params, moments, images, jax.device_put(train.labels[indices], sharded))
        found.append(float(loss))
    return found


if __name__ == "__main__":
    main()
