"""Recipes: the defaults of ``bncli train`` for known data and for the user's own, below every option that is given.

The recipes of Fashion-MNIST and CIFAR-10 were tried with the `cnn`, with BN and without, and ``fast`` with the
`fastnet`; their accuracies are in ``scripts/results/recipes.json``. CIFAR-100 was not tried. ``own_data`` is for
folders and files; ``scripts/bench_own_data.py`` tries it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bncli.config.options import Option, by_key, options
from bncli.config.settings import is_bn
from bncli.errors import UsageError

NONE = "none"
AUTO = "auto"  # the recipe for the user's own data
FAST = "fast"  # the recipe for accuracy in few epochs

Values = Mapping[Option, object]  # settings and their values


@dataclass(frozen=True)
class Recipe:
    """Settings by their keys, such as "training.epochs"; others keep their own defaults.

    Attributes:
        settings: for every run.
        without_bn: for a run without BN, on top of those.
        model: the network that "model.dropout" and "model.args" are for.
    """

    settings: Mapping[str, object]
    without_bn: Mapping[str, object]
    model: str = "cnn"


# With clipping, a run without BN tolerates BN's learning rate, and profits from it: after 2 epochs without BN, the
# validation accuracy was 0.860, 0.886, 0.903 and 0.906 at 0.02, 0.05, 0.1 and 0.2 on Fashion-MNIST (in a longer run
# 0.2 fell behind 0.1), and 0.569 and 0.620 at 0.05 and 0.1 on CIFAR-10.
_WITHOUT_BN: Mapping[str, object] = {"optimizer.clip_norm": 1.0}
# Accuracy on CIFAR-10's JPEGs: 0.857 with the usual three stages and 0.867 with four, after 20 epochs; 0.883 with five
# and averaged weights, after 35.
_SMALL_PHOTOGRAPHS = Recipe(
    settings={
        "training.batch_size": 128,
        "optimizer.learning_rate": 0.1,
        "model.dropout": 0.1,
        "optimizer.label_smoothing": 0.1,
        "training.ema_decay": 0.999,
        "model.args": {"features": [32, 64, 128, 256, 512]},
    },
    without_bn=_WITHOUT_BN,
)
RECIPES: dict[str, Recipe] = {
    "fashion-mnist": Recipe(
        settings={"training.batch_size": 128, "optimizer.learning_rate": 0.1, "model.dropout": 0.1},
        without_bn=_WITHOUT_BN,
    ),
    "cifar10": _SMALL_PHOTOGRAPHS,
    "cifar100": _SMALL_PHOTOGRAPHS,
}
# Accuracy in few epochs, of any small images (docs/guides/time-to-accuracy.md).
_FAST = Recipe(
    settings={
        "model.name": "fastnet",
        "model.init": "dirac",
        "model.bn_momentum": 0.6,
        "training.epochs": 10,
        "training.batch_size": 1024,
        "training.ema_decay": 0.95,
        "optimizer.name": "muon",
        "optimizer.learning_rate": 0.17,
        "optimizer.momentum": 0.6,
        "optimizer.weight_decay": 0.08,
        "optimizer.label_smoothing": 0.2,
        "optimizer.schedule": "triangular",
        "data.augment_flip": "alternating",
        "data.augment_shift": 2,
        "data.augment_padding": "reflect",
        "finetune.freeze": ("whiten", "*BatchNorm_*/scale"),
    },
    without_bn={
        "optimizer.learning_rate": 0.1,
        "optimizer.clip_norm": 1.0,
        "finetune.freeze": ("whiten",),
    },
    model="fastnet",
)
# Known data that take it by default, unless another network is chosen.
_OWN_IS_FAST = ("cifar10", "cifar100")
# Options that make sense for one optimizer or one network only: left out for another one.
_OF_OPTIMIZER = ("optimizer.learning_rate", "optimizer.momentum", "optimizer.weight_decay")
_OF_MODEL = ("model.dropout", "model.args", "model.init", "finetune.freeze")
# Left out where images are not changed at random.
_OF_AUGMENTATION = (
    "data.color_jitter",
    "data.mixup",
    "data.augment_flip",
    "data.augment_shift",
    "data.augment_padding",
)
# Left out for a network of the user's code, whose BN may be of a class that cannot be frozen.
_OF_BUILT_IN = ("finetune.freeze_bn",)

# Images that a run on the user's own data looks at in all, within the bounds of its epochs.
_IMAGES_SEEN = 60_000
_EPOCHS = (20, 100)
# Number of training images -> batch size of a smaller set. BN needs a batch, and a small set needs steps.
_BATCH_SIZES = ((500, 16), (5_000, 32))
_LARGEST_BATCH = 64
# Tried on 1,000 photographs: docs/results.md, "What was tried on 1,000 photographs".
_CHANGES_OF_IMAGES = {"data.color_jitter": 0.4, "data.mixup": 0.2}
# Steps over which running statistics average at BN's default momentum, 0.9.
_BN_STEPS = 10

# The same for a run that starts from pretrained weights. Most networks that have some cost more for an image.
_IMAGES_SEEN_FINE_TUNING = 10_000
_EPOCHS_FINE_TUNING = (3, 10)
# Training images below which BN keeps the statistics that came with the weights: docs/results.md, "Fine-tuning".
_FEW_IMAGES = 1_000


def own_data(num_train: int, *, fine_tunes: bool = False) -> Recipe:
    """The recipe for data of which no more is known than their number.

    The network adapts itself to the side of the images. Gradients are clipped, so that one learning rate serves all.

    Args:
        num_train: training images.
        fine_tunes: True if the run starts from pretrained weights.
    """
    seen, (fewest, most) = (_IMAGES_SEEN_FINE_TUNING, _EPOCHS_FINE_TUNING) if fine_tunes else (_IMAGES_SEEN, _EPOCHS)
    batch_size = next((size for limit, size in _BATCH_SIZES if num_train < limit), _LARGEST_BATCH)
    settings = {
        "model.name": "convnet",
        "training.epochs": min(most, max(fewest, seen // num_train)),
        "training.batch_size": batch_size,
        "optimizer.clip_norm": 1.0,
        "optimizer.label_smoothing": 0.1,
        **_bn_momentum(steps_per_epoch=-(-num_train // batch_size)),
    }
    frozen = {"finetune.freeze_bn": "statistics"} if fine_tunes and num_train < _FEW_IMAGES else {}
    changes = {} if fine_tunes else _CHANGES_OF_IMAGES
    return Recipe(
        settings={**settings, **changes, **frozen},
        without_bn={"finetune.freeze_bn": None} if frozen else {},
        model="convnet",
    )


def _bn_momentum(*, steps_per_epoch: int) -> dict[str, object]:
    """A momentum of BN whose running statistics reach back over one epoch, where the default reaches further."""
    return {"model.bn_momentum": round(1 - 1 / max(steps_per_epoch, 2), 2)} if steps_per_epoch < _BN_STEPS else {}


def named_recipe(name: str | None, asked: Values, *, bfloat16_pays: bool = False) -> Recipe | None:
    """The recipe of this name or, if the name is None, that of the data set; None if there is none.

    Args:
        name: the recipe, "none", "auto", "fast", or None.
        asked: the settings that the user chose, of which the data and the network decide.
        bfloat16_pays: True if this machine trains faster in bfloat16, which `fast` then takes.

    Raises:
        UsageError: there is no such recipe.
    """
    if name not in (None, NONE, AUTO, FAST, *RECIPES):
        close = difflib.get_close_matches(str(name), (FAST, *RECIPES), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UsageError(
            f"--recipe {name}: no such recipe",
            remedy=f"Choose {NONE}, {AUTO}, {FAST} or {', '.join(RECIPES)}.{hint}",
        )
    data, model = settled(asked)[by_key()["data.source"]], asked.get(by_key()["model.name"], _FAST.model)
    if name == FAST or (name is None and data in _OWN_IS_FAST and model == _FAST.model):
        precision = {"training.precision": "bfloat16"} if bfloat16_pays else {}
        return replace(_FAST, settings={**_FAST.settings, **precision})
    return RECIPES.get(str(data) if name is None else name)


def recommended(recipe: Recipe, asked: Values) -> Values:
    """The settings that a recipe decides for a run.

    Args:
        recipe: the recipe.
        asked: the settings that the user chose, which the recipe leaves alone.
    """

    def value_of(key: str) -> object:
        return asked.get(by_key()[key], by_key()[key].default)

    with_bn = value_of("model.bn") and is_bn(str(value_of("model.norm") or "batch"))
    settings = recipe.settings if with_bn else {**recipe.settings, **recipe.without_bn}
    is_other = by_key()["model.name"] in asked and value_of("model.name") != recipe.model
    own_optimizer = settings.get("optimizer.name", by_key()["optimizer.name"].default)
    left_out = (
        *(_OF_OPTIMIZER if asked.get(by_key()["optimizer.name"], own_optimizer) != own_optimizer else ()),
        *(_OF_MODEL if is_other else ()),
        *(() if value_of("data.augment") else _OF_AUGMENTATION),
        *(_OF_BUILT_IN if ":" in str(value_of("model.name")) else ()),
        *(option.key for option in asked),
    )
    return {by_key()[key]: value for key, value in settings.items() if key not in left_out}


def settled(asked: Values, chosen: Values | None = None) -> Values:
    """All settings of a run: those that the user chose, above those that its recipe decides, above the defaults.

    Args:
        asked: the settings that the user chose.
        chosen: those of the recipe, as ``recommended`` gives them.
    """
    return {**defaults(), **(chosen or {}), **asked}


def defaults() -> Values:
    """Every setting with its own default."""
    return {option: option.default for option in options()}
