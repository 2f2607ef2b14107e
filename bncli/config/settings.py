"""The settings of a run, each declared once: type, default, bounds, help text and panel of the command line.

::

    RunConfig
    ├── model       ModelConfig       the network, and the place of its BN
    ├── data        DataConfig        the images
    ├── optimizer   OptimizerConfig   the update of the weights
    ├── training    TrainingConfig    length, precision, seed, saves
    └── finetune    FineTuneConfig    what is frozen, and how fast each layer learns

From these fields are made the options of ``bncli train``, the keys of ``run.toml`` and of ``config.json``, the tables
of the documentation, and the list of what ``--resume`` may change (``options.py``). To add a setting, write a field.

This module imports no validation library, because ``bncli --help`` reads it. ``validation.py`` does, which is
imported when a section is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, get_args

from bncli.config.choices import (
    AccumulateBn,
    BadImages,
    BnPlacement,
    BnSync,
    FlipMode,
    FreezeBn,
    Init,
    Interpolation,
    LoggerName,
    OnNan,
    OnSaveError,
    OptimizerName,
    PadMode,
    Precision,
    ScheduleName,
    WeightsOrigin,
)
from bncli.config.json_types import Document
from bncli.errors import ConfigError

GENERAL = "Options"
MODEL = "Model"
DATA = "Data"
AUGMENT = "Augmentation"
OPTIMIZER = "Optimizer"
FINETUNE = "Fine-tuning"
OUTPUT = "Output"
PANELS = (GENERAL, MODEL, DATA, AUGMENT, OPTIMIZER, FINETUNE, OUTPUT)  # in the order of the help


@dataclass(frozen=True)
class Setting:
    """The words and habits of a setting on the command line.

    Attributes:
        help: one sentence or two, for ``--help`` and the documentation.
        panel: its group in the help.
        option: its name on the command line; "" takes the field's.
        off: the value that turns the setting off, which is then None, so that a call can undo what its recipe sets.
        changeable: True if a resumed run may change it without becoming another run.
    """

    help: str
    panel: str = GENERAL
    option: str = ""
    off: int | str | None = None
    changeable: bool = False

    def turned_off(self, value: object) -> bool:
        """True if the value is the one that turns the setting off."""
        return self.off is not None and not isinstance(value, bool) and value == self.off


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The range of a number; a bound that is None does not hold.

    Attributes:
        ge: the least value.
        gt: the value that all are above.
        le: the greatest value.
        lt: the value that all are below.
    """

    ge: int | None = None
    gt: int | None = None
    le: int | None = None
    lt: int | None = None

    def __get_pydantic_core_schema__(
        self, source: object, handler: Callable[[object], Mapping[str, object]]
    ) -> Mapping[str, object]:
        """The schema of a number with its bounds: pydantic's protocol for annotations."""
        return {**handler(source), **{name: bound for name, bound in vars(self).items() if bound is not None}}

    @property
    def words(self) -> tuple[str, ...]:
        """Each bound as text, such as "≥ 1"."""
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        return tuple(f"{signs[name]} {bound}" for name, bound in vars(self).items() if bound is not None)


@dataclass(frozen=True)
class Matches:
    """A bound of texts.

    Attributes:
        pattern: the regular expression that they match.
        words: the rule for users, after "must be".
    """

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[object], object]) -> Mapping[str, object]:
        """The schema of a text, followed by the check: pydantic's protocol for annotations."""
        check = {"type": "no-info", "function": self.checked}
        return {"type": "function-after", "function": check, "schema": handler(source)}

    def checked(self, text: str) -> str:
        """The text itself.

        Raises:
            ValueError: it does not match.
        """
        if re.search(self.pattern, text) is None:
            raise ValueError(f"must be {self.words}")
        return text


