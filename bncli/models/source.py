"""Model code that runs from the very bytes that were hashed.

Python itself would hash nothing: it prefers the bytecode in ``__pycache__`` beside a file, whoever put it there, and
opens the file again. Here each file of the user's code (the model's own, and its neighbours that it imports) is read
once, hashed, compared with what is approved, compiled and executed.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import TypeAlias

from bncli.config.file_names import displayed
from bncli.errors import ModelError
from bncli.process.files import read_regular

Hashes: TypeAlias = Mapping[Path, str]  # resolved path -> SHA-256 of its content

# Below a model's folder, these hold installed packages, which are the user's choice like JAX itself.
_INSTALLED = ("site-packages", "dist-packages")
_NEVER_OURS = (Path(__file__).resolve().parents[1], Path(sysconfig.get_path("stdlib")).resolve())


@dataclass
class ModelCode(MetaPathFinder):
    """The user's code below one folder: finds it, and admits it only as approved.

    Attributes:
        root: the folder of the model's file, or of its top-level package; an installed file is its own root.
        approved: the files that may run; None if the user has named the model, which approves all of its files.
        ran: the files that ran, except for the model's own if another import had run it before.
        unhashed: the compiled files among them, whose loading cannot be tied to their bytes.
    """

    root: Path
    approved: Hashes | None
    ran: dict[Path, str] = field(default_factory=dict)
    unhashed: set[Path] = field(default_factory=set)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The place of a module below the root, to be loaded from its source; None for any other module."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or not self._is_ours(Path(spec.origin)):
            return None
        if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = SourceLoader(fullname, Path(spec.origin), self)
        else:
            self._admit_unhashed(Path(spec.origin))
        return spec

    def admit(self, path: Path, content: bytes) -> None:
        """Record that a file runs.

        Raises:
            ModelError: it is not approved.
        """
        place, sha256 = path.resolve(), hashlib.sha256(content).hexdigest()
        if self.approved is not None and self.approved.get(place) != sha256:
            raise ModelError(f"{path}, which the model imports, is new or has changed since you ran it")
        self.ran[place] = sha256

    @classmethod
    def of(cls, source: Path, *, depth: int, approved: Hashes | None) -> ModelCode:
        """The code of a model.

        Args:
            source: the model's file.
            depth: folders between it and the folder of its top-level package.
            approved: as above.
        """
        place = source.resolve()
        is_installed = depth == 0 and place.name != "__init__.py" and set(_INSTALLED) & set(place.parts)
        return cls(place if is_installed else place.parents[depth], approved)

    def neighbours(self, source: Path) -> dict[Path, str]:
        """The files that ran with ``source``; also those that another import had run before."""
        loaded = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
        before = {path.resolve() for path in loaded if path.suffix == ".py" and self._is_ours(path)}
        found = {path: self.ran.get(path) or _sha256(path) for path in before | self.ran.keys()}
        return {path: sha256 for path, sha256 in found.items() if path != source.resolve()}

    def _is_ours(self, path: Path) -> bool:
        place = path.resolve()
        if not place.is_relative_to(self.root) or any(place.is_relative_to(folder) for folder in _NEVER_OURS):
            return False
        return not set(_INSTALLED) & set(place.relative_to(self.root).parts)

    def _admit_unhashed(self, path: Path) -> None:
        if self.approved is not None:
            raise ModelError(f"{path}, which the model imports, is compiled and cannot be checked")
        self.unhashed.add(path.resolve())


class SourceLoader(importlib.machinery.SourceFileLoader):
    """Loads a module from its source, never from bytecode.

    Args:
        fullname: of the module.
        path: its file.
        code: admits the file.
        content: the file's bytes, if they have been read.
    """

    def __init__(self, fullname: str, path: Path, code: ModelCode, *, content: bytes | None = None) -> None:
        super().__init__(fullname, str(path))
        self._code = code
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        """The code of the module, compiled from bytes that are read once."""
        content = read_regular(Path(self.path)) if self._content is None else self._content
        self._code.admit(Path(self.path), content)
        return compile(content, displayed(self.path), "exec", dont_inherit=True)  # JAX takes no other name


@contextmanager
def importing(code: ModelCode) -> Iterator[None]:
    """Inside, imports of files below the root run as ``code`` admits them."""
    sys.meta_path.insert(0, code)
    try:
        yield
    finally:
        sys.meta_path.remove(code)


def run_file(path: Path, code: ModelCode) -> ModuleType:
    """The module of a file; one that ran in this process from the same place with the same content is not run again.

    Its name differs for two files called model.py, and for one file before and after a change. Dataclasses look up
    their module by it.
    """
    content = read_regular(path)
    place_and_content = os.fsencode(path.resolve()) + b"\0" + content
    name = f"bncli_model_{hashlib.sha256(place_and_content).hexdigest()[:12]}"
    if name in sys.modules:
        code.admit(path, content)
        return sys.modules[name]
    loader = SourceLoader(name, path, code, content=content)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(read_regular(path)).hexdigest()
    except OSError:
        return ""  # it has gone, and so is never approved
