"""The settings of a run that starts from weights: those that the weights decide, below what the user chose."""

from __future__ import annotations

from collections.abc import Mapping

from bncli.config.options import Option, by_key
from bncli.config.recipes import Values
from bncli.errors import UsageError
from bncli.weights.pretrained import Pretrained

WEIGHTS = "model.weights"
# Decided by the weights alone: with any other value the network would compute something else.
_BINDING = ("model.name", "model.args", "model.bn", "model.bn_placement", "model.bn_epsilon")
# Fine-tuning needs a lower rate than a start from random weights; a recipe would set the higher one.
_LEARNING_RATE = {"sgd": 0.01, "adamw": 1e-4, "muon": 0.002}


def settings_of(pretrained: Pretrained, asked: Values, *, resizes: bool) -> dict[Option, object]:
    """The settings that the weights decide; those that the user chose are left out.

    Args:
        pretrained: the weights.
        asked: the settings that the user chose.
        resizes: True if the data are image files, which take the size and channels of the weights.

    Raises:
        UsageError: the user chose another value for a setting that the weights bind.
    """
    chosen = {option.key: value for option, value in asked.items()}
    decided = {**_of_model(pretrained), **_of_images(pretrained, chosen, resizes=resizes)}
    name = str(chosen.get("optimizer.name", by_key()["optimizer.name"].default))
    decided["optimizer.learning_rate"] = _LEARNING_RATE[name]
    for key in _BINDING:
        if key in chosen and not _agrees(chosen[key], decided[key], key):
            raise UsageError(
                f"--{by_key()[key].flag} {_words(chosen[key])}: the weights of {pretrained.record.source} were trained "
                f"with {_words(decided[key])}",
                remedy="Leave it out: the weights decide it.",
            )
    bound = {key: decided[key] for key in _BINDING}
    free = {key: value for key, value in decided.items() if key not in chosen}
    return {by_key()[key]: value for key, value in {**free, **bound}.items()}


def _of_model(pretrained: Pretrained) -> dict[str, object]:
    model = pretrained.model
    return {
        "model.name": model.name,
        "model.args": dict(model.args),
        "model.bn": model.bn,
        "model.norm": model.norm,
        "model.ghost_batch": model.ghost_batch,
        "model.bn_placement": model.bn_placement,
        "model.bn_epsilon": model.bn_epsilon,
        "model.bn_momentum": model.bn_momentum,
        "model.dropout": model.dropout,
    }


def _of_images(pretrained: Pretrained, chosen: Mapping[str, object], *, resizes: bool) -> dict[str, object]:
    images = pretrained.preprocessing
    found: dict[str, object] = {"data.mean": _numbers(images.mean), "data.std": _numbers(images.std)}
    if not resizes:
        return found
    found["data.channels"] = images.channels
    height, width = images.size
    if height != width:
        return found
    size = chosen.get("data.image_size", height)
    assert isinstance(size, int)
    found["data.image_size"] = size
    if images.crop is not None:
        found["data.resize"] = max(size, round(images.crop.resize * size / height))
        found["data.interpolation"] = images.crop.interpolation
    return found


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(map(repr, values))


def _agrees(asked: object, decided: object, key: str) -> bool:
    """True if a chosen value is that of the weights; chosen arguments may be some of them."""
    if key == "model.args" and isinstance(asked, Mapping) and isinstance(decided, Mapping):
        return all(decided.get(name) == value for name, value in asked.items())
    return asked == decided


def _words(value: object) -> str:
    return " ".join(f"{name}={item}" for name, item in value.items()) if isinstance(value, Mapping) else str(value)