Positive = Annotated[int, Bounds(ge=1, lt=2**31)]  # JAX counts in int32
Pixels = Annotated[int, Bounds(ge=1, lt=2**16)]
Shift = Annotated[int, Bounds(ge=0, lt=2**16)]  # in pixels
PositiveFloat = Annotated[float, Bounds(gt=0)]
NonNegative = Annotated[float, Bounds(ge=0)]
Fraction = Annotated[float, Bounds(ge=0, lt=1)]
OpenFraction = Annotated[float, Bounds(gt=0, lt=1)]
Factor = Annotated[float, Bounds(gt=0, le=1)]
Probability = Annotated[float, Bounds(ge=0, le=1)]
_NUMBER = r"-?[0-9]{1,12}(\.[0-9]{1,12})?"
Range = Annotated[str, Matches(rf"\A(auto|{_NUMBER}:{_NUMBER})\Z", "auto, or LOW:HIGH such as 0:4095")]
_LOGGERS = get_args(LoggerName)
_LOGGER = f"({'|'.join(_LOGGERS)})"
Loggers = Annotated[
    str,
    Matches(rf"\A(none|{_LOGGER}(,{_LOGGER})*)\Z", f"none, or some of {', '.join(_LOGGERS)}, separated by commas"),
]
_FLOAT = r"-?[0-9]{1,12}(\.[0-9]{1,24})?(e-?[0-9]{1,2})?"
Numbers = Annotated[
    str, Matches(rf"\A{_FLOAT}(,{_FLOAT}){{0,2}}\Z", "one number per channel, such as 0.485,0.456,0.406")
]
Norm = Annotated[
    str, Matches(r"\A(batch|group|layer|none|ghost:[1-9][0-9]{0,8})\Z", "batch, group, layer, ghost:N or none")
]
Interval = Annotated[str, Matches(r"\A[1-9][0-9]{0,8}s?\Z", "steps or seconds, such as 500 or 60s")]

