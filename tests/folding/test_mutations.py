"""The table of `scripts/mutation_check` fits the code and the tests it names."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def table():
    loader = SourceFileLoader("mutation_check", str(ROOT / "scripts" / "mutation_check"))
    module = module_from_spec(spec_from_loader("mutation_check", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "mutation_check", module)
        patch.setattr("sys.dont_write_bytecode", True)
        loader.exec_module(module)
    return module


MODULE = table()


@pytest.mark.parametrize("mutation", MODULE.MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutation_changes_one_place_and_names_a_test_that_exists(mutation):
    text = (ROOT / "bncli" / "folding" / mutation.file).read_text(encoding="utf-8")
    assert MODULE.mutated(text, mutation) != text
    file, _, name = mutation.target.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / "folding" / file).read_text(encoding="utf-8")


def test_every_mutation_has_a_name_of_its_own():
    names = [mutation.name for mutation in MODULE.MUTATIONS]
    assert len(set(names)) == len(names)


def test_every_file_of_primitives_is_broken_somewhere():
    files = {f"primitives/{path.name}" for path in (ROOT / "bncli" / "folding" / "primitives").glob("*.py")}
    assert files - {mutation.file for mutation in MODULE.MUTATIONS} == {"primitives/__init__.py", "primitives/rule.py"}
