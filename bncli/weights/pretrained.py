"""Weights to start from: ``read`` makes a ``Pretrained`` of a file, a repository of the Hub, or a checkpoint.

Letters: K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from bncli import checkpoint
from bncli.config.choices import WeightsOrigin
from bncli.config.document import CheckpointConfig, Crop, Preprocessing, WeightsRecord
from bncli.config.file_names import on_disk
from bncli.config.settings import ModelConfig
from bncli.errors import CheckpointError, UsageError
from bncli.models import MODELS
from bncli.weights import hub, timm_config
from bncli.weights.files import BNCLI, file_of, format_of, read_arrays, sha256_of
from bncli.weights.origins import Images, Origin, by_content, named_origin, possible_origins
from bncli.weights.timm_config import TimmConfig
from bncli.weights.translate import HEAD, Row, Translated, translated

# For images up to this size the stem of a checkpoint's ResNet kept the size, unless its arguments say otherwise.
_SMALL_IMAGE = 64


@dataclass(frozen=True)
class Pretrained:
    """A network's weights, and all that they need to mean the same here.

    Attributes:
        record: source, SHA-256 and classes.
        model: the network, with the constants of its BN.
        variables: path with slashes -> array, the head included.
        preprocessing: of the images that the network was trained on.
        rows: of the arrays that were taken from the source.
        ignored: of those that were not.
        notes: what was assumed.
    """

    record: WeightsRecord
    model: ModelConfig
    variables: Mapping[str, np.ndarray]
    preprocessing: Preprocessing
    rows: tuple[Row, ...]
    ignored: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()


def read(source: str, *, model: str | None = None, origin: WeightsOrigin | None = None) -> Pretrained:
    """The weights that ``source`` names.

    Args:
        source: a file, a directory, or ``hf://ORG/NAME``.
        model: the network's name; None to recognise it.
        origin: the library that they were made for; None to recognise it.

    Raises:
        CheckpointError: there is no such file, it is damaged, or its arrays are of no network here; names both sides.
        UsageError: the library cannot be told, or is another one.
    """
    path = file_of(hub.fetch(source) if hub.is_hub(source) else on_disk(source).expanduser())
    if format_of(path) == BNCLI:
        return _of_checkpoint(path, source, model=model, origin=origin)
    if model is not None and model not in MODELS:
        raise UsageError(
            f"--model {model}: {source} can only be read into a built-in network",
            remedy="Leave --model out: the network is recognised.",
        )
    sha256 = sha256_of(path)
    found = translated(read_arrays(path), model=model, origin=source)
    config = timm_config.beside(path)
    chosen, notes = _origin(found, origin, config, path)
    default = chosen.images_of(found.model)
    images = by_content(default, sha256) if chosen.name == "torchvision" else default
    if config is not None and chosen.name.startswith("timm"):
        images = config.images(default)
    kernel = found.variables[HEAD[1]]  # [C, K]
    num_classes = kernel.shape[1]
    names = config.class_names if config is not None else None
    return Pretrained(
        record=WeightsRecord(
            source=source,
            sha256=sha256,
            origin=chosen.name,
            num_classes=num_classes,
            class_names=names if names is not None and len(names) == num_classes else None,
        ),
        model=_model(found.model, chosen),
        variables=found.variables,
        preprocessing=_preprocessing(images),
        rows=found.rows,
        ignored=found.ignored,
        notes=notes,
    )


def _origin(
    found: Translated, asked: WeightsOrigin | None, config: TimmConfig | None, path: Path
) -> tuple[Origin, tuple[str, ...]]:
    """(the library that the arrays were made for, a note if it was assumed).

    Raises:
        UsageError: it cannot be told, and the network depends on it.
    """
    if asked is not None:
        return named_origin(asked, model=found.model, library=found.library), ()
    possible = possible_origins(found.model, found.library)
    told = _told(config, path)
    if told is not None and any(origin.name == told for origin in possible):
        return named_origin(told, model=found.model, library=found.library), ()
    if len(possible) == 1:
        return possible[0], ()
    names = " or ".join(origin.name for origin in possible)
    if len({(origin.epsilon, origin.padding) for origin in possible}) > 1:
        raise UsageError(
            f"{path}: its names do not tell if these are weights of {names}, which differ in padding and ε",
            remedy=f"Say it: --weights-from {names.replace(' or ', ' or --weights-from ')}.",
        )
    others = " or ".join(f"--weights-from {origin.name}" for origin in possible[1:])
    return possible[0], (f"the preprocessing of {possible[0].name} is assumed; {others} changes this",)


def _told(config: TimmConfig | None, path: Path) -> WeightsOrigin | None:
    """The origin by the file beside the weights, or by timm's prefix for ports from TensorFlow; None if unknown."""
    if config is not None:
        return "timm-tf" if config.is_tensorflow else "timm"
    return "timm-tf" if path.name.startswith("tf_") else None


def _model(name: str, origin: Origin) -> ModelConfig:
    args = {"padding": origin.padding, **({"small_images": False} if MODELS[name].has_stem else {})}
    return ModelConfig(name=name, args=args, bn_epsilon=origin.epsilon, bn_momentum=origin.momentum)


def _preprocessing(images: Images) -> Preprocessing:
    return Preprocessing(
        size=(images.size, images.size),
        channels=len(images.mean),
        mean=images.mean,
        std=images.std,
        crop=Crop(resize=images.resize, interpolation=images.interpolation),
    )


def _of_checkpoint(path: Path, source: str, *, model: str | None, origin: WeightsOrigin | None) -> Pretrained:
    """The best save of one of bncli's own checkpoints."""
    if origin is not None:
        raise UsageError(f"--weights-from {origin}: {source} is a checkpoint of bncli", remedy="Leave it out.")
    opened = checkpoint.load(path, model=model if model is not None and ":" in model else None)
    config = opened.config
    if config.folded_from is not None or config.num_classes is None:
        raise CheckpointError(
            f"{source} is folded, so its BN cannot be trained further", remedy="Name the checkpoint that was folded."
        )
    if model is not None and ":" not in model and model != config.run.model.name:
        raise UsageError(
            f"--model {model}: {source} holds weights of {config.run.model.name}", remedy="Leave --model out."
        )
    variables = _flat(opened.variables)
    rows = tuple(Row(name, array.shape, name, array.shape) for name, array in variables.items())
    return Pretrained(
        record=WeightsRecord(
            source=source,
            sha256=checkpoint.sha256_tree(opened.variables),
            origin=BNCLI,
            num_classes=config.num_classes,
            class_names=config.class_names,
        ),
        model=_fixed_stem(config),
        variables=variables,
        preprocessing=config.preprocessing,
        rows=rows,
    )


def _fixed_stem(config: CheckpointConfig) -> ModelConfig:
    """The model with its present stem, which otherwise follows from the size of the images."""
    model = config.run.model
    if model.name not in MODELS or not MODELS[model.name].has_stem or "small_images" in model.args:
        return model
    is_small = max(config.preprocessing.size) <= _SMALL_IMAGE
    return replace(model, args={**model.args, "small_images": is_small})


def _flat(variables: Mapping[str, object]) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}