# Unknown fields of a ``config.json`` are ignored: a newer bncli may add fields, and an older one can still read it.
_VALIDATION = {"extra": "ignore", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A group of settings, which are checked when it is made."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = _VALIDATION

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a value is of the wrong type or out of range; names the field.
        """
        from bncli.config.validation import check_fields

        check_fields(self)


def is_bn(normalization: str) -> bool:
    """True for ``batch`` and ``ghost:N``."""
    return normalization == "batch" or normalization.startswith("ghost:")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network, and the place and constants of its BN."""

    name: Annotated[
        str,
        Setting(
            "cnn, convnet, fastnet, mlp, resnet20, resnet18, resnet34, resnet50, resnet101, resnet152, mobilenet_v2, "
            "efficientnet_lite0 to efficientnet_lite4, or your own: file.py:Class or package.module:Class.",
            MODEL,
            option="model",
        ),
    ] = "cnn"
    args: Annotated[
        Document, Setting("An argument of the model, as key=value; repeatable.", MODEL, option="model-arg")
    ] = field(default_factory=dict)
    bn: Annotated[bool, Setting("With Batch Normalization, or without it as a control.", MODEL)] = True
    norm: Annotated[
        Norm | None,
        Setting(
            "batch, group, layer, none, or ghost:N for BN with the statistics of N examples at a time, or of fewer, so "
            "that all parts of a batch are equal; by default as --bn says.",
            MODEL,
        ),
    ] = None
    ghost_batch: Annotated[Positive | None, Setting("The same as --norm ghost:N.", MODEL)] = None
    bn_placement: Annotated[
        BnPlacement, Setting("pre: conv, BN, ReLU, as in the paper. post: conv, ReLU, BN, as in Keras code.", MODEL)
    ] = "pre"
    bn_momentum: Annotated[Fraction, Setting("Weight of the old running value: 1 - PyTorch's momentum.", MODEL)] = 0.9
    bn_epsilon: Annotated[PositiveFloat, Setting("Added to the variance.", MODEL)] = 1e-5
    dropout: Annotated[Fraction | None, Setting("Dropout rate; by default the model's own (cnn: 0.2).", MODEL)] = None
    init: Annotated[
        Init,
        Setting(
            "Initializer of the kernels; he is variance scaling by fan-in, gain 2. dirac: a convolution begins as the "
            "identity, its other outputs at random.",
            MODEL,
        ),
    ] = "he"
    weights: Annotated[
        str | None,
        Setting(
            "Start from these weights: a .safetensors or .pth file of torchvision or timm, hf://ORG/NAME, or a "
            "checkpoint of bncli. They decide --model, the settings of its BN, and the preprocessing.",
            MODEL,
        ),
    ] = None
    weights_from: Annotated[
        WeightsOrigin | None,
        Setting("The library that the weights were made for, where their names do not tell.", MODEL),
    ] = None

    def __post_init__(self) -> None:
        """Check every field, and that the three ways to name a normalization agree.

        Raises:
            ConfigError: a value is of the wrong type or out of range, or two contradict each other; names the field.
        """
        super().__post_init__()
        if self.ghost_batch is not None and self.norm not in (None, f"ghost:{self.ghost_batch}"):
            raise ConfigError(f"model.ghost_batch: excludes --norm {self.norm}")
        if not self.bn and self.ghost_batch is not None:
            raise ConfigError("model.ghost_batch: excludes --no-bn")
        if not self.bn and self.norm not in (None, "none"):
            raise ConfigError(f"model.norm: {self.norm} excludes --no-bn")

    @property
    def normalization(self) -> str:
        """The normalization of the network: batch, group, layer, ghost:N or none."""
        if self.ghost_batch is not None:
            return f"ghost:{self.ghost_batch}"
        return self.norm or ("batch" if self.bn else "none")

    @property
    def has_bn(self) -> bool:
        """True if the network has BN layers; in eval mode, ghost BN is BN."""
        return is_bn(self.normalization)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """The images, and the way they are read."""

    source: Annotated[
        str,
        Setting(
            "A known name (see `bncli data list`), a directory of images or records, or an .npz.", DATA, option="data"
        ),
    ] = "digits"
    data_dir: Annotated[
        str | None, Setting("The folder to search first for a known data set.", DATA, changeable=True)
    ] = None
    val_fraction: Annotated[
        OpenFraction, Setting("Share of the training images kept for validation, stratified by class.", DATA)
    ] = 0.1
    image_size: Annotated[Pixels | None, Setting("Resize the images to this many pixels square.", DATA)] = None
    channels: Annotated[Pixels | None, Setting("1 for grey, 3 for colour; by default as in the files.", DATA)] = None
    pixel_range: Annotated[
        Range,
        Setting(
            "Values that become black and white where pixels have more than 8 bits, such as 0:4095; auto measures the "
            "training images.",
            DATA,
        ),
    ] = "auto"
    resize: Annotated[
        Pixels | None,
        Setting(
            "Scale the shorter side of an image file to this many pixels, then cut --image-size out of the centre; by "
            "default the image is scaled until it just covers --image-size.",
            DATA,
        ),
    ] = None
    interpolation: Annotated[Interpolation, Setting("Filter for scaling image files.", DATA)] = "bilinear"
    mean: Annotated[
        Numbers | None,
        Setting(
            "Per channel, subtracted from pixels in [0, 1], such as 0.5,0.5,0.5; by default that of the images.", DATA
        ),
    ] = None
    std: Annotated[
        Numbers | None,
        Setting("Per channel, divides what --mean has left; by default that of the images.", DATA),
    ] = None
    stream: Annotated[
        bool | None,
        Setting(
            "Read images while training instead of keeping them all in memory: the same batches, so the same weights; "
            "by default if they do not fit.",
            DATA,
            changeable=True,
        ),
    ] = None
    workers: Annotated[
        int,
        Bounds(ge=0, lt=2**10),
        Setting("Processes that read streamed images; 0 reads by threads of this one.", DATA, changeable=True),
    ] = 0
    bad_images: Annotated[BadImages, Setting("Treatment of an unreadable image file.", DATA)] = "error"
    augment: Annotated[
        bool,
        Setting(
            "Change the training images at random: shifted and flipped as suits the data, or as set below.", AUGMENT
        ),
    ] = True
    random_resized_crop: Annotated[
        Factor | None,
        Setting(
            "In place of a shift, train on a random part of each image, resized, of at least this share of its area, "
            "such as 0.08. Images are then scored by their centre: --resize is 8/7 of --image-size unless it is given.",
            AUGMENT,
        ),
    ] = None
    hflip: Annotated[
        Probability | None,
        Setting("Probability of mirroring left and right; by default 0.5 for photographs and 0 for digits.", AUGMENT),
    ] = None
    augment_flip: Annotated[
        FlipMode,
        Setting(
            "random: each epoch mirrors an image or not by chance. alternating: each image is mirrored in every other "
            "epoch, half of them in the first.",
            AUGMENT,
        ),
    ] = "random"
    augment_shift: Annotated[
        Shift | None,
        Setting("Largest shift in pixels along each axis; 0 for none, by default as suits the data.", AUGMENT),
    ] = None
    augment_padding: Annotated[
        PadMode | None,
        Setting(
            "Pixels that a shift moves in: black (zero) or those of the image, mirrored at its border; by default as "
            "suits the data.",
            AUGMENT,
        ),
    ] = None
    color_jitter: Annotated[
        NonNegative, Setting("Strength of random brightness, contrast and saturation, such as 0.4.", AUGMENT)
    ] = 0.0
    randaugment: Annotated[
        int, Bounds(ge=0, le=16), Setting("Number of RandAugment's operations for each image, such as 2.", AUGMENT)
    ] = 0
    randaugment_magnitude: Annotated[
        int, Bounds(ge=0, le=30), Setting("Magnitude of these operations, 0 to 30.", AUGMENT)
    ] = 9
    random_erasing: Annotated[
        Probability, Setting("Probability of erasing a random rectangle, such as 0.25.", AUGMENT)
    ] = 0.0
    mixup: Annotated[
        NonNegative, Setting("α of mixup, which adds two images and their labels, such as 0.2.", AUGMENT)
    ] = 0.0
    cutmix: Annotated[
        NonNegative, Setting("α of CutMix, which pastes a part of one image into another, such as 1.", AUGMENT)
    ] = 0.0

    def __post_init__(self) -> None:
        """Check every field, and that flips that alternate have no other probability.

        Raises:
            ConfigError: a value is of the wrong type or out of range, or two contradict each other; names the field.
        """
        super().__post_init__()
        if self.augment_flip == "alternating" and self.hflip not in (None, 0, 0.5):
            raise ConfigError(
                f"data.augment_flip: alternating mirrors each image in every other epoch, and excludes --hflip "
                f"{self.hflip:g}; add --augment-flip random"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """The update of the weights."""

    name: Annotated[
        OptimizerName,
        Setting(
            "sgd has Nesterov momentum. muon makes the steps of convolutions orthogonal; the rest learns by AdamW at "
            "a tenth of the rate.",
            OPTIMIZER,
            option="optimizer",
        ),
    ] = "sgd"
    learning_rate: Annotated[
        PositiveFloat | None,
        Setting("Peak of the schedule; by default 0.05 for sgd, 0.001 for adamw, 0.02 for muon.", OPTIMIZER),
    ] = None
    momentum: Annotated[Fraction, Setting("Momentum of sgd and muon.", OPTIMIZER)] = 0.9
    weight_decay: Annotated[
        NonNegative,
        Setting(
            "Decay of the kernels: L2 for sgd, decoupled for adamw and muon; biases and BN are left alone.", OPTIMIZER
        ),
    ] = 5e-4
    decay_all: Annotated[bool, Setting("Decay biases and BN scales too.", OPTIMIZER)] = False
    clip_norm: Annotated[
        PositiveFloat | None,
        Setting("Largest global gradient norm; 0 does not clip.", OPTIMIZER, off=0),
    ] = None
    label_smoothing: Annotated[Fraction, Setting("Share of the target spread over all classes.", OPTIMIZER)] = 0.0
    schedule: Annotated[ScheduleName, Setting("Shape of the learning rate over the epochs.", OPTIMIZER)] = "cosine"
    schedule_epochs: Annotated[
        Positive | None,
        Setting("Length of the schedule, by default --epochs; fix it to extend a run later.", OPTIMIZER),
    ] = None
    warmup_epochs: Annotated[
        NonNegative, Setting("Linear rise of the learning rate; at most a quarter of the schedule.", OPTIMIZER)
    ] = 1.0

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at the schedule's peak; the optimizer's default if none is set."""
        if self.learning_rate is not None:
            return self.learning_rate
        return {"adamw": 1e-3, "muon": 0.02, "sgd": 0.05}[self.name]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """Length, precision, seed and saves of the run."""

    epochs: Annotated[Positive, Setting("Passes over the training split.", changeable=True)] = 20
    batch_size: Annotated[Positive, Setting("Examples per step over all devices; BN normalizes over them.")] = 64
    accumulate: Annotated[
        Positive,
        Setting("Micro-batches of --batch-size per step. The step is that of one batch so many times as large."),
    ] = 1
    accumulate_bn: Annotated[
        AccumulateBn,
        Setting(
            "exact: BN normalizes over all micro-batches of a step, for about 1.7 times the computing. micro: over "
            "each by itself, the usual approximation."
        ),
    ] = "exact"
    bn_sync: Annotated[
        BnSync,
        Setting(
            "global: BN normalizes over the whole batch, on all devices. local: over each device's share, so that the "
            "numbers depend on how many there are."
        ),
    ] = "global"
    seed: Annotated[
        int, Bounds(ge=0, lt=2**32), Setting("Seed of weights, validation split, order, augmentation and dropout.")
    ] = 0
    precision: Annotated[Precision, Setting("Precision of activations; weights and statistics stay float32.")] = (
        "float32"
    )
    patience: Annotated[
        Positive | None,
        Setting("Stop after this many epochs without a better validation accuracy.", changeable=True),
    ] = None
    ema_decay: Annotated[
        OpenFraction | None,
        Setting(
            "Score and save a moving average of the weights, with BN statistics of its own; 0.999, say; 0 for none.",
            OPTIMIZER,
            off=0,
        ),
    ] = None
    precise_bn: Annotated[
        bool,
        Setting(
            "At the end, give the best epoch the BN statistics of the training images themselves.",
            OUTPUT,
            changeable=True,
        ),
    ] = False
    keep: Annotated[Positive, Setting("Last saves to keep, beside the best.", OUTPUT, changeable=True)] = 2
    save_every: Annotated[
        Interval | None,
        Setting("Save within epochs too: every so many steps, or seconds as in 60s.", OUTPUT, changeable=True),
    ] = None
    log: Annotated[
        Loggers | None,
        Setting(
            "Also log for csv, mlflow, tensorboard, trackio, wandb: names separated by commas; none ends it.",
            OUTPUT,
            changeable=True,
        ),
    ] = None
    on_save_error: Annotated[
        OnSaveError, Setting("Treatment of a save that cannot be written.", OUTPUT, changeable=True)
    ] = "stop"
    on_nan: Annotated[
        OnNan,
        Setting(
            "A non-finite step never reaches the weights. stop: save and end. skip: leave the step out. "
            "rollback: return to the last save, with half of the learning rate.",
            OUTPUT,
            changeable=True,
        ),
    ] = "stop"
    deterministic: Annotated[
        bool, Setting("On a GPU, use only algorithms that give the same bytes each time; on a CPU all do.")
    ] = False

    @property
    def step_size(self) -> int:
        """Examples per optimizer step: those of all micro-batches."""
        return self.batch_size * self.accumulate


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Section):
    """The arrays that are frozen, and the speed at which each layer learns."""

    freeze: Annotated[
        tuple[str, ...],
        Setting(
            "Do not train the arrays whose path, or a module's in it, matches this glob, such as 'Conv_*'; backbone "
            "means all but the head. A BN layer frozen whole keeps its statistics too. Repeatable.",
            FINETUNE,
        ),
    ] = ()
    unfreeze_at: Annotated[
        Positive | None, Setting("The epoch, from 1, from which on what --freeze froze is trained too.", FINETUNE)
    ] = None
    freeze_bn: Annotated[
        FreezeBn | None,
        Setting(
            "statistics: every BN layer normalizes by its running statistics and keeps them. all: it keeps its scale "
            "and bias too. none: BN is trained.",
            FINETUNE,
            off="none",
        ),
    ] = None
    head_lr_scale: Annotated[PositiveFloat, Setting("Factor of the head's learning rate.", FINETUNE)] = 1.0
    bias_lr_scale: Annotated[
        PositiveFloat, Setting("Factor of the learning rate of all biases, those of BN included; 64, say.", FINETUNE)
    ] = 1.0
    layer_decay: Annotated[
        Factor,
        Setting("Factor of the learning rate for each layer or block further from the head; 0.75, say.", FINETUNE),
    ] = 1.0

    def __post_init__(self) -> None:
        """Check every field, and that there is something to unfreeze.

        Raises:
            ConfigError: a value is of the wrong type or out of range; names the field.
        """
        super().__post_init__()
        if self.freeze_bn == "none":
            object.__setattr__(self, "freeze_bn", None)
        if self.unfreeze_at is not None and not self.freeze:
            raise ConfigError("finetune.unfreeze_at: needs something that is frozen, such as --freeze backbone")

    @property
    def is_used(self) -> bool:
        """True if some array is not trained like all others."""
        scales = self.head_lr_scale, self.bias_lr_scale, self.layer_decay
        return bool(self.freeze or self.freeze_bn) or scales != (1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of one run, by section."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = _VALIDATION

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
