"""The user's own network, named as ``package.module:Class`` or ``file.py:Class``.

Building it imports, and so runs, the named code, and remembers that it ran (see ``trust``). Code that a checkpoint
names must pass ``untrusted`` first, and is built with the SHA-256 that passed: ``source`` then runs no other bytes.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp

from bncli.config.file_names import on_disk
from bncli.config.json_types import JSON
from bncli.errors import ModelError
from bncli.frameworks.build import KINDS, build, is_buildable, is_linen_class, is_network_like, takes_dtype
from bncli.frameworks.construction import parameters_of
from bncli.frameworks.linen import as_network
from bncli.frameworks.network import Network
from bncli.models import trust
from bncli.models.layers import Dtype
from bncli.models.source import ModelCode, importing, run_file
from bncli.process.files import read_regular

# Arguments that Flax and bncli give to a network.
_NOT_GIVEN = frozenset({"key", "name", "parent", "rngs"})


def is_custom(name: str) -> bool:
    """True if the model name points to the user's code."""
    return ":" in name


def build_custom(
    name: str,
    args: Mapping[str, JSON],
    *,
    num_classes: int | None = None,
    dtype: Dtype | None = None,
    sha256: str | None = None,
) -> Network:
    """The user's network, built with ``args``, and with ``num_classes`` and ``dtype`` if it takes such arguments.

    Args:
        name: file.py:Class or package.module:Class; the place of Class may be taken by a function that returns a
            network, or by a function that Haiku has transformed.
        args: keyword arguments, the fields of a linen module.
        num_classes: of the data.
        dtype: of the computation.
        sha256: as in ``load_target``.

    Raises:
        ModelError: the file, the class or an argument does not exist, or the code fails.
    """
    target = load_target(name, sha256=sha256)
    parameters = parameters_of(target)
    defaults = {"num_classes": num_classes, "dtype": dtype if takes_dtype(target) else None}
    known = {key: value for key, value in defaults.items() if key in parameters and value is not None}
    arguments = known | hashable(args)
    unknown = sorted(set(arguments) - set(parameters))
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ModelError(
            f"--model-arg {unknown[0]}: {name} has no such argument",
            remedy=f"It takes {', '.join(key for key in parameters if key not in _NOT_GIVEN) or 'none'}.",
        )
    if not is_linen_class(target):
        return build(name, target, arguments, dtype=None if dtype is None else jnp.dtype(dtype))
    try:
        return as_network(target(**arguments))
    except Exception as error:
        raise ModelError(
            f"{name} cannot be built with {arguments}: {error}", remedy="Pass its arguments with --model-arg key=value."
        ) from error


def hashable(args: Mapping[str, JSON]) -> dict[str, JSON]:
    """The arguments with JSON lists as tuples, because a linen module must be hashable."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}


def load_target(name: str, *, sha256: str | None = None) -> object:
    """The class, the function or the transformed function that ``name`` points to.

    Args:
        name: file.py:Class or package.module:Class.
        sha256: the code runs only if it has this SHA-256 and the user ran it before, with the same neighbours; None if
            the user has named it.

    Raises:
        ModelError: the code is missing, fails, has changed, or has no such class.
    """
    module_name, _, target_name = name.rpartition(":")
    module = _run(name, sha256)
    target: object = getattr(module, target_name, None)
    if not is_buildable(target):
        own = [key for key, value in vars(module).items() if not key.startswith("_") and is_network_like(value)]
        raise ModelError(
            f"{name}: {target_name!r} is not a network of {module_name}",
            remedy=f"It has {', '.join(own) or 'none'}. A network is {KINDS}.",
        )
    return target


def _run(name: str, sha256: str | None) -> ModuleType:
    """The module of a custom model, run from bytes that are approved, or approving them for the next time."""
    module_name = name.rpartition(":")[0]
    source = source_file(name)
    if source is None:
        return _import_module(module_name)
    code = _code(name, source, sha256)
    try:
        with importing(code):
            module = run_file(source, code) if module_name.endswith(".py") else _import_module(module_name)
    except ModelError as error:
        raise ModelError(error.message, remedy=error.remedy or _name_it(name)) from error
    except Exception as error:
        raise ModelError(f"{source}: {type(error).__name__}: {error}", remedy="Fix the file and run again.") from error
    own = code.ran.get(source.resolve()) or _sha256(source)
    if code.approved is None and not code.unhashed and own is not None:
        trust.remember(source, own, code.neighbours(source))
    return module


def model_file_sha256(name: str) -> str | None:
    """SHA-256 of the source file behind a custom model; None for a built-in one."""
    source = source_file(name) if is_custom(name) else None
    return _sha256(source) if source else None


def untrusted(name: str, *, sha256: str | None, directory: Path) -> str | None:
    """The reason not to build the model that a checkpoint names unless the user asks for it; None if there is none.

    Args:
        name: the model's name in the checkpoint, a built-in model's or the user's own.
        sha256: SHA-256 of the model's code in the checkpoint.
        directory: the directory of the checkpoint.
    """
    source = source_file(name) if is_custom(name) else None
    if source is not None and source.resolve().is_relative_to(directory.resolve()):
        return f"the code of {name} lies inside the checkpoint: whoever made the checkpoint may have made the code"
    actual = _sha256(source) if source else None
    if actual != sha256 or (is_custom(name) and actual is None):
        return f"the code of {name} is missing or has changed since training"
    if source is not None and actual is not None and trust.approved(source, actual) is None:
        return f"the code of {name} was not run by you before, and a checkpoint that names it is no reason to trust it"
    return None


def source_file(name: str) -> Path | None:
    """The file that a custom model would be imported from, found without running it; None if it is not found."""
    module_name = name.rpartition(":")[0]
    if module_name.endswith(".py"):
        return on_disk(module_name) if on_disk(module_name).is_file() else None
    top, _, rest = module_name.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # an empty name, or "__main__"
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.has_location else None  # "sys" has an origin but no file
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    tails = (Path(*rest.split(".")).with_suffix(".py"), Path(*rest.split(".")) / "__init__.py")
    return next((root / tail for root in roots for tail in tails if (root / tail).is_file()), None)


def _sha256(source: Path) -> str | None:
    """SHA-256 of a file's content; None if it cannot be read."""
    try:
        return hashlib.sha256(read_regular(source)).hexdigest()
    except OSError:
        return None


def _code(name: str, source: Path, sha256: str | None) -> ModelCode:
    """The code below the folder of a model, of which everything may run, or what ran before with this SHA-256.

    Raises:
        ModelError: the user never ran it.
    """
    approved = None if sha256 is None else trust.approved(source, sha256)
    if sha256 is not None and approved is None:
        raise ModelError(f"the code of {name} was not run by you before", remedy=_name_it(name))
    module_name = name.rpartition(":")[0]
    levels = 0 if module_name.endswith(".py") else module_name.count(".") + (source.name == "__init__.py")
    return ModelCode.of(source, depth=max(0, levels - 1), approved=approved)


def _name_it(name: str) -> str:
    return f"If you trust it, name it: --model {name}"


def _import_module(name: str) -> ModuleType:
    if name.endswith(".py"):
        raise ModelError(f"{name}: no such file", remedy="Name the model as file.py:Class, from where you run bncli.")
    try:
        return importlib.import_module(name)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"cannot import {name}: {type(error).__name__}: {error}",
            remedy="Install the package, or name a file as file.py:Class.",
        ) from error
