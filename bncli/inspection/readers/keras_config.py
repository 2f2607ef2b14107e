"""What a Keras model's configuration says of its BN layers: ε, momentum, and which arrays they have.

The configuration is the JSON of ``model.to_json()``: ``config.json`` in a ``.keras`` archive, the attribute
``model_config`` of an ``.h5`` file (https://keras.io/guides/serialization_and_saving). A layer that holds others has
them under ``layers`` or ``layer``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_DEPTH, Path
from bncli.inspection.readers.settings import non_negative

_CLASS = re.compile(r"(Sync)?BatchNormalization(V[12])?")


@dataclass(frozen=True)
class Configured:
    """One BN layer of the configuration.

    Attributes:
        path: where a weights file of Keras 3 has it, without ``vars``: ("layers", "batch_normalization_1").
        name: the layer's own.
        epsilon: None where it is not said.
        momentum: weight of the old value; None where it is not said.
        variables: the names of its arrays in the order in which Keras 3 numbers them.
    """

    path: Path
    name: str
    epsilon: float | None
    momentum: float | None
    variables: tuple[str, ...]


def parse(text: str | bytes) -> tuple[Configured, ...]:
    """The BN layers of a configuration, in its order, which is that of the forward pass.

    Raises:
        CheckpointError: it is no JSON, or a setting is no number.
    """
    try:
        return tuple(_walk(json.loads(text), ()))
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"the configuration of the Keras model is damaged: {type(error).__name__}: {error}",
            remedy="Restore the file from a copy.",
        ) from None


def _walk(node: Any, path: Path) -> Iterator[Configured]:  # noqa: ANN401 - any JSON value
    config = node.get("config") if isinstance(node, Mapping) else None
    if len(path) > MAX_DEPTH or config is None:
        return
    if _CLASS.fullmatch(str(node.get("class_name"))):
        yield _configured(config, path)
        return
    if isinstance(config, Mapping) and "layer" in config:
        yield from _walk(config["layer"], (*path, "layer"))
    children = config if isinstance(config, list) else config.get("layers", ())  # a Sequential model was a list once
    counts: Counter[str] = Counter()
    for child in children if isinstance(children, list) else ():
        group = _snake_case(str(child.get("class_name")))
        number = counts[group]
        counts[group] += 1
        yield from _walk(child, (*path, "layers", f"{group}_{number}" if number else group))


def _configured(config: Mapping[str, Any], path: Path) -> Configured:
    flags = {"gamma": config.get("scale", True), "beta": config.get("center", True)}
    renorm = ("moving_stddev", "renorm_mean", "renorm_stddev") if config.get("renorm") else ()
    name = str(config.get("name", path[-1] if path else ""))
    return Configured(
        path=path,
        name=name,
        epsilon=non_negative(config.get("epsilon"), f"epsilon of {name}"),
        momentum=non_negative(config.get("momentum"), f"momentum of {name}"),
        variables=(*(key for key, is_there in flags.items() if is_there), "moving_mean", "moving_variance", *renorm),
    )


def _snake_case(name: str) -> str:
    """The class's name as Keras writes it in a path: BatchNormalization -> batch_normalization."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
