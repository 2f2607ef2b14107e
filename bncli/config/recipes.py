"""Recipes: the defaults of ``bncli train`` for known data and for the user's own, below every option that is given.

The recipes of Fashion-MNIST and CIFAR-10 were tried with the `cnn`, with BN and without; their accuracies are in
``scripts/results/recipes.json``. The one of CIFAR-100 is an untested start. ``own_data`` is for folders and files;
``scripts/results/own_data.json`` has its accuracies.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from bncli.errors import UsageError

NONE = "none"
AUTO = "auto"  # the recipe for the user's own data

RecipeValue = float | str | tuple[str, ...]  # a number, a word, or the texts of an option that is repeated


@dataclass(frozen=True)
class Recipe:
    """Options by the names of their parameters; others keep their own defaults.

    Attributes:
        options: for every run.
        without_bn: for a run without BN, on top of those.
        model: the network that `dropout` and `model_arg` are for.
    """

    options: Mapping[str, RecipeValue]
    without_bn: Mapping[str, RecipeValue]
    model: str = "cnn"


# With clipping, a run without BN tolerates BN's learning rate, and profits from it: after 2 epochs without BN, the
# validation accuracy was 0.860, 0.886, 0.903 and 0.906 at 0.02, 0.05, 0.1 and 0.2 on Fashion-MNIST (in a longer run
# 0.2 fell behind 0.1), and 0.569 and 0.620 at 0.05 and 0.1 on CIFAR-10.
_WITHOUT_BN: Mapping[str, RecipeValue] = {"clip_norm": 1.0}
# Accuracy on CIFAR-10's JPEGs: 0.857 with the usual three stages and 0.867 with four, after 20 epochs; 0.883 with five
# and averaged weights, after 35.
_SMALL_PHOTOGRAPHS = Recipe(
    options={
        "batch_size": 128,
        "learning_rate": 0.1,
        "dropout": 0.1,
        "label_smoothing": 0.1,
        "ema_decay": 0.999,
        "model_arg": ("features=[32,64,128,256,512]",),
    },
    without_bn=_WITHOUT_BN,
)
RECIPES: dict[str, Recipe] = {
    "fashion-mnist": Recipe(options={"batch_size": 128, "learning_rate": 0.1, "dropout": 0.1}, without_bn=_WITHOUT_BN),
    "cifar10": _SMALL_PHOTOGRAPHS,
    "cifar100": _SMALL_PHOTOGRAPHS,
}
# Options that make sense for one optimizer or one network only: left out for another one.
_OF_SGD = ("learning_rate", "weight_decay")
_OF_MODEL = ("dropout", "model_arg")

# Images that a run on the user's own data looks at in all, within the bounds of its epochs.
_IMAGES_SEEN = 60_000
_EPOCHS = (20, 100)
# Number of training images -> batch size of a smaller set. BN needs a batch, and a small set needs steps.
_BATCH_SIZES = ((500, 16), (5_000, 32))
_LARGEST_BATCH = 64


def own_data(num_train: int) -> Recipe:
    """The recipe for data of which no more is known than their number.

    The network adapts itself to the side of the images. Gradients are clipped, so that one learning rate serves all.

    Args:
        num_train: training images.
    """
    fewest, most = _EPOCHS
    return Recipe(
        options={
            "model": "convnet",
            "epochs": min(most, max(fewest, _IMAGES_SEEN // num_train)),
            "batch_size": next((size for limit, size in _BATCH_SIZES if num_train < limit), _LARGEST_BATCH),
            "clip_norm": 1.0,
            "label_smoothing": 0.1,
        },
        without_bn={},
        model="convnet",
    )


def named_recipe(name: str | None, *, data: str) -> Recipe | None:
    """The recipe of this name or, if the name is None, that of the data set; None if there is none.

    Args:
        name: the recipe, "none", "auto", or None.
        data: the data set.

    Raises:
        UsageError: there is no such recipe.
    """
    if name not in (None, NONE, AUTO, *RECIPES):
        close = difflib.get_close_matches(str(name), RECIPES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UsageError(
            f"--recipe {name}: no such recipe", remedy=f"Choose {NONE}, {AUTO} or {', '.join(RECIPES)}.{hint}"
        )
    return RECIPES.get(data if name is None else name)


def recipe_options(recipe: Recipe, *, model: str | None, bn: bool, optimizer: str) -> Mapping[str, RecipeValue]:
    """The options of a recipe for a run, by the names of their parameters.

    Args:
        recipe: the recipe.
        model: the network that the user chose; None for the recipe's own.
        bn: True with BN.
        optimizer: its name.
    """
    options = recipe.options if bn else {**recipe.options, **recipe.without_bn}
    is_other = model not in (None, recipe.model)
    left_out = (*(_OF_SGD if optimizer != "sgd" else ()), *(_OF_MODEL if is_other else ()))
    return {name: value for name, value in options.items() if name not in left_out}
