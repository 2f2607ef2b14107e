"""The network to train that a class, a function or a transformed function of a user makes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeGuard

import flax.linen as nn
import numpy as np

from bncli.errors import ModelError
from bncli.frameworks.construction import Construction
from bncli.frameworks.linen import as_network
from bncli.frameworks.network import Network

KINDS = "a module of Flax (linen or NNX) or Equinox, a function that returns one, or a function transformed by Haiku"


def is_buildable(target: object) -> bool:
    """True if a user's object can be a network to train, or may return one."""
    return is_network_like(target) or (callable(target) and not isinstance(target, type))


def is_network_like(target: object) -> bool:
    """True if a user's object is a class of modules, or a transformed function."""
    if isinstance(target, type):
        return any(issubclass(target, module) and target is not module for module in _module_classes())
    return _is_transformed(target)


def is_linen_class(target: object) -> TypeGuard[type[nn.Module]]:
    """True if a user's object is a class of linen modules."""
    return isinstance(target, type) and issubclass(target, nn.Module)


def takes_dtype(target: object) -> bool:
    """True if an argument ``dtype`` is that of the computation. In Equinox it is that of the parameters."""
    return not (callable(target) and _makes(Construction("", target), "equinox"))


def build(name: str, target: object, arguments: Mapping[str, object], *, dtype: np.dtype | None) -> Network:
    """The network that a user's object makes.

    Args:
        name: of the model.
        target: a class, a function, or a transformed function of Haiku.
        arguments: its keyword arguments.
        dtype: of the computation, for frameworks whose modules do not take one; None for float32.

    Raises:
        ModelError: it makes no network, or none that can compute in this dtype.
    """
    if _is_transformed(target):
        return _haiku(name, target, dtype)
    assert callable(target)
    construction = Construction(name, target, tuple(sorted(arguments.items())))
    if _makes(construction, "nnx"):
        return _nnx(construction)
    if _makes(construction, "equinox"):
        return _equinox(construction, dtype)
    return _of_result(construction, dtype)


def _of_result(construction: Construction, dtype: np.dtype | None) -> Network:
    """The network that a function returns which takes no random numbers."""
    try:
        made = construction()
    except Exception as error:
        raise construction.failed(error) from error
    if isinstance(made, nn.Module):
        return as_network(made)
    if _is_transformed(made):
        return _haiku(construction.name, made, dtype)
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(made, nnx.Module):
        return _nnx(construction)
    if equinox is not None and isinstance(made, equinox.Module):
        return _equinox(construction, dtype)
    raise ModelError(f"{construction.name} returns a {type(made).__name__}", remedy=f"It must be or return {KINDS}.")


def _makes(construction: Construction, framework: str) -> bool:
    """True if the target is a class of this framework, or a function that takes what its constructors take."""
    library = {"nnx": "flax.nnx", "equinox": "equinox"}[framework]
    module = sys.modules.get(library)
    if module is None:
        return False
    if isinstance(construction.target, type):
        return issubclass(construction.target, module.Module)
    return {"nnx": "rngs", "equinox": "key"}[framework] in construction.parameters


def _nnx(construction: Construction) -> Network:
    from bncli.frameworks.nnx_network import NnxNetwork

    return NnxNetwork(construction)


def _equinox(construction: Construction, dtype: np.dtype | None) -> Network:
    from bncli.frameworks.equinox_network import EquinoxNetwork

    return EquinoxNetwork(construction, np.dtype("float32") if dtype is None else dtype)


def _haiku(name: str, transformed: Any, dtype: np.dtype | None) -> Network:  # noqa: ANN401 - Haiku may not be imported
    if dtype is not None and dtype != np.float32:
        raise ModelError(
            f"{name}: Haiku's networks choose their precision themselves, and are not trained in {dtype}",
            remedy="Leave out --precision; jmp sets the precision of modules inside the function.",
        )
    from bncli.frameworks.haiku_network import HaikuNetwork

    return HaikuNetwork(name, transformed)


def _is_transformed(target: object) -> bool:
    haiku = sys.modules.get("haiku")
    return haiku is not None and isinstance(target, haiku.Transformed | haiku.TransformedWithState)


def _module_classes() -> list[type]:
    """The classes of modules of the frameworks that the user has imported."""
    libraries: list[ModuleType | None] = [sys.modules.get(name) for name in ("flax.nnx", "equinox")]
    return [nn.Module, *(library.Module for library in libraries if library is not None)]
