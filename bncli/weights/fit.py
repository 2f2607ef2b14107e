"""Weights -> the variables of a network that may have other classes: then it keeps a new head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bncli.errors import CheckpointError
from bncli.frameworks.linen import Variables
from bncli.weights.pretrained import Pretrained
from bncli.weights.translate import Row, Shape, shapes_of

_SHOWN = 3


@dataclass(frozen=True)
class Fitted:
    """Weights that fit a network, and an account of every array.

    Attributes:
        pretrained: where they come from.
        num_classes: K of the network.
        taken: arrays of the source that the network has now.
        new: arrays of the network that the source has not, or for other classes; they begin at 0. So the first steps
            move the head alone: a random one would send random gradients through the trained layers.
        ignored: arrays of the source that the network does not need.
    """

    pretrained: Pretrained
    num_classes: int
    taken: tuple[Row, ...]
    new: tuple[Row, ...]
    ignored: tuple[Row, ...]

    def into(self, variables: Variables) -> Variables:
        """The variables of the network, with the weights in place of its initial values."""
        flat = traverse_util.flatten_dict(dict(variables), sep="/")
        taken = {row.target: self.pretrained.variables[row.target] for row in self.taken}
        # Copies: the training step reuses the memory of its arguments.
        filled = {path: jnp.array(array, flat[path].dtype) for path, array in taken.items()}
        zeros = {row.target: jnp.zeros_like(flat[row.target]) for row in self.new}
        nested: Variables = traverse_util.unflatten_dict({**flat, **filled, **zeros}, sep="/")
        return nested


def fitted(pretrained: Pretrained, variables: Variables, *, num_classes: int) -> Fitted:
    """The account of the weights for a network.

    Args:
        pretrained: the weights.
        variables: of the network: arrays, or their shapes.
        num_classes: K of the network.

    Raises:
        CheckpointError: an array of the network is missing in the weights, has another shape, or has no place.
    """
    wanted = shapes_of(jax.eval_shape(lambda: variables))
    there = {path: array.shape for path, array in pretrained.variables.items()}
    old = pretrained.record.num_classes
    head = {path for path in wanted if path in there and _is_head(there[path], wanted[path], old, num_classes)}
    complaints = {
        "missing": [f"{path} {list(wanted[path])}" for path in wanted if path not in there],
        "without a place": [f"{path} {list(there[path])}" for path in there if path not in wanted],
        "of another shape": [
            f"{path} {list(there[path])}, in the network {list(wanted[path])}"
            for path in wanted
            if path in there and there[path] != wanted[path] and path not in head
        ],
    }
    listed = [f"{kind}: {_few(rows)}" for kind, rows in complaints.items() if rows]
    if listed:
        raise CheckpointError(
            f"the weights of {pretrained.record.source} do not fit {pretrained.model.name}: {'; '.join(listed)}",
            remedy="Use the --image-size, --channels and --model-arg that they were trained with.",
        )
    reason = f"the head is new and begins at 0: {num_classes} classes in place of {old}"
    return Fitted(
        pretrained=pretrained,
        num_classes=num_classes,
        taken=tuple(row for row in pretrained.rows if row.target not in head),
        new=tuple(_new(row, wanted[row.target], reason) for row in pretrained.rows if row.target in head),
        ignored=pretrained.ignored,
    )


def _is_head(there: Shape, here: Shape, old: int, new: int) -> bool:
    """True if an array differs in the number of classes alone, which is its last axis."""
    return old != new and there[:-1] == here[:-1] and there[-1:] == (old,) and here[-1:] == (new,)


def _new(source: Row, shape: Shape, reason: str) -> Row:
    return Row(source.source, source.source_shape, source.target, shape, reason)


def _few(rows: Sequence[str]) -> str:
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"{', '.join(rows[:_SHOWN])}{more}"


def as_variables(arrays: Mapping[str, np.ndarray]) -> Variables:
    """Arrays by path as a tree."""
    nested: Variables = traverse_util.unflatten_dict(dict(arrays), sep="/")
    return nested
