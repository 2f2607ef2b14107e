"""The user's own linen module, named as ``package.module:Class`` or ``file.py:Class``.

Building it imports, and so runs, the named code, and remembers that it ran (see ``trust``). Code that a checkpoint
names must pass ``untrusted`` first.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import flax.linen as nn

from bncli.config.file_names import on_disk
from bncli.config.json_types import JSON
from bncli.errors import ModelError
from bncli.models import trust
from bncli.models.layers import Dtype


def is_custom(name: str) -> bool:
    """True if the model name points to the user's code."""
    return ":" in name


def build_custom(
    name: str, args: Mapping[str, JSON], *, num_classes: int | None = None, dtype: Dtype | None = None
) -> nn.Module:
    """The user's module, built with ``args``, and with ``num_classes`` and ``dtype`` if it has such fields.

    Raises:
        ModelError: the file, the class or an argument does not exist, or the code fails.
    """
    cls = load_class(name)
    if source := source_file(name):
        trust.remember(source)
    fields = inspect.signature(cls).parameters
    defaults = {"num_classes": num_classes, "dtype": dtype}
    known = {key: value for key, value in defaults.items() if key in fields and value is not None}
    arguments = known | hashable(args)
    unknown = sorted(set(arguments) - set(fields))
    if unknown:
        raise ModelError(
            f"--model-arg {unknown[0]}: {name} has no such argument",
            remedy=f"It takes {', '.join(key for key in fields if key not in ('parent', 'name')) or 'none'}.",
        )
    try:
        return cls(**arguments)
    except Exception as error:
        raise ModelError(
            f"{name} cannot be built with {arguments}: {error}", remedy="Pass its arguments with --model-arg key=value."
        ) from error


def hashable(args: Mapping[str, JSON]) -> dict[str, JSON]:
    """The arguments with JSON lists as tuples, because a linen module must be hashable."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}


def load_class(name: str) -> type[nn.Module]:
    """The class that ``name`` points to."""
    module_name, _, class_name = name.rpartition(":")
    module = _import_file(on_disk(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        modules = [
            key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)
        ]
        raise ModelError(
            f"{name}: {class_name!r} is not a linen module of {module_name}",
            remedy=f"It has {', '.join(modules) or 'no subclass of flax.linen.Module'}.",
        )
    return cls


def model_file_sha256(name: str) -> str | None:
    """SHA-256 of the source file behind a custom model; None for a built-in one."""
    source = source_file(name) if is_custom(name) else None
    return hashlib.sha256(source.read_bytes()).hexdigest() if source else None


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
    if model_file_sha256(name) != sha256 or (is_custom(name) and source is None):
        return f"the code of {name} is missing or has changed since training"
    if source is not None and not trust.is_remembered(source):
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


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"{path}: no such file", remedy="Name the model as file.py:Class, from where you run bncli.")
    # The name differs for two files called model.py, and for one file before and after a change. Dataclasses look up
    # their module by it.
    place_and_content = str(path.resolve()).encode(errors="surrogateescape") + b"\0" + path.read_bytes()
    name = f"bncli_model_{hashlib.sha256(place_and_content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelError(f"{path}: {type(error).__name__}: {error}", remedy="Fix the file and run again.") from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ModelError(
            f"cannot import {name}: {type(error).__name__}: {error}",
            remedy="Install the package, or name a file as file.py:Class.",
        ) from error
