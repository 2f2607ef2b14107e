"""Docstrings read as `CONTRIBUTING.md` asks, and types say what a value is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Scripts without a suffix are Python where their first line says so.
SCRIPTS = [
    path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.read_bytes()[:64].find(b"python") > 0
]
PACKAGE = sorted((ROOT / "bncli").rglob("*.py"))
READ = sorted({*PACKAGE, *SCRIPTS, *(ROOT / "scripts").glob("*.py"), *(ROOT / "tests" / "support").glob("*.py")})
# A docstring says what a thing returns or does; these words begin an indirect question instead.
QUESTIONS = ("What", "Whether", "How", "Where")
# Values of untyped libraries have no better type; everywhere else `Any` switches the type checker off.
UNTYPED_DOORS = (
    "checkpoint/onnx_file.py",
    "checkpoint/orbax_io.py",
    "checkpoint/orbax_layout.py",
    "folding/export/onnx/",
    "inspection/readers/hdf5.py",
    "inspection/readers/onnx_model.py",
)
MOST_ANY = 59


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "lineno", 1), text


def question_openings(source: str) -> list[int]:
    """Lines of the definitions whose docstring opens with an indirect question."""
    return [line for line, text in docstrings(source) if text.split(maxsplit=1)[:1] and text.split()[0] in QUESTIONS]


def uses_of_any(source: str) -> list[int]:
    """Lines that use ``Any`` as a type, once per use; importing it is no use."""
    nodes = ast.walk(ast.parse(source))
    return [
        node.lineno
        for node in nodes
        if (isinstance(node, ast.Name) and node.id == "Any") or (isinstance(node, ast.Attribute) and node.attr == "Any")
    ]


def is_untyped_door(path: Path) -> bool:
    return path.relative_to(ROOT / "bncli").as_posix().startswith(UNTYPED_DOORS)


def test_docstrings_do_not_open_with_a_question():
    found = [f"{path.relative_to(ROOT)}:{line}" for path in READ for line in question_openings(path.read_text())]
    assert found == []


def test_any_is_rare_outside_the_doors_to_untyped_libraries():
    typed = [path for path in PACKAGE if not is_untyped_door(path)]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in typed for line in uses_of_any(path.read_text())]
    assert len(found) <= MOST_ANY, found


def test_each_door_to_an_untyped_library_exists():
    for door in UNTYPED_DOORS:
        assert (ROOT / "bncli" / door).exists(), door


def test_scripts_without_a_suffix_are_read_too():
    assert {"mutation_check", "record_docs"} <= {path.name for path in READ}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('"""Whether it is so."""', [1]),
        ('x = 1\n\n\ndef f():\n    """What f does."""', [4]),
        ('class A:\n    """Rows by name."""\n\n    def f(self):\n        """\n        How it goes."""', [4]),
        ('"""Whatever is left."""\n\n\nasync def f():\n    """Wherever."""', []),
        ("def f():\n    pass", []),
    ],
)
def test_a_planted_question_is_seen(source, lines):
    assert question_openings(source) == lines


def test_each_planted_any_is_counted_once():
    source = (
        "import typing\nfrom typing import Any\n\nx: dict[Any, Any] = {}\n\n\ndef f(y: typing.Any) -> 'Many': ...\n"
    )
    assert uses_of_any(source) == [4, 4, 7]
