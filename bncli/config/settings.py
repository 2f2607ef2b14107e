"""What a run is made of: frozen, validated settings, and how they are stored in ``config.json``.

::

    RunConfig
    ├── model       ModelConfig       which network, where its BN sits
    ├── data        DataConfig        which images
    ├── optimizer   OptimizerConfig   how the weights move
    └── training    TrainingConfig    how long, in which precision, with which seed

A ``RunConfig`` is what the user asked for; a ``CheckpointConfig`` adds what the data and the machine
contributed (preprocessing, class names, versions), so that a checkpoint can be read without the data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from bncli.config.choices import (
    BadImages,
    BnPlacement,
    Init,
    OnNan,
    OnSaveError,
    OptimizerName,
    Precision,
    ScheduleName,
)
from bncli.errors import ConfigError

SCHEMA = "bncli.config/1"
# Under this key the metadata of an exported ONNX model hold the text of the checkpoint's ``config.json``.
ONNX_KEY = "bncli.config"

# The field of ``config.json`` that holds the SHA-256 of all others.
CHECKSUM = "sha256"

Positive = Annotated[int, Field(ge=1, lt=2**31)]  # JAX counts in int32
Count = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, lt=2**16)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# Unknown fields are ignored: a newer bncli may add fields, and an older one can still read the checkpoint.
_FROZEN = ConfigDict(extra="ignore", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class ModelConfig:
    """Which network, and how it normalises.

    Attributes:
        name: a known model, or the user's own as ``package.module:Class`` or ``file.py:Class``.
        args: keyword arguments for the module, beyond those below.
        bn: whether there is Batch Normalization at all (``--no-bn`` is the control run).
        bn_placement: "pre" is conv → BN → ReLU (Ioffe & Szegedy 2015), "post" is conv → ReLU → BN.
        bn_momentum: weight of the *old* running value, Flax's convention: 1 − PyTorch's momentum.
        bn_epsilon: added to the variance.
        dropout: rate; None takes the model's own default.
        init: initialiser of the kernels; "he" is variance scaling by fan-in, gain 2 (He et al. 2015).
    """

    name: str = "cnn"
    args: dict[str, Any] = Field(default_factory=dict)
    bn: bool = True
    bn_placement: BnPlacement = "pre"
    bn_momentum: Fraction = 0.9
    bn_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    dropout: Fraction | None = None
    init: Init = "he"


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class DataConfig:
    """Which images, and how they are read.

    Attributes:
        source: a known name, an image directory, a directory of IDX or CIFAR binary files, or an ``.npz``.
        data_dir: where to look for a known name first.
        val_fraction: share of the training split set aside for validation, stratified by class.
        image_size: images are resized to this many pixels square; None keeps the data set's own size.
        channels: 1 (grey) or 3 (colour); None takes what the files hold.
        bad_images: what an unreadable file in an image directory means.
        augment: whether training images are shifted and flipped.
    """

    source: str = "digits"
    data_dir: str | None = None
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    image_size: Pixels | None = None
    channels: Pixels | None = None
    bad_images: BadImages = "error"
    augment: bool = True


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class OptimizerConfig:
    """How the weights move.

    Attributes:
        name: "sgd" is SGD with Nesterov momentum, "adamw" is AdamW.
        learning_rate: the schedule's peak; None takes 0.05 for sgd and 0.001 for adamw.
        momentum: of SGD.
        weight_decay: L2 coefficient (sgd) or decoupled decay (adamw).
        decay_all: decay biases and BN scales too, not kernels alone.
        clip_norm: largest global gradient norm; None does not clip.
        schedule: how the learning rate moves over ``schedule_epochs``.
        schedule_epochs: length of the schedule; None is the run's ``epochs``.
        warmup_epochs: linear rise from 0 before the schedule; "one-cycle" has its own rise.
        label_smoothing: share of the target spread over all classes.
    """

    name: OptimizerName = "sgd"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    decay_all: bool = False
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    schedule: ScheduleName = "cosine"
    schedule_epochs: Positive | None = None
    warmup_epochs: NonNegative = 1.0
    label_smoothing: Fraction = 0.0

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at the schedule's peak, the optimizer's default where none was given."""
        if self.learning_rate is not None:
            return self.learning_rate
        return {"adamw": 1e-3, "sgd": 0.05}[self.name]


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class TrainingConfig:
    """How long, in which precision, from which seed.

    Attributes:
        epochs: passes over the training split.
        batch_size: examples per step over all devices; also the normalisation batch of BN.
        seed: of the initial weights, the validation split, the order, the augmentation and dropout.
        precision: of activations; parameters and statistics stay float32.
        patience: stop after this many epochs without a better validation accuracy; None never stops early.
        precise_bn: whether the best epoch gets population statistics at the end.
        keep: how many of the last saves stay on disk, beside the best.
        ema_decay: weight of the old value in a moving average of the parameters, which is then what is scored and
            saved, with BN statistics of its own; None keeps none.
        save_every: steps, or seconds as "60s", from one save to the next within an epoch; None saves after epochs.
        on_save_error: whether a save that fails ends the run.
        on_nan: what a step that comes to NaN or infinity means: the run ends, goes on without that step, or goes back
            to its last save with half of the learning rate.
        deterministic: whether XLA may only take algorithms that give the same bytes each time; on a CPU all do.
    """

    epochs: Positive = 20
    batch_size: Positive = 64
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Precision = "float32"
    patience: Positive | None = None
    precise_bn: bool = False
    keep: Positive = 2
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    save_every: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}s?$")] | None = None
    on_save_error: OnSaveError = "stop"
    on_nan: OnNan = "stop"
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class RunConfig:
    """All settings of one run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class Preprocessing:
    """From a uint8 image to the network's input: resize to ``size``, then (x/255 − mean)/std per channel."""

    size: tuple[Pixels, Pixels]  # height, width in pixels
    channels: Pixels
    mean: tuple[Finite, ...]  # [C]
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]  # [C]

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers for {self.channels} channels")
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.size, self.channels)


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class DatasetRecord:
    """Which data a run saw: enough to recognise it again."""

    name: str
    source: str
    sha256: str
    class_names: tuple[str, ...]
    num_train: Count
    num_val: Count
    num_test: Count


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class FoldedFrom:
    """What a folded checkpoint was made of."""

    checkpoint: str
    step: Count
    params_sha256: str
    folded: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class Recalibrated:
    """Where a checkpoint's BN statistics come from, if not from running averages."""

    checkpoint: str
    step: Count
    num_examples: Count
    runs: Count


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class CheckpointConfig:
    """The content of ``config.json``: what was asked for, and what data and machine added to it.

    ``dataset`` is None where the data are not known: the checkpoint was made of another program's. ``run`` then says
    of the data and the training only what was found in the network.
    """

    run: RunConfig
    preprocessing: Preprocessing
    dataset: DatasetRecord | None
    versions: dict[str, str]
    model_sha256: str | None = None  # of the user's own model file
    folded_from: FoldedFrom | None = None
    recalibrated: Recalibrated | None = None
    schema: str = SCHEMA


