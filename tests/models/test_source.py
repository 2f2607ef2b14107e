"""Only the bytes that were hashed run: no bytecode that lies beside them, and no neighbour that has changed since."""

import _imp
import hashlib
import importlib.util
import marshal
import sys
from pathlib import Path

import pytest

from bncli.errors import ModelError
from bncli.models.custom import load_target, model_file_sha256

NET = """
import flax.linen as nn

class Net(nn.Module):
    origin = "source"
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A cache and loaded modules of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("zoo_of_source", "helper_of_source"):
            del sys.modules[name]


def forget():
    """Unload the modules, as in another process."""
    for name in list(sys.modules):
        if name.startswith(("bncli_model_", "zoo_of_source", "helper_of_source")):
            del sys.modules[name]


def plant_bytecode(path, text):
    """Bytecode of other source that Python takes for that of ``path`` without a look at it."""
    code = compile(text, str(path), "exec")
    data = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")
    content = path.read_bytes()
    data += _imp.source_hash(int.from_bytes(importlib.util.MAGIC_NUMBER[:2], "little"), content) + marshal.dumps(code)
    cached = Path(importlib.util.cache_from_source(str(path)))
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(data)


def write_package(tmp_path, monkeypatch):
    """A package whose model imports a neighbour."""
    package = tmp_path / "zoo_of_source"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("ORIGIN = 'source'\n")
    (package / "net.py").write_text(f"from .parts import ORIGIN\n{NET}    origin = ORIGIN\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package


def test_bytecode_planted_beside_a_file_does_not_run(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    plant_bytecode(path, NET.replace('"source"', '"bytecode"'))
    spec = importlib.util.spec_from_file_location("net_as_python_loads_it", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.Net.origin == "bytecode"  # so it does run otherwise
    assert load_target(f"{path}:Net").origin == "source"


def test_bytecode_planted_in_a_package_does_not_run(tmp_path, monkeypatch):
    package = write_package(tmp_path, monkeypatch)
    plant_bytecode(package / "net.py", NET.replace('"source"', '"bytecode"'))
    plant_bytecode(package / "parts.py", "ORIGIN = 'bytecode'\n")
    assert load_target("zoo_of_source.net:Net").origin == "source"


def test_only_the_bytes_of_this_hash_run(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    sha256 = model_file_sha256(f"{path}:Net")
    with pytest.raises(ModelError, match="was not run by you before"):
        load_target(f"{path}:Net", sha256=sha256)
    load_target(f"{path}:Net")
    forget()
    assert load_target(f"{path}:Net", sha256=sha256).origin == "source"
    path.write_text(NET.replace('"source"', '"changed"'))
    with pytest.raises(ModelError, match="is new or has changed since you ran it"):
        load_target(f"{path}:Net", sha256=sha256)
    assert load_target(f"{path}:Net").origin == "changed"


@pytest.mark.parametrize("place", ["in the package", "beside the file"])
def test_a_neighbour_that_has_changed_does_not_run(tmp_path, monkeypatch, place):
    if place == "in the package":
        neighbour = write_package(tmp_path, monkeypatch) / "parts.py"
        name = "zoo_of_source.net:Net"
    else:
        neighbour = tmp_path / "helper_of_source.py"
        neighbour.write_text("ORIGIN = 'source'\n")
        (tmp_path / "net.py").write_text(f"from helper_of_source import ORIGIN\n{NET}")
        monkeypatch.syspath_prepend(tmp_path)
        name = f"{tmp_path}/net.py:Net"
    sha256 = model_file_sha256(name)
    load_target(name)
    forget()
    assert load_target(name, sha256=sha256).origin == "source"
    forget()
    trap = tmp_path / "was_run"
    neighbour.write_text(f"open({str(trap)!r}, 'w').close()\nORIGIN = 'changed'\n")
    with pytest.raises(
        ModelError, match=rf"{neighbour.name}, which the model imports, is new or has changed"
    ) as caught:
        load_target(name, sha256=sha256)
    assert caught.value.remedy == f"If you trust it, name it: --model {name}"
    assert not trap.exists()
    forget()
    load_target(name)
    forget()
    load_target(name, sha256=sha256)  # the user has chosen it


def test_a_neighbour_that_ran_before_is_approved_with_the_model(tmp_path, monkeypatch):
    write_package(tmp_path, monkeypatch)
    importlib.import_module("zoo_of_source.parts")
    sha256 = model_file_sha256("zoo_of_source.net:Net")
    load_target("zoo_of_source.net:Net")
    forget()
    load_target("zoo_of_source.net:Net", sha256=sha256)


def test_a_compiled_neighbour_is_refused_unless_the_model_is_named(tmp_path, monkeypatch):
    package = write_package(tmp_path, monkeypatch)
    name = "zoo_of_source.net:Net"
    sha256 = model_file_sha256(name)
    load_target(name)
    forget()
    code = compile("ORIGIN = 'compiled'\n", "parts.py", "exec")
    (package / "parts.py").unlink()
    (package / "parts.pyc").write_bytes(importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match=r"parts.pyc, which the model imports, is compiled and cannot be checked"):
        load_target(name, sha256=sha256)
    forget()
    assert load_target(name).origin == "compiled"


def test_installed_packages_are_no_neighbours(tmp_path, monkeypatch):
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "helper_of_source.py").write_text("ORIGIN = 'source'\n")
    monkeypatch.syspath_prepend(installed)
    (tmp_path / "net.py").write_text(f"from helper_of_source import ORIGIN\n{NET}")
    name = f"{tmp_path}/net.py:Net"
    load_target(name)
    forget()
    (installed / "helper_of_source.py").write_text("ORIGIN = 'upgraded'\n")
    load_target(name, sha256=hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest())
