"""The layers in a Keras model's configuration: their order, and ε, momentum and arrays of BN.

The configuration is the JSON of ``model.to_json()``: ``config.json`` in a ``.keras`` archive, the attribute
``model_config`` of an ``.h5`` file (https://keras.io/guides/serialization_and_saving). A layer that contains others has
them in its own configuration, usually under ``layers`` or ``layer``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_DEPTH, Path
from bncli.inspection.readers.settings import non_negative

_CLASS = re.compile(r"(Sync)?BatchNormalization(V[12])?")
# A key that only BN has, a user's subclass of it included.
_OF_BN = "moving_variance_initializer"


@dataclass(frozen=True)
class Configured:
    """A layer of the configuration.

    Attributes:
        path: its path in a weights file of Keras 3, without ``vars``: ("layers", "batch_normalization_1").
        names: its name, after those of the models and layers around it, without the whole model's.
        variables: names of a BN layer's arrays in the order in which Keras numbers them; () for other layers.
        epsilon: None if the configuration lacks it.
        momentum: weight of the old value; None if the configuration lacks it.
    """

    path: Path
    names: Path
    variables: tuple[str, ...] = ()
    epsilon: float | None = None
    momentum: float | None = None

    @property
    def is_batch_norm(self) -> bool:
        """True for a BN layer."""
        return bool(self.variables)


@dataclass(frozen=True)
class Configuration:
    """All layers in the order of the configuration, which is the order of the forward pass."""

    layers: tuple[Configured, ...] = ()

    @cached_property
    def _at_path(self) -> dict[Path, int]:
        return {layer.path: number for number, layer in enumerate(self.layers)}

    @cached_property
    def _of_names(self) -> dict[Path, list[int]]:
        index: dict[Path, list[int]] = {}
        for number, layer in enumerate(self.layers):
            index.setdefault(layer.names, []).append(number)
        return index

    def find(self, path: Path, names: Path) -> Configured | None:
        """The layer at ``path`` with these names; either is () if the file lacks it."""
        numbers = self._of_names.get(names, [])
        number = self._at_path.get(path)
        if number is not None and (not names or number in numbers):
            return self.layers[number]
        if len(numbers) > 1 or not names:
            return None
        exact = [self.layers[number] for number in numbers]
        if exact and exact[0].is_batch_norm:
            return exact[0]
        # Keras 2 gives a wrapped layer no name of its own, and TensorFlow's scopes add names.
        like = self._batch_norms_like(names)
        settings = {(layer.epsilon, layer.momentum, layer.variables) for layer in like}
        return like[0] if len(settings) == 1 else next(iter(exact), None)

    def _batch_norms_like(self, names: Path) -> list[Configured]:
        """BN layers whose names begin alike; else those with further models around them than the names tell.

        Keras' .h5 format names the outermost model and the layer, whatever lies between.
        """
        batch_norms = [layer for layer in self.layers if layer.is_batch_norm]
        alike = [layer for layer in batch_norms if _agree(layer.names, names)]
        return alike or [layer for layer in batch_norms if _skips(names, layer.names)]

    def position(self, path: Path, names: Path) -> int:
        """The position of a layer in the order: that of the innermost known layer around it, or the end."""
        around = [self._at_path.get(path[:length]) for length in range(len(path), 0, -1)]
        around += [self._of_names.get(names[:length], [None])[0] for length in range(len(names), 0, -1)]
        return next((number for number in around if number is not None), len(self.layers))


def parse(text: str | bytes) -> Configuration:
    """The layers of a configuration.

    Raises:
        CheckpointError: it is not a JSON object, is nested too deeply, or a setting is not a number.
    """
    try:
        return Configuration(tuple(_walk(json.loads(text), (), ())))
    except (ValueError, RecursionError, AttributeError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"the configuration of the Keras model is damaged: {type(error).__name__}: {str(error)[:200]}",
            remedy="Restore the file from a copy.",
        ) from None


def _walk(node: Mapping[str, object], path: Path, names: Path) -> Iterator[Configured]:
    """The layer that a node describes, unless it is the whole model, and the layers in it."""
    if len(path) > MAX_DEPTH:
        raise ValueError(f"it is more than {MAX_DEPTH} levels deep")
    config = node.get("config")
    if isinstance(config, list):  # the layers of an old Sequential model
        config = {"layers": config}
    if not isinstance(config, Mapping):
        return
    is_batch_norm = _is_batch_norm(node, config)
    if path:
        names = (*names, str(config.get("name") or node.get("name") or path[-1]))
        yield _batch_norm(config, path, names) if is_batch_norm else Configured(path, names)
    for place, child in () if is_batch_norm else _children(config):
        yield from _walk(child, (*path, *place), names)


def _children(config: Mapping[str, object]) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """The objects in a layer with their paths below it; objects in a list by class and number, as Keras saves them."""
    for key, value in config.items():
        if isinstance(value, Mapping) and "class_name" in value:
            yield (key,), value
        counts: Counter[str] = Counter()
        for child in value if isinstance(value, list) else ():
            if isinstance(child, Mapping) and "class_name" in child:
                group = _snake_case(str(child["class_name"]))
                yield (key, f"{group}_{counts[group]}" if counts[group] else group), child
                counts[group] += 1


def _is_batch_norm(node: Mapping[str, object], config: Mapping[str, object]) -> bool:
    return _CLASS.fullmatch(str(node.get("class_name"))) is not None or _OF_BN in config


def _batch_norm(config: Mapping[str, object], path: Path, names: Path) -> Configured:
    """A BN layer with its settings."""
    flags = {"gamma": config.get("scale", True), "beta": config.get("center", True)}
    renorm = ("moving_stddev", "renorm_mean", "renorm_stddev") if config.get("renorm") else ()
    return Configured(
        path,
        names,
        variables=(*(key for key, is_set in flags.items() if is_set), "moving_mean", "moving_variance", *renorm),
        epsilon=non_negative(config.get("epsilon"), f"epsilon of {'/'.join(names)}"),
        momentum=non_negative(config.get("momentum"), f"momentum of {'/'.join(names)}"),
    )


def _snake_case(name: str) -> str:
    """The class name as Keras writes it in a path: BatchNormalization -> batch_normalization."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name.rpartition(">")[2]))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _skips(names: Path, all_names: Path) -> bool:
    """True if the names are the others in order, with some left out before the last."""
    rest = iter(all_names)
    return len(names) > 1 and names[-1] == all_names[-1] and all(name in rest for name in names)


def _agree(names: Path, others: Path) -> bool:
    """True if one begins with the other."""
    return all(name == other for name, other in zip(names, others, strict=False))