_ADAPTER = TypeAdapter(CheckpointConfig)


def to_json(config: CheckpointConfig) -> str:
    """The text of ``config.json``: the fields, and the SHA-256 of what they say."""
    return sealed(_ADAPTER.dump_python(config, mode="json"))


def sealed(document: Mapping[str, Any]) -> str:
    """A document as the text of a ``config.json``, with the SHA-256 of its content.

    The sum is over the canonical JSON of all other fields, with sorted keys and no spaces: how the text is laid out
    does not matter.
    """
    content = {name: value for name, value in document.items() if name != CHECKSUM}
    return json.dumps({**content, CHECKSUM: _content_sha256(content)}, indent=2, ensure_ascii=False) + "\n"


def _content_sha256(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def from_json(text: str, *, path: Path) -> CheckpointConfig:
    """The configuration in the text of a ``config.json``.

    One without a SHA-256 of its content is taken as it is: earlier versions wrote none.

    Raises:
        ConfigError: it is no JSON, of an unknown schema, a value is missing or out of range, or its SHA-256 is not that
            of its content; names the file and the field.
    """
    try:
        config = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {describe(error)}",
            remedy="This file is written by `bncli train`; restore it from a copy, or train again.",
        ) from None
    if config.schema != SCHEMA:
        raise ConfigError(
            f"{path}: schema is {_shown(config.schema)}, this bncli reads {SCHEMA!r}",
            remedy="Use the bncli version that wrote it.",
        )
    _check_sha256(text, path)
    return config


def _check_sha256(text: str, path: Path) -> None:
    try:
        document = json.loads(text)
        is_right = CHECKSUM not in document or document.pop(CHECKSUM) == _content_sha256(document)
    except (RecursionError, ValueError):  # JSON to one reader, and not to the other
        is_right = False
    if not is_right:
        raise ConfigError(
            f"{path} is damaged or was edited: its SHA-256 is not that of its content",
            remedy=f'Restore it from a copy; or, if it was edited on purpose, remove its line "{CHECKSUM}".',
        )


def validated(cls: type[Any], **values: Any) -> Any:  # noqa: ANN401 - any of the dataclasses above
    """``cls(**values)``, with a bad value as a ConfigError that names the field."""
    try:
        return cls(**values)
    except ValidationError as error:
        raise ConfigError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """The first complaint of a validation, as ``field.subfield: what (got value)``."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part)[:60] for part in first["loc"]) or "the document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}, got {_shown(first['input'])}{more}"


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The beginning of a value."""
    try:
        return repr(str(value)[:60])
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        return "one too large to show"
