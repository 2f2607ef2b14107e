"""Another program's checkpoint, fitted to the user's own model: the result is a ``Checkpoint`` like bncli's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bncli.checkpoint.foreign_arrays import EQUINOX, ForeignCheckpoint, find_saved, find_variables, read_foreign
from bncli.checkpoint.foreign_wrappings import Key, Shapes, count_replicas, differing, first_replica, unbox
from bncli.checkpoint.load import Checkpoint
from bncli.config.choices import Precision
from bncli.config.document import CheckpointConfig, Preprocessing
from bncli.config.json_types import JSON
from bncli.config.settings import DataConfig, ModelConfig, RunConfig, TrainingConfig
from bncli.config.validation import validated
from bncli.errors import CheckpointError, UsageError
from bncli.frameworks.calls import LayerCall, observing
from bncli.frameworks.network import Network, Variables
from bncli.measure.logits import count_classes
from bncli.models import build_own_network, model_file_sha256
from bncli.process.hardware import versions

# Number of arrays named in one complaint; the others are counted.
SHOWN = 3

Specs: TypeAlias = dict[Key, jax.ShapeDtypeStruct]


def open_foreign(
    path: Path,
    *,
    model: ModelConfig | None,
    image_shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    step: str = "best",
) -> Checkpoint:
    """Open the checkpoint of another program with the user's own model.

    Args:
        path: an Orbax directory, or a file of Flax, safetensors or Equinox.
        model: the code of the model and its arguments.
        image_shape: (H, W, C).
        mean: [C], of images scaled to [0, 1]; None for 0.
        std: [C]; None for 1.
        step: "best" or "last" for the newest complete save, or the number of a step.

    Raises:
        CheckpointError: bncli cannot read the checkpoint, or its arrays are not the model's; the message names them.
        UsageError: the model or the shape is not given, or mean or std does not have one number per channel.
        ModelError: the model cannot be built, or is not a network from images to logits.
    """
    foreign = read_foreign(path, step=step)
    if model is None or image_shape is None:
        if model is None and foreign.format != EQUINOX:
            find_variables(foreign)  # a file without variables is named before anything is asked for
        raise _missing_options(foreign, model, image_shape)
    network = build_own_network(model.name, model.args)
    place, variables, unwrapped = _variables_of(foreign, network, image_shape, name=model.name)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    count_classes(network.logits, variables, images, name=model.name)
    precision = _precision(network, variables, images)
    config = CheckpointConfig(
        run=RunConfig(model=model, data=DataConfig(source="not known"), training=TrainingConfig(precision=precision)),
        preprocessing=_preprocessing(image_shape, mean, std),
        dataset=None,
        versions=versions(),
        model_sha256=model_file_sha256(model.name),
    )
    source = f"read from {foreign.description}{f', at {place}' if place else ''}"
    notes = (source, *unwrapped, *_assumptions(mean, std))
    return Checkpoint(path, foreign.step or 0, config, variables, {}, network, network.logits, notes)


def _variables_of(
    foreign: ForeignCheckpoint, network: Network, image_shape: tuple[int, int, int], *, name: str
) -> tuple[str, Variables, tuple[str, ...]]:
    """(place in the tree, the variables there in the model's tree, notes on the wrappings that were taken off)."""
    expected = _expected(network, image_shape)
    saved = network.saved_paths(image_shape)
    found = find_saved(foreign, [key for key, path in saved.items() if path is not None]) if saved else None
    if found is None and saved and foreign.format == EQUINOX:
        _require_state(foreign, saved)
        found = "", foreign.tree  # with too few records: those that are missing are named
    if found is None:
        place, tree = find_variables(foreign, dict.fromkeys(key[0] for key in expected))
        return place, *_fitted(_flat(tree), expected, path=foreign.path, name=name)
    place, tree = found
    arrays = unbox(_flat(tree), dict.fromkeys(saved, ()))
    filed = {saved.get(key, key): array for key, array in arrays.items()}
    given = {key: array for key, array in filed.items() if key is not None}
    variables, notes = _fitted(given, expected, path=foreign.path, name=name)
    return place, network.from_saved(variables), notes


def _require_state(foreign: ForeignCheckpoint, saved: Mapping[Key, Key | None]) -> None:
    """Raise CheckpointError if a file of Equinox ends where the state of the model's BN layers would begin."""
    of_state = sum(path is not None and path[0] == "batch_stats" for path in saved.values())
    if of_state and len(foreign.tree) == len(saved) - of_state:
        raise CheckpointError(
            f"{foreign.path} holds a model without its state, where BN keeps its running statistics",
            remedy="Save both: eqx.tree_serialise_leaves(path, (model, state)).",
        )


def _missing_options(
    foreign: ForeignCheckpoint, model: ModelConfig | None, image_shape: tuple[int, int, int] | None
) -> UsageError:
    needed = {"the model's code": model is None, "the shape of its images": image_shape is None}
    options = {"--model file.py:Class": model is None, "--input-shape H,W,C": image_shape is None}
    return UsageError(
        f"{foreign.path} is {foreign.description}, not bncli's own, and does not hold "
        + " and ".join(what for what, is_missing in needed.items() if is_missing),
        remedy=f"Add {' and '.join(option for option, is_missing in options.items() if is_missing)}.",
    )


def _preprocessing(
    image_shape: tuple[int, int, int], mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing:
    *size, channels = image_shape
    for option, values in (("--mean", mean), ("--std", std)):
        if values is not None and len(values) != channels:
            raise UsageError(
                f"{option} has {len(values)} numbers, and --input-shape {channels} channels",
                remedy="Give one number per channel, separated by commas.",
            )
    preprocessing: Preprocessing = validated(
        Preprocessing,
        size=tuple(size),
        channels=channels,
        mean=(0.0,) * channels if mean is None else tuple(mean),
        std=(1.0,) * channels if std is None else tuple(std),
    )
    return preprocessing


def _assumptions(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[str, ...]:
    assumed = {"mean 0": mean is None, "std 1": std is None}
    if not any(assumed.values()):
        return ()
    what = " and ".join(name for name, is_assumed in assumed.items() if is_assumed)
    return (f"{what} of the pixels, scaled to [0, 1], are assumed; --mean and --std say otherwise",)


def _expected(network: Network, image_shape: tuple[int, int, int]) -> Specs:
    """The shape and dtype of each array of the model; nothing is computed."""
    return _flat(jax.eval_shape(lambda: nn.meta.unbox(network.init(jax.random.key(0), image_shape))))


def _flat(tree: Variables) -> dict[Key, JSON]:
    """Path -> leaf, without recursion: a damaged file may be nested deeper than Python's stack."""
    leaves: dict[Key, JSON] = {}
    pending: list[tuple[Key, JSON]] = [((), tree)]
    while pending:
        path, node = pending.pop()
        if isinstance(node, Mapping):
            pending += [((*path, str(key)), child) for key, child in node.items()]
        else:
            leaves[path] = node
    return leaves


def _fitted(found: dict[Key, JSON], expected: Specs, *, path: Path, name: str) -> tuple[Variables, tuple[str, ...]]:
    """(the variables in the model's tree, notes on the wrappings that were taken off).

    Raises:
        CheckpointError: some arrays are not the model's, or its replicas differ; the message names them.
    """
    shapes = {key: spec.shape for key, spec in expected.items()}
    arrays = unbox(found, shapes)
    arrays, notes = _unreplicated(arrays, shapes, path=path)
    complaints = (
        ("missing", [_path(key) for key in sorted(expected.keys() - arrays.keys())]),
        ("not of the model", [_path(key) for key in sorted(arrays.keys() - expected.keys())]),
        (
            "not of the model's shape",
            [_misfit(key, arrays, expected) for key in sorted(arrays.keys() & expected.keys())],
        ),
    )
    listed = [f"{what}: {_few(rows)}" for what, keys in complaints if (rows := [row for row in keys if row])]
    if listed:
        raise CheckpointError(
            f"the arrays in {path} are not those of {name}; {'; '.join(listed)}",
            remedy="Check --model, --model-arg and --input-shape against the training code.",
        )
    variables: Variables = traverse_util.unflatten_dict({key: _canonical(arrays[key]) for key in expected})
    return variables, notes


def _unreplicated(
    arrays: dict[Key, object], shapes: Shapes, *, path: Path
) -> tuple[dict[Key, object], tuple[str, ...]]:
    """(the arrays of the first replica, a note), if ``jax.pmap`` left one per device; else the arrays as they are."""
    replicas = count_replicas(arrays, shapes)
    if replicas is None:
        return arrays, ()
    unequal = differing(arrays)
    if any(key[0] == "params" for key in unequal):
        raise CheckpointError(
            f"{path} holds {replicas} networks side by side: every array has a leading axis of {replicas}, and "
            f"{_path(unequal[0])} differs along it",
            remedy="Save one of them: jax.tree.map(lambda array: array[0], variables).",
        )
    statistics = ", whose BN statistics differ: average them before saving, or see inspect-stats" if unequal else ""
    return first_replica(arrays), (f"the first of {replicas} replicas is taken{statistics}",)


def _path(key: Key) -> str:
    return "/".join(key)


def _misfit(key: Key, arrays: Mapping[Key, object], expected: Specs) -> str | None:
    """A complaint about an array that does not fit the model; None if it fits."""
    array, wanted = arrays[key], expected[key]
    if not isinstance(array, np.ndarray | np.generic):
        return f"{_path(key)} is a {type(array).__name__}, not an array"
    if array.shape != wanted.shape:
        return f"{_path(key)} is {array.shape}, the model's {wanted.shape}"
    if jnp.issubdtype(array.dtype, jnp.floating) != jnp.issubdtype(wanted.dtype, jnp.floating):
        return f"{_path(key)} is {array.dtype}, the model's {wanted.dtype}"
    return None


def _few(rows: Sequence[str]) -> str:
    return ", ".join(rows[:SHOWN]) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


def _canonical(array: JSON) -> np.ndarray:
    """The array in the dtype that JAX would give it: float64 becomes float32."""
    return np.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))


def _precision(network: Network, variables: Variables, images: jax.ShapeDtypeStruct) -> Precision:
    """The precision that the network computes in: bfloat16 if any of its modules returns bfloat16."""
    dtypes: set[np.dtype] = set()

    def note(call: LayerCall) -> None:
        dtypes.update(leaf.dtype for leaf in jax.tree.leaves(call.outputs) if hasattr(leaf, "dtype"))

    with observing(note):
        jax.eval_shape(network.logits, variables, images)
    return "bfloat16" if jnp.dtype(jnp.bfloat16) in dtypes else "float32"
