"""The items of one save, written and read by Orbax: the only module that imports orbax, which takes 0.65 s.

Import it only when a save is written or read, so that a new training does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp

from bncli.config.json_types import JSON, Document
from bncli.frameworks.linen import Variables

Tree: TypeAlias = Variables  # a tree of arrays

VARIABLES = "variables"
OPTIMIZER = "optimizer"
PROGRESS = "progress"


def write(target: Path, *, variables: Tree, optimizer: Tree | None, progress: Mapping[str, JSON] | None) -> None:
    """Write the items that are not None.

    Raises:
        OSError: the items could not be written.
        ValueError: the same, raised by tensorstore.
    """
    items: dict[str, ocp.args.CheckpointArgs] = {VARIABLES: ocp.args.PyTreeSave(variables)}
    if optimizer is not None:
        items[OPTIMIZER] = ocp.args.PyTreeSave(optimizer)
    if progress is not None:
        items[PROGRESS] = ocp.args.JsonSave(dict(progress))
    with _checkpointer() as checkpointer:
        checkpointer.save(target.absolute(), args=ocp.args.Composite(**items))


def read_variables(path: Path) -> dict[str, Tree]:
    """The variables as host arrays, in the tree that was saved."""
    with _checkpointer() as checkpointer:
        tree = checkpointer.metadata(path.absolute()).item_metadata[VARIABLES].tree
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(
            path.absolute(), args=ocp.args.Composite(**{VARIABLES: ocp.args.PyTreeRestore(restore_args=restore_args)})
        )
    return dict(restored[VARIABLES])


def read_training(path: Path, *, variables: Tree, optimizer: Tree) -> tuple[Tree, Tree]:
    """(variables, optimizer), in the shapes, dtypes and shardings of the given trees.

    Raises:
        KeyError: the saved trees have another structure.
        OSError: they cannot be read.
        ValueError: they have other shapes.
    """
    abstract = {VARIABLES: _abstract(variables), OPTIMIZER: _abstract(optimizer)}
    arguments = {
        name: ocp.args.PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree))
        for name, tree in abstract.items()
    }
    with _checkpointer() as checkpointer:
        restored = checkpointer.restore(path.absolute(), args=ocp.args.Composite(**arguments))
    return restored[VARIABLES], restored[OPTIMIZER]


def read_progress(path: Path) -> Document:
    """The progress document; raises whatever Orbax raises if there is none, or if it is not a JSON object."""
    with _checkpointer() as checkpointer:
        restored = checkpointer.restore(path.absolute(), args=ocp.args.Composite(**{PROGRESS: ocp.args.JsonRestore()}))
    return dict(restored[PROGRESS])


def _checkpointer() -> ocp.Checkpointer:
    """Reads and writes in this process alone: of several, process 0 writes, and each reads by itself."""
    options = _alone()
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options),
        **{
            VARIABLES: ocp.PyTreeCheckpointHandler(multiprocessing_options=options),
            OPTIMIZER: ocp.PyTreeCheckpointHandler(multiprocessing_options=options),
            PROGRESS: ocp.JsonCheckpointHandler(multiprocessing_options=options),
        },
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _alone() -> ocp.options.MultiprocessingOptions:
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
    )


def _abstract(tree: Tree) -> Tree:
    """The shapes, dtypes and shardings; an array of the host is its own description."""
    abstract: Tree = jax.tree.map(
        lambda leaf: (
            leaf
            if isinstance(leaf, np.ndarray | np.generic)
            else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        ),
        tree,
    )
    return abstract
