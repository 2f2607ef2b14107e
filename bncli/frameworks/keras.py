"""Keras 3 models on JAX: their variables by path, their call in eval mode, and models without BN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import keras
import numpy as np

from bncli.errors import FoldError
from bncli.folding import Folded
from bncli.folding.trace.graph import Pytree
from bncli.frameworks.adapted import (
    BIAS,
    MEAN,
    PARAMETERS,
    SCALE,
    STATISTICS,
    VAR,
    Adapted,
    ArrayPath,
    NewStatistics,
    at,
    filed,
)
from bncli.frameworks.linen import BatchNormSettings, Variables
from bncli.frameworks.without_norms import REMEDY, Remains, remains_of

NAMES = {"gamma": SCALE, "beta": BIAS, "moving_mean": MEAN, "moving_variance": VAR}


def adapt(model: keras.Model) -> Adapted:
    """The network of a model, which stays as it is; it is called with ``training=False``.

    Raises:
        FoldError: Keras runs on another backend than JAX, or the model has no variables yet.
    """
    _check(model)
    norms = {_layer_name(layer, model): layer for layer in _layers(model) if _is_norm(layer)}
    trainable, others = list(model.trainable_variables), list(model.non_trainable_variables)
    paths = _paths(model, norms)

    def apply_fn(variables: Variables, x: Pytree) -> Pytree:
        given = [at(variables, paths[id(variable)]) for variable in trainable]
        state = [at(variables, paths[id(variable)]) for variable in others]
        outputs, after = model.stateless_call(given, state, x, training=False)
        for variable, before, now in zip(others, state, after, strict=True):
            if before is not now:
                raise FoldError(
                    f"{variable.path} changes when the model is called with training=False",
                    remedy="leave training= of BatchNormalization to the call of the model",
                )
        return outputs

    return Adapted(
        framework="keras-model",
        apply_fn=apply_fn,
        variables=filed({paths[id(variable)]: variable.value for variable in (*trainable, *others)}),
        norms={name: BatchNormSettings(float(layer.epsilon), float(layer.momentum)) for name, layer in norms.items()},
        with_statistics=lambda new: _with_statistics(model, norms, new),
        again=adapt,
        module=lambda folded: _without_norms(model, folded),
    )


def _check(model: keras.Model) -> None:
    if keras.backend.backend() != "jax":
        raise FoldError(
            f"Keras runs on {keras.backend.backend()}, and bncli folds models on JAX",
            remedy="set KERAS_BACKEND=jax before Keras is imported, and load the model again",
        )
    if not model.built:
        raise FoldError("the model has no variables yet", remedy="build it first: call it once with an input")


def _is_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """All layers inside, each once."""
    seen: set[int] = set()
    stack = [layer]
    while stack:
        found = stack.pop()
        if id(found) not in seen:
            seen.add(id(found))
            yield found
            # Private, because `layers` lists the inner layers of models only.
            stack.extend(reversed(list(found._flatten_layers(include_self=False, recursive=False))))


def _layer_name(layer: keras.layers.Layer, model: keras.Model) -> str:
    """The layer's path in the model, as its variables have it: ``block/bn``."""
    return _module_of(layer.weights[0], model)


def _module_of(variable: keras.Variable, model: keras.Model) -> str:
    """The path of a variable's layer, without the name of the model itself."""
    return str(variable.path).rpartition("/")[0].removeprefix(f"{model.name}/")


def _paths(model: keras.Model, norms: Mapping[str, keras.layers.Layer]) -> dict[int, ArrayPath]:
    """The path of each variable, by its identity; a path that is taken gets a number."""
    of_norms = {id(variable) for layer in norms.values() for variable in layer.weights}
    taken: dict[ArrayPath, int] = {}
    paths: dict[int, ArrayPath] = {}
    for variable in (*model.trainable_variables, *model.non_trainable_variables):
        module, name = _module_of(variable, model), str(variable.path).rpartition("/")[2]
        is_norm = id(variable) in of_norms
        is_statistic = is_norm and name in ("moving_mean", "moving_variance")
        collection = STATISTICS if is_statistic else PARAMETERS
        path = (collection, *module.split("/"), NAMES.get(name, name) if is_norm else name)
        taken[path] = taken.get(path, -1) + 1
        paths[id(variable)] = (*path[:-2], f"{path[-2]}_{taken[path]}", path[-1]) if taken[path] else path
    return paths


def _with_statistics(
    model: keras.Model, norms: Mapping[str, keras.layers.BatchNormalization], new: NewStatistics
) -> keras.Model:
    """The model itself, which holds its arrays, with these statistics."""
    for name, (mean, var) in new.items():
        norms[name].moving_mean.assign(mean)
        norms[name].moving_variance.assign(var)
    return model


def _without_norms(model: keras.Model, folded: Folded) -> keras.Model:
    """A clone of the model that computes what ``folded`` does.

    Raises:
        FoldError: a folded array has no place in the model, or the model cannot be cloned.
    """
    norms = [_layer_name(layer, model) for layer in _layers(model) if _is_norm(layer)]
    remains = remains_of(folded, norms)

    def cloned(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if _is_norm(layer):
            if _layer_name(layer, model) not in remains.norms:
                return keras.layers.Activation("linear", name=layer.name)
            config |= {"center": True, "scale": True}
        elif layer.weights and BIAS in remains.arrays.get(_layer_name(layer, model), {}) and "use_bias" in config:
            config["use_bias"] = True
        return type(layer).from_config(config)

    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise FoldError(
            f"{type(model).__name__} is a subclassed model, and Keras clones only functional and sequential ones",
            remedy=REMEDY,
        )
    call = None if isinstance(model, keras.Sequential) else _call  # Keras takes none for a sequential model
    clone: keras.Model = keras.models.clone_model(model, clone_function=cloned, call_function=call, recursive=True)
    for layer in _layers(clone):
        if layer.weights and not isinstance(layer, keras.Model):
            _set(layer, clone, remains)
    return clone


def _call(layer: keras.layers.Layer, *args: Pytree, **kwargs: Pytree) -> Pytree:
    """The layer's outputs; an activation in the place of a BN takes no mask."""
    return layer(*args) if isinstance(layer, keras.layers.Activation) else layer(*args, **kwargs)


def _set(layer: keras.layers.Layer, model: keras.Model, remains: Remains) -> None:
    """Fill a layer of the clone.

    Raises:
        FoldError: it has no variable for an array.
    """
    name = _layer_name(layer, model)
    if _is_norm(layer):
        arrays: Mapping[str, np.ndarray] = remains.norm(name, layer.moving_mean.shape[0], float(layer.epsilon))
    else:
        arrays = {key: np.asarray(array) for key, array in remains.arrays.get(name, {}).items()}
    own = {
        NAMES.get(variable.name, variable.name) if _is_norm(layer) else variable.name: variable
        for variable in layer.weights
    }
    for key, array in arrays.items():
        if key not in own:
            raise FoldError(f"the model has no place for the folded {name}/{key}", remedy=REMEDY)
        own[key].assign(array)
