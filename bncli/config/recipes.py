"""Recipes: the defaults of ``bncli train`` for known data sets, below every option that is given.

The recipes of Fashion-MNIST and CIFAR-10 were tried with the `cnn`, with BN and without; their accuracies are in
``scripts/results/recipes.json``. The one of CIFAR-100 is an untested start.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from bncli.errors import UsageError

NONE = "none"

RecipeValue = float | tuple[str, ...]  # a number, or the texts of an option that is repeated


@dataclass(frozen=True)
class Recipe:
    """Options by the names of their parameters; others keep their own defaults.

    Attributes:
        options: for every run.
        without_bn: for a run without BN, on top of those.
    """

    options: Mapping[str, RecipeValue]
    without_bn: Mapping[str, RecipeValue]


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
_OF_CNN = ("dropout", "model_arg")


def recipe_options(name: str | None, *, data: str, model: str, bn: bool, optimizer: str) -> Mapping[str, RecipeValue]:
    """The options of a recipe, by the names of their parameters.

    Args:
        name: the recipe, "none", or None for the data set's own, if there is one.
        data: the data set.
        model: the network.
        bn: True with BN.
        optimizer: its name.

    Raises:
        UsageError: there is no such recipe.
    """
    if name not in (None, NONE, *RECIPES):
        close = difflib.get_close_matches(str(name), RECIPES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UsageError(f"--recipe {name}: no such recipe", remedy=f"Choose {NONE} or {', '.join(RECIPES)}.{hint}")
    recipe = RECIPES.get(data if name is None else name)
    if recipe is None:
        return {}
    options = recipe.options if bn else {**recipe.options, **recipe.without_bn}
    left_out = (*(_OF_SGD if optimizer != "sgd" else ()), *(_OF_CNN if model != "cnn" else ()))
    return {name: value for name, value in options.items() if name not in left_out}
