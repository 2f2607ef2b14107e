"""The mesh that every step runs on: all devices of all processes along the batch axis.

Arrays go to the mesh and come back here, because a process sees only the devices of its own. Importing this module
imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from bncli.errors import UsageError

if TYPE_CHECKING:
    import jax
    import numpy as np

Tree: TypeAlias = Any  # nested containers of arrays

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


def rows_of_process(owners: Sequence[int], process: int, batch_size: int) -> slice:
    """The rows of a batch that one process reads: those of its devices.

    Args:
        owners: the process of each device along the batch axis.
        process: its index.
        batch_size: divides over the devices.
    """
    per_device = batch_size // len(owners)
    first = owners.index(process) if process in owners else 0
    return slice(first * per_device, (first + owners.count(process)) * per_device)


def own_rows(mesh: jax.sharding.Mesh, batch_size: int) -> slice:
    """The rows of a batch that this process reads."""
    import jax

    return rows_of_process([device.process_index for device in mesh.devices.flat], jax.process_index(), batch_size)


def put_rows(rows: Tree, mesh: jax.sharding.Mesh, *, axis: int = 0, whole: bool = True) -> Tree:
    """A batch on the mesh, split along an axis.

    Args:
        rows: NumPy arrays: the whole batch, of which each process takes its own rows, or those alone.
        mesh: the devices.
        axis: of the batch.
        whole: False if ``rows`` are those of this process alone (``own_rows``).
    """
    import jax

    sharding = batch_sharding(mesh, axis=axis)
    if sharding.is_fully_addressable:
        return jax.device_put(rows, sharding)

    def put(array: np.ndarray) -> Tree:
        if not whole:
            return jax.make_array_from_process_local_data(sharding, array)
        mine = array[(slice(None),) * axis + (own_rows(mesh, array.shape[axis]),)]
        return jax.make_array_from_process_local_data(sharding, mine, array.shape)

    return jax.tree.map(put, rows)


def put_whole(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Arrays on the mesh, whole on each device; all processes must give the same."""
    import jax
    import numpy as np

    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(leaf: jax.Array | np.ndarray) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def fetch(tree: Tree) -> Tree:
    """Arrays on the host, whole; all processes must fetch together."""
    import jax

    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    is_here = all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves)
    return jax.device_get(tree if is_here else _gathering(make_mesh())(tree))


@lru_cache(maxsize=4)
def _gathering(mesh: jax.sharding.Mesh) -> Callable[[Tree], Tree]:
    """A program that puts arrays whole on every device."""
    import jax

    program: Callable[[Tree], Tree] = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    return program


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raise UsageError unless the batch divides over the devices."""
    if batch_size % mesh.size:
        raise UsageError(
            f"--batch-size {batch_size} does not divide over {mesh.size} devices",
            remedy=f"Use a multiple of {mesh.size}.",
        )


def fitting_batch_size(batch_size: int, num_examples: int, mesh: jax.sharding.Mesh, *, parts: int = 1) -> int:
    """The batch size without a great deal of padding: that of one batch of all examples if they fill no batch.

    The examples of each batch stay the same, and with them its BN statistics.

    Args:
        batch_size: as asked for.
        num_examples: in the split.
        mesh: the devices.
        parts: micro-batches, each of which divides over the devices.
    """
    if batch_size <= max(num_examples, _WORTH_A_PROGRAM):
        return batch_size
    return round_up(max(num_examples, 1), mesh, parts=parts)


def round_up(batch_size: int, mesh: jax.sharding.Mesh, *, parts: int = 1) -> int:
    """The smallest size of at least ``batch_size`` whose ``parts`` divide over the devices."""
    unit = mesh.size * parts
    return -(-batch_size // unit) * unit
