"""The table of `scripts/mutation_check` fits the code and the tests it names."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MUTATIONS = tomllib.loads((ROOT / "scripts" / "mutations.toml").read_text(encoding="utf-8"))["mutation"]
WITHOUT_RULES = {"__init__.py", "calls.py", "stuck.py"}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation["name"])
def test_each_mutation_changes_one_place_and_names_a_test_that_exists(mutation):
    text = (ROOT / "bncli" / mutation["file"]).read_text(encoding="utf-8")
    assert text.count(mutation["old"]) == 1
    assert mutation["new"] != mutation["old"]
    file, _, name = mutation["target"].partition("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_every_mutation_has_a_name_of_its_own():
    names = [mutation["name"] for mutation in MUTATIONS]
    assert len(set(names)) == len(names)


def test_every_file_of_primitives_is_broken_somewhere():
    files = {path.name for path in (ROOT / "bncli" / "folding" / "primitives").glob("*.py")}
    broken = {Path(mutation["file"]).name for mutation in MUTATIONS if "/primitives/" in mutation["file"]}
    assert files - broken == WITHOUT_RULES


def test_every_room_that_computes_is_broken_somewhere():
    broken = {mutation["file"].split("/")[0] for mutation in MUTATIONS}
    rooms = {"checkpoint", "cli", "data", "folding", "frameworks", "inspection", "jobs", "measure", "models", "ops"}
    assert broken >= rooms | {"process", "training"}
