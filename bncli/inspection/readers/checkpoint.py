"""BN layers of a bncli checkpoint, trained or folded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint, load
from bncli.errors import FoldError
from bncli.folding import NothingToFoldWarning, fold
from bncli.frameworks.linen import BatchNormSettings
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.readers.contents import Contents, folded_note
from bncli.inspection.readers.detection import detect
from bncli.inspection.readers.settings import Asked
from bncli.inspection.readers.variables import read_variables
from bncli.models import MODELS, relu_follows_every_bn


def read(path: Path, asked: Asked) -> Contents:
    """Read the BN layers of one save; ε and momentum are the model's own.

    Raises:
        BncliError: as ``bncli.load`` does.
    """
    return read_opened(load(path, step=asked.step, model=asked.model), asked)


def read_opened(checkpoint: Checkpoint, asked: Asked) -> Contents:
    """Read the BN layers of an open checkpoint, of bncli or of another program."""
    folded_from = checkpoint.config.folded_from
    if folded_from is not None:
        return Contents("bncli-folded", (), (folded_note(folded_from),), folded_from)
    if not checkpoint.variables.get("batch_stats"):
        return Contents("bncli", (), ("trained without BN, so there is nothing to inspect",))
    relu_follows = relu_follows_every_bn(checkpoint.config.run.model)
    contents = read_variables(
        checkpoint.variables, settings=_settings(checkpoint), relu_follows=relu_follows, asked=asked
    )
    kept, refused = _fold_verdict(checkpoint, contents.layers)
    layers = _with_history(checkpoint, contents.layers, kept)
    notes = (*checkpoint.notes, *contents.notes, *_frozen_note(layers), *refused)
    framework = framework_of(checkpoint)
    options = options_of(checkpoint, asked)
    if checkpoint.is_foreign:
        form = detect(checkpoint.path)
        return replace(contents, format=form, layers=layers, notes=notes, framework=framework, options=options)
    return Contents("bncli", layers, notes, framework=framework, options=options)


def options_of(checkpoint: Checkpoint, asked: Asked) -> tuple[str, ...]:
    """The words that open the checkpoint in a command: the model that the user named, and what it does not say."""
    named = () if asked.model is None else (("--model", asked.model),)
    described = _described(checkpoint) if checkpoint.is_foreign else ()
    return tuple(word for pair in (*named, *described) for word in pair)


def _described(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """The options that say of another program's checkpoint what it does not say itself; defaults are left out."""
    config = checkpoint.config
    for name, value in config.run.model.args.items():
        yield "--model-arg", f"{name}={value if isinstance(value, str) else json.dumps(value)}"
    images = config.preprocessing
    yield "--input-shape", _listed(images.image_shape)
    if any(images.mean):
        yield "--mean", _listed(images.mean)
    if any(value != 1 for value in images.std):
        yield "--std", _listed(images.std)


def _listed(values: Iterable[float]) -> str:
    return ",".join(map(str, values))


def framework_of(checkpoint: Checkpoint) -> str | None:
    """The key of the remedies' phrases where the model's own code sets its BN layers; None for a built-in model."""
    if checkpoint.config.run.model.name in MODELS or checkpoint.network is None:
        return None
    framework = checkpoint.network.framework
    if checkpoint.is_foreign:
        return "flax-variables" if framework == "linen" else framework
    return f"bncli-{framework}"


def _frozen_note(layers: Sequence[BatchNormArrays]) -> tuple[str, ...]:
    """A note on frozen layers, to which the rules about running averages do not apply."""
    number = sum(layer.frozen for layer in layers)
    if not number:
        return ()
    some = "all" if number == len(layers) else f"{number} of {len(layers)}"
    return (f"{some} BN layers were frozen: training used their statistics as they are, and did not move them",)


def _with_history(
    checkpoint: Checkpoint, layers: Iterable[BatchNormArrays], kept: Mapping[str, str]
) -> tuple[BatchNormArrays, ...]:
    """The layers with the origin of their statistics, and the verdict of a trial fold.

    Each training step updates each BN layer once.
    """
    measured = checkpoint.has_population_statistics
    assert checkpoint.network is not None  # a trained checkpoint has its network
    frozen = checkpoint.network.frozen
    excess = {} if measured else checkpoint.network.excess(checkpoint.variables)
    # Averages of layers that were frozen for a while did not begin at the initial values. Another program's steps may
    # be anything.
    # Where the initial values are divided out, only what is left of them counts.
    network = checkpoint.network
    counts = (
        not measured
        and not checkpoint.is_foreign
        and not network.debiases
        and checkpoint.config.run.finetune.unfreeze_at is None
    )

    def with_history(layer: BatchNormArrays) -> BatchNormArrays:
        module = _unstacked(layer.name)
        is_frozen = module in frozen and not measured
        updates = checkpoint.step if counts and not is_frozen else None
        return replace(
            layer,
            updates=updates,
            measured=measured,
            frozen=is_frozen,
            kept=kept.get(module),
            excess=excess.get(layer.name, 0.0),
        )

    return tuple(map(with_history, layers))


def _unstacked(name: str) -> str:
    """The module whose arrays stack this layer with others: ``Block/BatchNorm_0`` for ``Block/BatchNorm_0[1]``."""
    return name.rpartition("[")[0] if name.endswith("]") else name


def _fold_verdict(checkpoint: Checkpoint, layers: Iterable[BatchNormArrays]) -> tuple[dict[str, str], tuple[str, ...]]:
    """({layer: why a fold keeps it}, notes); empty if statistics are broken, which a fold refuses."""
    if not all(_is_sound(layer) for layer in layers):
        return {}, ()
    config = checkpoint.config
    example = jax.ShapeDtypeStruct((2, *config.preprocessing.image_shape), jnp.dtype(config.run.training.precision))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # the kernels may hold any values
            warnings.simplefilter("ignore", NothingToFoldWarning)
            report = fold(checkpoint.apply_fn, checkpoint.variables, example, verify=False).report
    except FoldError as error:
        return {}, (f"bncli fold refuses this network: {error.message}",)
    return {norm.name: norm.reason for norm in report.norms if norm.reason is not None}, ()


def _is_sound(layer: BatchNormArrays) -> bool:
    return all(np.isfinite(array).all() for array in layer.stored().values()) and not (layer.var < 0).any()


def _settings(checkpoint: Checkpoint) -> dict[str, BatchNormSettings]:
    assert checkpoint.network is not None  # a trained checkpoint has its network
    return checkpoint.network.batch_norms(checkpoint.variables, checkpoint.config.preprocessing.image_shape)
