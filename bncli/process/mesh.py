"""The mesh that every step runs on: all devices along the batch axis. Importing this module imports no JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncli.errors import UsageError

if TYPE_CHECKING:
    import jax

BATCH_AXIS = "batch"

# Up to this batch size, padding costs less than compiling a program for another size.
_WORTH_A_PROGRAM = 1024


def make_mesh() -> jax.sharding.Mesh:
    """A mesh over all devices along the batch axis; one device is a mesh of one."""
    import jax
    import numpy as np

    return jax.sharding.Mesh(np.array(jax.devices()), (BATCH_AXIS,))


def batch_sharding(mesh: jax.sharding.Mesh, *, axis: int = 0) -> jax.sharding.NamedSharding:
    """The sharding that splits axis ``axis`` over the devices."""
    import jax

    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*[None] * axis, BATCH_AXIS))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """The sharding that puts the whole array on every device."""
    import jax

    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raise UsageError unless the batch divides over the devices."""
    if batch_size % mesh.size:
        raise UsageError(
            f"--batch-size {batch_size} does not divide over {mesh.size} devices",
            remedy=f"Use a multiple of {mesh.size}.",
        )


def fitting_batch_size(batch_size: int, num_examples: int, mesh: jax.sharding.Mesh) -> int:
    """The batch size without a great deal of padding: that of one batch of all examples if they fill no batch.

    The examples of each batch stay the same, and with them its BN statistics.
    """
    if batch_size <= max(num_examples, _WORTH_A_PROGRAM):
        return batch_size
    return round_up(max(num_examples, 1), mesh)


def round_up(batch_size: int, mesh: jax.sharding.Mesh) -> int:
    """The smallest size of at least ``batch_size`` that divides over the devices."""
    return -(-batch_size // mesh.size) * mesh.size
